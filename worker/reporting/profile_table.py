"""Profile a table with polars: one column in memory at a time, the rest streamed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from worker.reporting.associations import MOST_COLUMNS, correlate, picture_missing
from worker.reporting.column_types import NUMERIC, TEMPORAL, Kind
from worker.reporting.csv_structure import BadTable
from worker.reporting.distributions import histogram, quantiles, time_line
from worker.reporting.notes import worth_noticing
from worker.reporting.profile import ColumnProfile, Count, Lengths, NumberStats, Profile, Span, TopValue
from worker.reporting.table_file import Field, TableFile, open_table
from worker.reporting.text import plural, visible

EXACT_ROWS = 20_000_000
"""Up to here every figure is exact; beyond, those that need all values of a column at once come from a sample."""
SAMPLE_ROWS = 5_000_000
TOP_VALUES = 10
CHARTED_COLUMNS = 100
"""Columns beyond these have statistics, but no chart and no card of their own."""
COLUMNS_PER_PASS = 50
_CATEGORY_VALUES = 1000
_FEW_VALUES = 30
_FEW_ROWS = 10
Progress = Callable[[float, str], None]


def profile_table(
    path: Path,
    *,
    name: str,
    title: str,
    scratch: Path,
    progress: Progress,
    file_format: str | None = None,
    delimiter: str | None = None,
) -> Profile:
    """Describe the CSV or Parquet file. Raises BadTable where it is not one; `progress` is told 0 to 1 and a word.

    Up to 20 million rows all figures are exact. Beyond that quantiles, top values and charts come from 5 million rows
    spread over the file, and distinct values and duplicates are estimates; both are marked in the result.
    """
    table = open_table(
        path,
        scratch=scratch,
        file_format=file_format,
        delimiter=delimiter,
        progress=lambda part, word: progress(0.5 * part, word),
    )
    try:
        return _profile(table, name, title, progress)
    except pl.exceptions.PolarsError as error:
        # The checks passed, so this is a Parquet file whose pages do not hold what its index says.
        raise BadTable(f"The {table.format} file is damaged: {visible(error, 300)}") from None


def _profile(table: TableFile, name: str, title: str, progress: Progress) -> Profile:
    exact = table.rows <= EXACT_ROWS
    figures = _streamed_figures(table, progress)
    frame = table.frame if exact else _sampled(table.frame, table.rows)
    profiles = []
    for index, field in enumerate(table.fields):
        progress(0.6 + 0.25 * index / len(table.fields), f"Column {index + 1:,} of {len(table.fields):,}: {field.name}")
        profiles.append(
            _profile_column(frame, field, table.rows, figures, exact=exact, charted=index < CHARTED_COLUMNS)
        )
    progress(0.86, "Looking for equal rows")
    keys = [field.key for field in table.fields]
    profile = Profile(
        title=title,
        file_name=name,
        file_format=table.format,
        file_size=table.size,
        rows=table.rows,
        columns=table.columns,
        profiles=profiles,
        duplicates=_duplicates(table.frame, keys, table.rows, exact=exact),
        memory_bytes=sum(int(figures[f"{key}:bytes"] or 0) for key in keys),
        preview=table.preview,
        details=table.details,
    )
    progress(0.9, "Comparing columns")
    numeric = [
        (field, column)
        for field, column in zip(table.fields, profiles, strict=True)
        if field.kind in NUMERIC and column.distinct.value > 1
    ]
    profile.correlations = correlate(table.frame, [(field.key, column) for field, column in numeric], table.rows)
    profile.missing_picture = picture_missing(table.frame, table.fields, profiles, table.rows)
    profile.left_out = _left_out(table, len(numeric), exact=exact)
    profile.notes = worth_noticing(profile)
    progress(1.0, "Profiled")
    return profile


def _streamed_figures(table: TableFile, progress: Progress) -> dict[str, Any]:
    """Exact figures of every column, by `key:figure`, in a few passes that keep nothing in memory."""
    figures: dict[str, Any] = {}
    for start in range(0, len(table.fields), COLUMNS_PER_PASS):
        progress(0.5 + 0.1 * start / len(table.fields), f"Measuring columns {start + 1:,} and on")
        expressions = [
            expression.alias(f"{field.key}:{figure}")
            for field in table.fields[start : start + COLUMNS_PER_PASS]
            for figure, expression in _figures(field).items()
        ]
        figures |= table.frame.select(expressions).collect(engine="streaming").row(0, named=True)
    return figures


def _figures(field: Field) -> dict[str, pl.Expr]:
    column = pl.col(field.key)
    figures = {"missing": column.null_count()}
    if field.kind in NUMERIC:
        real = column.cast(pl.Float64)
        finite = pl.when(real.is_finite()).then(real)
        figures |= {
            "min": pl.when(real.is_finite()).then(column).min(),
            "max": pl.when(real.is_finite()).then(column).max(),
            "mean": finite.mean(),
            "std": finite.std(),
            "zeros": (real == 0).sum(),
            "negative": (real < 0).sum(),
            "infinite": real.is_infinite().sum(),
            "bytes": pl.len().cast(pl.Int64) * 8,
        }
    elif field.kind in TEMPORAL:
        figures |= {"min": column.min(), "max": column.max(), "bytes": pl.len().cast(pl.Int64) * 8}
    elif field.kind is Kind.TEXT:
        length = column.str.len_chars()
        figures |= {
            "min": length.min(),
            "mean": length.mean(),
            "max": length.max(),
            "bytes": column.str.len_bytes().cast(pl.Int64).sum() + pl.len().cast(pl.Int64) * 16,
        }
    else:
        figures["bytes"] = (pl.len().cast(pl.Int64) + 7) // 8
    return figures


def _sampled(frame: pl.LazyFrame, rows: int) -> pl.LazyFrame:
    """About SAMPLE_ROWS rows, spread evenly and the same ones each time."""
    step = -(-rows // SAMPLE_ROWS)
    return frame.with_row_index("row").filter(pl.col("row").hash(seed=11) % step == 0).drop("row")


def _profile_column(
    frame: pl.LazyFrame, field: Field, rows: int, figures: dict[str, Any], *, exact: bool, charted: bool
) -> ColumnProfile:
    profile = ColumnProfile(
        name=field.name,
        kind=field.kind,
        rows=rows,
        missing=int(figures[f"{field.key}:missing"]),
        reading=field.reading,
        ambiguous_dates=field.ambiguous,
    )
    if profile.present == 0:
        profile.kind = Kind.EMPTY
        return profile
    if field.kind is Kind.OTHER:
        return profile
    if field.kind is Kind.TEXT:
        _describe_text(profile, frame, field, figures, exact=exact)
        return profile
    values = frame.select(field.key).collect(engine="streaming").to_series().drop_nulls()
    profile.distinct = _distinct(values, profile.present, exact=exact)
    if field.kind is Kind.BOOLEAN:
        counts = values.alias("value").value_counts(name="rows").sort(["rows", "value"], descending=True)
        profile.top = [TopValue("true" if value else "false", number) for value, number in counts.iter_rows()]
        profile.top_exact = exact
    elif field.kind in TEMPORAL:
        profile.span = Span(figures[f"{field.key}:min"], figures[f"{field.key}:max"])
        profile.time_line = time_line(values) if charted else None
    else:
        _describe_numbers(profile, values, figures, field.key, exact=exact, charted=charted)
    return profile


def _distinct(values: pl.Series, present: int, *, exact: bool) -> Count:
    """Distinct values; of a sample, its number scaled up while most values in it are met only once."""
    found = values.n_unique()
    if exact or found < len(values) / 10:
        return Count(found, exact)
    return Count(min(present, round(found * present / max(1, len(values)))), exact=False)


def _all_different(profile: ColumnProfile) -> bool:
    """In every row another value, and enough rows for that to mean something."""
    return profile.rows >= _FEW_ROWS and profile.missing == 0 and profile.distinct == Count(profile.rows)


def _describe_numbers(
    profile: ColumnProfile, values: pl.Series, figures: dict[str, Any], key: str, *, exact: bool, charted: bool
) -> None:
    finite = values.cast(pl.Float64)
    finite = finite.filter(finite.is_finite()).sort()
    whole = profile.kind is Kind.INTEGER
    profile.identifier = whole and _all_different(profile)
    if len(finite) == 0:
        return
    points = quantiles(finite)
    spread = points["p75"] - points["p25"]
    low, high = points["p25"] - 3 * spread, points["p75"] + 3 * spread
    outliers = int(((finite < low) | (finite > high)).sum()) if spread > 0 else 0
    profile.numbers = NumberStats(
        minimum=figures[f"{key}:min"],
        maximum=figures[f"{key}:max"],
        mean=figures[f"{key}:mean"],
        std=figures[f"{key}:std"],
        quantiles=points,
        skewness=finite.skew(),
        zeros=int(figures[f"{key}:zeros"]),
        negative=int(figures[f"{key}:negative"]),
        infinite=int(figures[f"{key}:infinite"]),
        outliers=outliers,
        exact=exact,
    )
    if charted:
        profile.histogram = histogram(finite, whole_numbers=whole)


def _describe_text(
    profile: ColumnProfile, frame: pl.LazyFrame, field: Field, figures: dict[str, Any], *, exact: bool
) -> None:
    """Count texts by their 64-bit hashes, so that memory grows with the rows and not with what stands in them."""
    column = pl.col(field.key)
    hashed = column.hash(seed=7).alias("hash")
    hashes = frame.filter(column.is_not_null()).select(hashed).collect(engine="streaming").to_series()
    profile.distinct = _distinct(hashes, profile.present, exact=exact)
    profile.lengths = Lengths(
        int(figures[f"{field.key}:min"]), float(figures[f"{field.key}:mean"]), int(figures[f"{field.key}:max"])
    )
    distinct = profile.distinct.value
    profile.identifier = _all_different(profile)
    if (
        distinct <= max(_FEW_VALUES, profile.present / 100)
        and distinct <= _CATEGORY_VALUES
        and (distinct <= profile.present / 2)
    ):
        profile.kind = Kind.CATEGORY
    if distinct == profile.present and distinct > TOP_VALUES:
        return
    counts = hashes.value_counts(name="rows").sort(["rows", "hash"], descending=[True, False]).head(TOP_VALUES)
    texts = (
        frame.select(hashed, column.str.slice(0, 200).alias("text"))
        .filter(pl.col("hash").is_in(counts["hash"].to_list()))
        .group_by("hash")
        .agg(pl.col("text").min())
        .collect(engine="streaming")
    )
    top = counts.join(texts, on="hash", how="left").sort(["rows", "text"], descending=[True, False])
    profile.top = [TopValue(visible(text, 80), number) for number, text in top.select("rows", "text").iter_rows()]
    profile.top_exact = exact


def _duplicates(frame: pl.LazyFrame, keys: list[str], rows: int, *, exact: bool) -> Count:
    """Rows that repeat an earlier one, by 64-bit fingerprints of whole rows."""
    prints = frame.select(pl.struct(keys).hash(seed=3).alias("print"))
    if exact:
        return Count(rows - prints.collect(engine="streaming").to_series().n_unique())
    found = int(prints.select(pl.col("print").approx_n_unique()).collect(engine="streaming").item())
    # The estimate is good to about two per cent: less than that is no sign of duplicates.
    return Count(max(0, rows - found) if rows - found > rows / 20 else 0, exact=False)


def _left_out(table: TableFile, numeric: int, *, exact: bool) -> list[str]:
    left_out = []
    shown = len(table.fields)
    if table.columns > shown:
        left_out.append(
            f"The first {shown:,} of {plural(table.columns, 'column')} are profiled; "
            f"{plural(table.columns - shown, 'column is', 'columns are')} left out, also when rows are compared."
        )
    if shown > CHARTED_COLUMNS:
        left_out.append(
            f"The first {CHARTED_COLUMNS} columns have charts; the other {shown - CHARTED_COLUMNS:,} have their "
            "figures in the table of columns and in the JSON result."
        )
    if not exact:
        left_out.append(
            f"The table has more than {EXACT_ROWS:,} rows: quantiles, top values, outliers and charts come from about "
            f"{SAMPLE_ROWS:,} rows spread over the file, and counts marked ≈ are estimates. Rows, missing values, "
            "minimum, maximum, mean and standard deviation are exact."
        )
    if numeric > MOST_COLUMNS:
        left_out.append(f"Correlations are of the first {MOST_COLUMNS} of {numeric:,} numeric columns.")
    return left_out
