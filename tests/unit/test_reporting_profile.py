"""What a profile says about small tables whose truth is known."""

import io
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from worker.reporting import profile_table as module
from worker.reporting.profile import ColumnProfile, Count, Profile
from worker.reporting.profile_table import profile_table

Profiler = Callable[..., Profile]


@pytest.fixture
def profiled(tmp_path: Path) -> Profiler:
    def run(content: str | pl.DataFrame, **options: Any) -> Profile:
        path, scratch = tmp_path / "upload", tmp_path / "scratch"
        scratch.mkdir()
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        else:
            target = io.BytesIO()
            content.write_parquet(target)
            path.write_bytes(target.getvalue())
        return profile_table(path, name="t", title="t", scratch=scratch, progress=lambda _p, _m: None, **options)

    return run


def _only(profile: Profile) -> ColumnProfile:
    (column,) = profile.profiles
    return column


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", " 3 "], "integer"),
        (["1", "2.5", "1e3"], "decimal"),
        (["1,5", "2", "-3,25"], "decimal"),
        (["123456789012345678901234", "1"], "integer"),
        (["01234", "99999"], "text"),
        (["+49123", "+49124"], "text"),
        (["0.5", "0"], "decimal"),
        (["yes", "NO"], "boolean"),
        (["true", "False"], "boolean"),
        (["2024-02-29", "2023-01-01"], "date"),
        (["2024-02-30", "2023-01-01"], "text"),
        (["31.12.2024", "01.02.2023"], "date"),
        (["12/31/2024", "01/02/2023"], "date"),
        (["31/12/2024", "01/02/2023"], "date"),
        (["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.5+02:00"], "datetime"),
        (["2024-01-02 03:04", "2024-01-02 03:05"], "datetime"),
        (["24-01-02", "24-01-03"], "text"),
        (["", "NA", "null"], "empty"),
        (["red", "blue"] * 20, "category"),
        (["é", "日本語", "😀"], "text"),
    ],
)
def test_a_column_gets_the_narrowest_type_that_fits_every_value(
    cells: list[str], kind: str, profiled: Profiler
) -> None:
    rows = "".join(f"{cell}\t{place}\n" for place, cell in enumerate(cells))

    assert profiled(f"value\trow\n{rows}").profiles[0].kind == kind


def test_a_late_value_that_does_not_fit_widens_the_type(profiled: Profiler) -> None:
    rows = "".join(f"{number},{number},{number}\n" for number in range(5000))

    profile = profiled(f"a,b,c\n{rows}x,0.5,1\n")

    assert [column.kind for column in profile.profiles] == ["text", "decimal", "integer"]


def test_statistics_of_numbers_are_exact(profiled: Profiler) -> None:
    values = [3.5, -1.0, 0.0, 7.25, 7.25, 100.0]
    rows = "".join(f"{value},x\n" for value in values)

    numbers = profiled(f"a,b\n{rows},y\n").profiles[0]

    assert (numbers.missing, numbers.distinct, numbers.present) == (1, Count(5), 6)
    stats = numbers.numbers
    assert stats is not None
    assert (stats.minimum, stats.maximum, stats.zeros, stats.negative) == (-1.0, 100.0, 1, 1)
    assert stats.mean == pytest.approx(np.mean(values))
    assert stats.std == pytest.approx(np.std(values, ddof=1))
    for percent in (1, 5, 25, 50, 75, 95, 99):
        assert stats.quantiles[f"p{percent}"] == pytest.approx(np.percentile(values, percent))


def test_huge_integers_keep_every_digit(profiled: Profiler) -> None:
    column = profiled("a,b\n12345678901234567890123,1\n-9,2\n12345678901234567890124,3\n").profiles[0]

    assert column.distinct == Count(3)
    assert column.numbers is not None
    assert column.numbers.maximum == Decimal(12345678901234567890124)


def test_infinite_values_are_counted_and_left_out(profiled: Profiler) -> None:
    profile = profiled("a\n1\ninf\n-inf\n3\n")

    stats = _only(profile).numbers
    assert stats is not None
    assert (stats.infinite, stats.minimum, stats.maximum, stats.mean) == (2, 1.0, 3.0, 2.0)
    assert any("infinite" in note.text for note in profile.notes)


def test_the_ends_of_64_bits_and_of_floats_are_drawn(profiled: Profiler) -> None:
    profile = profiled("a,b\n9223372036854775807,1e308\n-9223372036854775808,-1e308\n0,5\n")

    assert [column.kind for column in profile.profiles] == ["integer", "decimal"]
    assert all(column.histogram is not None for column in profile.profiles)


