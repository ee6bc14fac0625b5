"""What columns have to do with one another: correlations, and where values are missing together."""

import math

import numpy as np
import polars as pl

from worker.reporting.profile import ColumnProfile, Correlations, MissingPicture, Pair
from worker.reporting.table_file import Field

MOST_COLUMNS = 40
"""Numeric columns whose correlations are worked out, and columns in the picture of missing values."""
SLICE_ROWS = 1 << 18
BANDS = 40
_FEWEST_ROWS = 3


def correlate(frame: pl.LazyFrame, columns: list[tuple[str, ColumnProfile]], rows: int) -> Correlations | None:
    """Pearson's r of each pair over all rows that have both; None with fewer than two columns.

    One walk over the rows in slices: with x centred and zero where missing, and m the mask of what is there, the sums
    that r needs are the products x'x, x'm and (x^2)'m.
    """
    measured = [(key, column.name, column.numbers) for key, column in columns if column.numbers is not None]
    measured = measured[:MOST_COLUMNS]
    if len(measured) < 2:  # noqa: PLR2004 - a pair
        return None
    keys = [key for key, _, _ in measured]
    centre = np.array([numbers.mean for _, _, numbers in measured])
    # Scaled as well, so that squares of huge values stay finite.
    scale = np.array([numbers.std or 1.0 for _, _, numbers in measured])
    n, sums, squares, products = (np.zeros((len(keys), len(keys))) for _ in range(4))
    for start in range(0, rows, SLICE_ROWS):
        block = frame.select([pl.col(key).cast(pl.Float64) for key in keys]).slice(start, SLICE_ROWS).collect()
        values = (block.to_numpy() - centre) / scale
        mask = np.isfinite(values)
        values = np.where(mask, values, 0.0)
        mask = mask.astype(np.float64)
        n += mask.T @ mask
        sums += values.T @ mask
        squares += (values**2).T @ mask
        products += values.T @ values
    with np.errstate(all="ignore"):
        covariance = products - sums * sums.T / n
        variance = squares - sums**2 / n
        r = covariance / np.sqrt(variance * variance.T)
    usable = np.isfinite(r) & (n >= _FEWEST_ROWS) & (variance > 1e-12 * n) & (1e-12 * n < variance.T)
    matrix = [
        [float(np.clip(r[i, j], -1, 1)) if usable[i, j] else None for j in range(len(keys))] for i in range(len(keys))
    ]
    names = [name for _, name, _ in measured]
    pairs = [
        Pair(names[i], names[j], value, int(n[i, j]))
        for i in range(len(keys))
        for j in range(i + 1, len(keys))
        if (value := matrix[i][j]) is not None
    ]
    return Correlations(names, matrix, sorted(pairs, key=lambda pair: -abs(pair.r)))


def picture_missing(
    frame: pl.LazyFrame, fields: list[Field], profiles: list[ColumnProfile], rows: int
) -> MissingPicture | None:
    """Where in the file values are missing, for the columns that miss most; None where nothing is."""
    lacking = [(field, profile) for field, profile in zip(fields, profiles, strict=True) if profile.missing > 0]
    if not lacking:
        return None
    most = sorted(lacking, key=lambda item: -item[1].missing)[:MOST_COLUMNS]
    shown = [item for item in lacking if item in most]
    bands = min(BANDS, rows)
    shares = (
        frame.select(field.key for field, _ in shown)
        .with_row_index("row")
        .group_by((pl.col("row").cast(pl.Int64) * bands // rows).alias("band"))
        .agg([pl.col(field.key).is_null().mean() for field, _ in shown])
        .sort("band")
        .collect(engine="streaming")
    )
    return MissingPicture(
        names=[profile.name for _, profile in shown],
        bands=[[0.0 if math.isnan(value) else value for value in shares[field.key].to_list()] for field, _ in shown],
        rows_per_band=rows / bands,
    )
