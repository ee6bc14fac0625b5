"""Which type a column of text has: the narrowest one that every one of its values fits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import polars as pl

HEAD_ROWS = 2000
"""Types that these rows rule out are not tried on the whole file."""
FIRST_YEAR, LAST_YEAR = 1000, 9999
_TRUE, _FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")


class Kind(StrEnum):
    """What a reader would call the values of a column."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    TEXT = "text"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    EMPTY = "empty"
    OTHER = "other"


NUMERIC = frozenset({Kind.INTEGER, Kind.DECIMAL})
TEMPORAL = frozenset({Kind.DATE, Kind.DATETIME})
TEXTUAL = frozenset({Kind.TEXT, Kind.CATEGORY})


@dataclass(frozen=True)
class Reading:
    """One way to read text. `parse` gives null for a value that does not fit."""

    kind: Kind
    label: str
    parse: Callable[[pl.Expr], pl.Expr]
    dates: str = ""
    """The order of day, month and year."""
    ambiguous: bool = False
    """Whether another order of day and month fits as well."""

    @staticmethod
    def of_dtype(kind: Kind, dtype: pl.DataType) -> "Reading":
        """How to bring a column that has a type already into the form in which it is profiled."""
        if kind is Kind.OTHER:
            return Reading(kind, str(dtype), lambda column: pl.when(column.is_not_null()).then(pl.lit("", pl.String)))
        if dtype.is_float():
            return Reading(kind, "", lambda column: column.cast(pl.Float64).fill_nan(None))
        if kind is Kind.TEXT and dtype != pl.String:
            return Reading(kind, str(dtype), lambda column: column.cast(pl.String))
        if kind in {Kind.DATE, Kind.DATETIME}:
            first, last = _known_times(dtype)
            return Reading(kind, "", lambda column: pl.when(column.to_physical().is_between(first, last)).then(column))
        return Reading(kind, "", lambda column: column)


def _known_times(dtype: pl.DataType) -> tuple[int, int]:
    """The first and last value of the type that are times as people mean them.

    Python's own dates end with the years 1 and 9999, and a chart's first century begins before its first value.
    """
    epoch = date(1970, 1, 1)
    first, last = (date(FIRST_YEAR, 1, 1) - epoch).days, (date(LAST_YEAR, 12, 31) - epoch).days
    if not isinstance(dtype, pl.Datetime):
        return first, last
    if dtype.time_unit == "ns":
        return -(1 << 63), (1 << 63) - 1  # all of them: 1677 to 2262
    day = 86_400 * {"ms": 10**3, "us": 10**6}[dtype.time_unit]
    return first * day, last * day  # without the last day, so that every time zone has room


def kind_of_dtype(dtype: pl.DataType) -> Kind:
    """The kind of a typed column, as Parquet brings it."""
    if dtype.is_integer() or (isinstance(dtype, pl.Decimal) and dtype.scale == 0):
        return Kind.INTEGER
    if dtype.is_float() or dtype.is_decimal():
        return Kind.DECIMAL
    if dtype == pl.Boolean:
        return Kind.BOOLEAN
    if dtype == pl.Date:
        return Kind.DATE
    if isinstance(dtype, pl.Datetime):
        return Kind.DATETIME
    if dtype == pl.Null:
        return Kind.EMPTY
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Time):
        return Kind.TEXT
    return Kind.OTHER


def choose_readings(text: pl.LazyFrame, keys: list[str]) -> dict[str, Reading]:
    """For each column of text, the first reading in order of preference that fits every value.

    The head of the file rules most readings out. What is left is tried on the whole file, the best guess of every
    column in one pass; a further pass is needed only where a guess was wrong.
    """
    head = text.head(HEAD_ROWS).collect()
    left = {key: [reading for reading in READINGS if _fits_head(head[key], reading)] for key in keys}
    present = text.select([pl.col(key).is_not_null().sum() for key in keys]).collect(engine="streaming")
    chosen = {key: EMPTY for key in keys if present[key].item() == 0}
    while pending := [key for key in keys if key not in chosen]:
        for key in pending:
            if not left[key]:
                chosen[key] = TEXT
        tried = {key: [left[key][0], *_rivals(left[key])] for key in pending if left[key]}
        misfits = _misfits(text, tried)
        for key, readings in tried.items():
            if misfits[f"{key}:0"]:
                left[key].pop(0)
            else:
                ambiguous = any(misfits[f"{key}:{place}"] == 0 for place in range(1, len(readings)))
                chosen[key] = replace(readings[0], ambiguous=ambiguous)
    return chosen


def _fits_head(values: pl.Series, reading: Reading) -> bool:
    present = values.drop_nulls().alias("value")
    return bool(present.to_frame().select(reading.parse(pl.col("value")).is_not_null().all()).item())


def _rivals(readings: list[Reading]) -> list[Reading]:
    """Readings with another order of day and month than the preferred one."""
    first = readings[0]
    return [other for other in readings[1:] if other.kind is first.kind and other.dates != first.dates][:1]


