"""What there is to say about a table: the shape of the answer."""

from dataclasses import dataclass, field
from typing import Any

from worker.reporting.column_types import Kind


@dataclass(frozen=True)
class Count:
    """A number of things; `exact` says whether each was counted or the number estimated."""

    value: int
    exact: bool = True


@dataclass(frozen=True)
class NumberStats:
    """Statistics of the finite values of a column. `std` is the sample's, `skewness` is Fisher and Pearson's."""

    minimum: Any
    maximum: Any
    mean: float | None
    std: float | None
    quantiles: dict[str, float]
    """By name: p1, p5, p25, p50, p75, p95, p99."""
    skewness: float | None
    zeros: int
    negative: int
    infinite: int
    outliers: int
    """Values beyond the quartiles by more than three times the distance between them."""
    exact: bool = True
    """Whether quantiles, skewness and outliers are those of all rows or of a sample."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of texts in characters."""

    minimum: int
    mean: float
    maximum: int


@dataclass(frozen=True)
class Span:
    """The first and the last moment of a column of dates."""

    first: Any
    last: Any


@dataclass(frozen=True)
class TopValue:
    """A frequent value, shortened for display, and how many rows have it."""

    text: str
    count: int


@dataclass(frozen=True)
class Histogram:
    """Counts between edges. `below` and `above` lie outside of the drawn range."""

    edges: list[float]
    counts: list[int]
    whole_numbers: bool = False
    """Edges lie half-way between whole numbers."""
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class TimeLine:
    """Rows per unit of time, without gaps. `starts` are ISO dates or moments."""

    unit: str
    starts: list[str]
    counts: list[int]


@dataclass
class ColumnProfile:
    """One column of the table."""

    name: str
    kind: Kind
    rows: int
    missing: int
    reading: str = ""
    ambiguous_dates: bool = False
    distinct: Count = field(default_factory=lambda: Count(0))
    numbers: NumberStats | None = None
    lengths: Lengths | None = None
    span: Span | None = None
    top: list[TopValue] = field(default_factory=list)
    top_exact: bool = True
    histogram: Histogram | None = None
    time_line: TimeLine | None = None
    identifier: bool = False

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.rows - self.missing


@dataclass(frozen=True)
class Pair:
    """Two numeric columns and Pearson's r over the rows that have both."""

    left: str
    right: str
    r: float
    rows: int


@dataclass(frozen=True)
class Correlations:
    """Pearson's r of every pair of the named columns; None where it is not defined."""

    names: list[str]
    matrix: list[list[float | None]]
    pairs: list[Pair]
    """Strongest first, each pair once."""


@dataclass(frozen=True)
class MissingPicture:
    """Share of missing values, 0 to 1, in bands of consecutive rows, per column."""

    names: list[str]
    bands: list[list[float]]
    """One list per column, top of the file first."""
    rows_per_band: float


@dataclass(frozen=True)
class Note:
    """A sentence worth noticing. `level` is `warning` or `info`."""

    level: str
    text: str


@dataclass
class Profile:
    """A table, described."""

    title: str
    file_name: str
    file_format: str
    file_size: int
    rows: int
    columns: int
    profiles: list[ColumnProfile]
    duplicates: Count
    """Rows equal to an earlier row in every profiled column."""
    memory_bytes: int
    preview: list[list[str | None]]
    correlations: Correlations | None = None
    missing_picture: MissingPicture | None = None
    notes: list[Note] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    @property
    def missing_cells(self) -> int:
        """Cells without a value in the profiled columns."""
        return sum(profile.missing for profile in self.profiles)

    @property
    def cells(self) -> int:
        """Cells in the profiled columns."""
        return self.rows * len(self.profiles)