def test_a_far_value_does_not_flatten_the_histogram(profiled: Profiler) -> None:
    rows = "".join(f"{number % 100 + 0.5}\n" for number in range(2000))

    histogram = _only(profiled(f"a\n{rows}1e9\n")).histogram

    assert histogram is not None
    assert histogram.above == 1
    assert sum(histogram.counts) == 2000
    assert max(histogram.counts) < 200


def test_every_value_is_in_the_histogram_or_counted_beside_it(profiled: Profiler) -> None:
    rows = "".join(f"{number * number}\n" for number in range(1000))

    histogram = _only(profiled(f"a\n{rows}")).histogram

    assert histogram is not None
    assert sum(histogram.counts) + histogram.below + histogram.above == 1000


def test_dates_have_a_time_line_without_gaps(profiled: Profiler) -> None:
    column = _only(profiled("day\n2024-01-30\n2024-02-02\n2024-02-02\n"))

    assert column.span is not None
    assert (column.span.first, column.span.last) == (date(2024, 1, 30), date(2024, 2, 2))
    assert column.time_line is not None
    assert (column.time_line.unit, column.time_line.counts) == ("day", [1, 0, 0, 2])


def test_a_span_of_millennia_has_a_time_line(profiled: Profiler) -> None:
    line = _only(profiled("day\n1001-01-01\n9998-12-31\n")).time_line

    assert line is not None
    assert sum(line.counts) == 2


def test_dates_that_can_be_read_in_two_ways_are_remarked(profiled: Profiler) -> None:
    profile = profiled("day\n01/02/2024\n03/04/2024\n")

    assert any("month/day was taken" in note.text for note in profile.notes)


def test_dates_that_can_be_read_in_one_way_are_not_remarked(profiled: Profiler) -> None:
    assert profiled("at,day\n2024-01-02 03:04:05,13/04/2024\n2024-01-02 03:04:06,14/04/2024\n").notes == []


def test_top_values_are_counted_and_shortened(profiled: Profiler) -> None:
    rows = "".join(f"{word},{place}\n" for place, word in enumerate(["x" * 3000] * 3 + ["b"] * 2 + ["a"] * 2))

    top = profiled(f"a,b\n{rows}").profiles[0].top

    assert [value.count for value in top] == [3, 2, 2]
    assert len(top[0].text) == 80
    assert [value.text for value in top[1:]] == ["a", "b"]


def test_duplicate_rows_are_those_equal_in_every_column(profiled: Profiler) -> None:
    profile = profiled("a,b\n1,x\n1,y\n1,x\n1,x\n,x\n,x\n")

    assert profile.duplicates == Count(3)
    assert profile.notes[0].text.startswith("3 rows repeat an earlier row")


def test_correlations_are_over_the_rows_that_have_both(profiled: Profiler) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=400)
    y = 2 * x + generator.normal(size=400)
    frame = pl.DataFrame({"x": x, "y": y, "z": 1e12 + x, "same": [7.0] * 400})
    frame = frame.with_columns(pl.when(pl.int_range(400) % 3 == 0).then(None).otherwise(pl.col("y")).alias("y"))

    correlations = profiled(frame).correlations

    assert correlations is not None
    assert correlations.names == ["x", "y", "z"]
    there = np.arange(400) % 3 != 0
    assert correlations.matrix[0][1] == pytest.approx(np.corrcoef(x[there], y[there])[0, 1])
    assert correlations.pairs[0].r == pytest.approx(1.0, abs=1e-3)


def test_the_picture_of_missing_values_shows_where_they_are(profiled: Profiler) -> None:
    rows = "".join(f"{number if number >= 500 else ''},1\n" for number in range(1000))

    picture = profiled(f"a,b\n{rows}").missing_picture

    assert picture is not None
    assert picture.names == ["a"]
    assert picture.bands[0] == [1.0] * 20 + [0.0] * 20


def test_constant_empty_and_identifying_columns_are_remarked(profiled: Profiler) -> None:
    rows = "".join(f"id{number},same,,{number}\n" for number in range(20))

    notes = " ".join(note.text for note in profiled(f"key,constant,nothing,n\n{rows}").notes)

    assert "“nothing” has no values at all" in notes
    assert "“constant” has the same value in every row" in notes
    assert "“key”, “n” are different in every row" in notes