def _misfits(text: pl.LazyFrame, tried: dict[str, list[Reading]]) -> dict[str, int]:
    """How many values do not fit, by `key:place`."""
    tests = [
        (pl.col(key).is_not_null() & reading.parse(pl.col(key)).is_null()).sum().alias(f"{key}:{place}")
        for key, readings in tried.items()
        for place, reading in enumerate(readings)
    ]
    return text.select(tests).collect(engine="streaming").row(0, named=True) if tests else {}


def _no_code(stripped: pl.Expr) -> pl.Expr:
    """Not 00123 or +49123: a postal code, an article or a telephone number is no quantity."""
    zero_first = stripped.str.starts_with("0") & (stripped.str.len_bytes() > 1)
    fraction = stripped.str.starts_with("0.") | stripped.str.starts_with("0,") | stripped.str.starts_with("0e")
    return ~(zero_first & ~fraction) & ~stripped.str.starts_with("+")


def _integer(column: pl.Expr) -> pl.Expr:
    stripped = column.str.strip_chars()
    return pl.when(_no_code(stripped)).then(stripped.cast(pl.Int64, strict=False))


def _long_integer(column: pl.Expr) -> pl.Expr:
    stripped = column.str.strip_chars()
    whole = pl.when(_no_code(stripped)).then(stripped.cast(pl.Int128, strict=False))
    return whole.cast(pl.Decimal(38, 0), strict=False)


def _decimal(column: pl.Expr) -> pl.Expr:
    stripped = column.str.strip_chars()
    return pl.when(_no_code(stripped)).then(stripped.cast(pl.Float64, strict=False))


def _decimal_comma(column: pl.Expr) -> pl.Expr:
    stripped = column.str.strip_chars()
    fits = stripped.str.contains(r"^-?\d+(,\d+)?$") & _no_code(stripped)
    return pl.when(fits).then(stripped.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False))


def _boolean(column: pl.Expr) -> pl.Expr:
    # Not replace_strict: polars 2.1 gathers the whole column in memory for it.
    word = column.str.strip_chars().str.to_lowercase()
    true, false = _any_of(word, _TRUE), _any_of(word, _FALSE)
    return pl.when(true).then(pl.lit(True)).when(false).then(pl.lit(False))  # noqa: FBT003 - pl.lit takes it so


def _any_of(word: pl.Expr, choices: tuple[str, ...]) -> pl.Expr:
    return pl.any_horizontal([word == choice for choice in choices])


def _date(date_format: str) -> Callable[[pl.Expr], pl.Expr]:
    def parse(column: pl.Expr) -> pl.Expr:
        return _in_known_times(column.str.strip_chars().str.to_date(date_format, strict=False))

    return parse


def _datetime(datetime_format: str) -> Callable[[pl.Expr], pl.Expr]:
    def parse(column: pl.Expr) -> pl.Expr:
        parsed = column.str.strip_chars().str.to_datetime(datetime_format, strict=False, time_unit="us")
        return _in_known_times(parsed.dt.replace_time_zone(None) if "z" in datetime_format else parsed)

    return parse


def _in_known_times(parsed: pl.Expr) -> pl.Expr:
    # %Y takes 24 for the year 24: such a column is something else.
    return pl.when(parsed.dt.year().is_between(FIRST_YEAR, LAST_YEAR)).then(parsed)


TEXT = Reading(Kind.TEXT, "", lambda column: column)
EMPTY = Reading(Kind.EMPTY, "", lambda column: column)
_TIMES = {"%H:%M:%S": "hour:minute:second", "%H:%M:%S%.f": "hour:minute:second.fraction", "%H:%M": "hour:minute"}
_DATES = {
    "%Y-%m-%d": "year-month-day",
    "%Y/%m/%d": "year/month/day",
    "%d.%m.%Y": "day.month.year",
    "%m/%d/%Y": "month/day/year",
    "%d/%m/%Y": "day/month/year",
    "%d-%m-%Y": "day-month-year",
}
READINGS = [
    Reading(Kind.BOOLEAN, "", _boolean),
    Reading(Kind.INTEGER, "", _integer),
    Reading(Kind.INTEGER, "more than 64 bits", _long_integer),
    Reading(Kind.DECIMAL, "", _decimal),
    Reading(Kind.DECIMAL, "decimal comma", _decimal_comma),
    *(Reading(Kind.DATE, label, _date(form), form) for form, label in _DATES.items()),
    *(
        Reading(Kind.DATETIME, f"{label} {time_label}{zone_label}", _datetime(f"{form}{between}{time}{zone}"), form)
        for form, label in _DATES.items()
        for between in (("T", " ") if form == "%Y-%m-%d" else (" ",))
        for time, time_label in _TIMES.items()
        for zone, zone_label in ((("", ""), ("%#z", ", in UTC")) if form == "%Y-%m-%d" else (("", ""),))
    ),
]