def test_wide_tables_are_bounded_and_the_profile_says_so(profiled: Profiler) -> None:
    header = ",".join(f"c{number}" for number in range(3000))
    row = ",".join("1" for _ in range(3000))

    profile = profiled(f"{header}\n{row}\n{row}\n")

    assert (profile.columns, len(profile.profiles)) == (3000, 500)
    assert "The first 500 of 3,000 columns are profiled; 2,500 columns are left out" in profile.left_out[0]
    assert profile.profiles[-1].histogram is None
    assert profile.profiles[-1].numbers is not None


def test_names_may_repeat_be_missing_or_be_hostile(profiled: Profiler) -> None:
    names = [column.name for column in profiled('a,a,,"x\ny","\u202eevil",^.*$\n1,2,3,4,5,6\n').profiles]

    assert names == ["a", "a", "(column 3, unnamed)", "x⏎y", "�evil", "^.*$"]


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("us", "Asia/Tokyo")], ids=str)
def test_times_that_pythons_dates_cannot_hold_are_missing(profiled: Profiler, dtype: Any) -> None:
    per_day = {pl.Date: 1, pl.Datetime("ms"): 86_400_000}.get(dtype, 86_400_000_000)
    first, last = (date(1000, 1, 1) - date(1970, 1, 1)).days, (date(9999, 12, 30) - date(1970, 1, 1)).days
    most = (1 << 31) - 1 if dtype == pl.Date else (1 << 63) - 1
    days = [first - 1, first, 0, last, last + 400]
    values = [-most, *(day * per_day for day in days), most, None]

    column = _only(profiled(pl.DataFrame({"at": pl.Series(values, dtype=pl.Int64).cast(dtype)})))

    assert (column.missing, column.distinct.value) == (5, 3)


def test_parquet_keeps_its_types(profiled: Profiler) -> None:
    frame = pl.DataFrame(
        {
            "i": [1, 2],
            "u": pl.Series([2**64 - 1, 0], dtype=pl.UInt64),
            "f": [1.5, float("nan")],
            "d": pl.Series(["1.50", "2.25"]).cast(pl.Decimal(10, 2)),
            "s": ["a\0b", None],
            "c": pl.Series(["x", "y"], dtype=pl.Categorical),
            "b": [True, None],
            "day": [date(2024, 1, 1), date(2024, 1, 2)],
            "at": [datetime(2024, 1, 1, 1), datetime(2024, 1, 2, 2)],  # noqa: DTZ001 - a column without a zone
            "n": [None, None],
            "l": [[1], [2, 3]],
            "r": [{"x": 1}, None],
        }
    )

    profile = profiled(frame)

    kinds = [str(column.kind) for column in profile.profiles]
    assert kinds[:5] == ["integer", "integer", "decimal", "decimal", "text"]
    assert kinds[5:] == ["text", "boolean", "date", "datetime", "empty", "other", "other"]
    assert [column.missing for column in profile.profiles] == [0, 0, 1, 0, 1, 0, 1, 0, 0, 2, 0, 1]
    assert profile.profiles[1].numbers is not None
    assert profile.profiles[1].numbers.maximum == 2**64 - 1
    assert profile.profiles[4].top[0].text == "a�b"


def test_past_the_exact_rows_estimates_are_marked_and_counts_stay_exact(
    profiled: Profiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    monkeypatch.setattr(module, "SAMPLE_ROWS", 2000)
    frame = pl.DataFrame(
        {
            "id": range(10_000),
            "word": [f"w{number % 5}" for number in range(10_000)],
            "gap": [None if number % 4 == 0 else number for number in range(10_000)],
        }
    )

    profile = profiled(frame)

    identity, word, gap = profile.profiles
    assert profile.rows == 10_000
    assert gap.missing == 2500
    assert identity.numbers is not None
    assert (identity.numbers.minimum, identity.numbers.maximum, identity.numbers.mean) == (0, 9999, 4999.5)
    assert not identity.numbers.exact
    assert identity.numbers.quantiles["p50"] == pytest.approx(5000, rel=0.1)
    assert not identity.distinct.exact
    assert identity.distinct.value == pytest.approx(10_000, rel=0.1)
    assert word.distinct == Count(5, exact=False)
    assert not profile.duplicates.exact
    assert any("counts marked ≈ are estimates" in text for text in profile.left_out)


def test_progress_only_grows_and_ends_at_one(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "scratch").mkdir()
    told: list[tuple[float, str]] = []

    profile_table(
        path, name="t", title="t", scratch=tmp_path / "scratch", progress=lambda part, word: told.append((part, word))
    )

    parts = [part for part, _ in told]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert any("Column 1 of 2: a" in word for _, word in told)
