"""A column's chart as data: the bars, the words on the axis, and the sentence that goes with it.

HTML and PDF draw the same chart from this, each in its own way.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from worker.reporting.column_types import NUMERIC, TEXTUAL, Kind
from worker.reporting.profile import ColumnProfile, Histogram, TimeLine
from worker.reporting.text import count, number, plural, share


@dataclass(frozen=True)
class BarChart:
    """Vertical bars in order, with words at places from 0 to 1 along the axis."""

    values: list[int]
    hints: list[str]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Ranking:
    """Horizontal bars with a word each. `rest` counts what is not listed."""

    rows: list[tuple[str, int, str]]
    """Word, count, and the count's share of all values in words."""
    rest: tuple[str, int, str] | None
    most: int


@dataclass(frozen=True)
class ColumnView:
    """What a report says about one column."""

    column: ColumnProfile
    chart: BarChart | Ranking | None
    facts: str
    stats: list[tuple[str, str]] = field(default_factory=list)
    lowest: str = ""
    middle: str = ""
    highest: str = ""


def view(column: ColumnProfile) -> ColumnView:
    """Words and chart of a column. `chart` is None where there is nothing to draw."""
    lowest, middle, highest = _range(column)
    return ColumnView(column, _chart(column), _facts(column), _stats(column), lowest, middle, highest)


def _chart(column: ColumnProfile) -> BarChart | Ranking | None:
    if column.histogram is not None:
        return _histogram(column.histogram)
    if column.time_line is not None:
        return _time_line(column.time_line)
    if column.top:
        return _ranking(column)
    return None


def _histogram(histogram: Histogram) -> BarChart:
    edges, counts = histogram.edges, histogram.counts
    ranges: list[tuple[float, float]]
    if histogram.whole_numbers:
        ranges = [(round(left + 0.5), round(right - 0.5)) for left, right in pairwise(edges)]
    else:
        ranges = list(pairwise(edges))
    words = [number(left) if left == right else f"{number(left)} to {number(right)}" for left, right in ranges]
    hints = [f"{word}: {plural(value, 'row')}" for word, value in zip(words, counts, strict=True)]
    if len(counts) == 1:
        return BarChart(counts, hints, [(0.5, words[0])])
    if histogram.whole_numbers and edges[1] - edges[0] == 1:
        last = len(counts) - 1
        shown = sorted({0, last} | ({last // 2} if last > 3 else set()))  # noqa: PLR2004 - room for a third word
        return BarChart(counts, hints, [((place + 0.5) / len(counts), words[place]) for place in shown])
    first, last_value = ranges[0][0], ranges[-1][1]
    middle = (first + last_value) / 2
    if histogram.whole_numbers:
        middle = round(middle)
    return BarChart(counts, hints, [(0.0, number(first)), (0.5, number(middle)), (1.0, number(last_value))])


def _time_line(line: TimeLine) -> BarChart:
    words = [start.replace("T", " ").removesuffix(" 00:00:00") for start in line.starts]
    hints = [f"{line.unit} from {word}: {plural(value, 'row')}" for word, value in zip(words, line.counts, strict=True)]
    if len(words) == 1:
        return BarChart(line.counts, hints, [(0.5, words[0])])
    return BarChart(line.counts, hints, [(0.0, words[0]), (0.5, words[len(words) // 2]), (1.0, words[-1])])


def _ranking(column: ColumnProfile) -> Ranking:
    total = column.present if column.top_exact else max(1, sum(top.count for top in column.top))
    rows = [(top.text or "(blank)", top.count, share(top.count, total)) for top in column.top]
    listed = sum(top.count for top in column.top)
    others = column.distinct.value - len(column.top)
    rest = None
    if others > 0 and column.top_exact:
        left = column.present - listed
        rest = (plural(others, "other value"), left, share(left, total))
    return Ranking(rows, rest, max([row[1] for row in rows]))


def _facts(column: ColumnProfile) -> str:
    facts = [
        "nothing missing"
        if column.missing == 0
        else f"{share(column.missing, column.rows)} missing ({column.missing:,})"
    ]
    if column.kind is Kind.EMPTY:
        return "No row has a value."
    if column.kind is Kind.OTHER:
        return " · ".join([*facts, f"{column.reading}: nested or binary values are not profiled"])
    facts.append(f"{count(column.distinct.value, exact=column.distinct.exact)} distinct")
    if column.identifier:
        facts.append("different in every row")
    if column.time_line is not None:
        facts.append(f"rows per {column.time_line.unit}")
    if column.reading:
        facts.append(f"read as {column.reading}" if column.kind not in NUMERIC else column.reading)
    outside = (column.histogram.below + column.histogram.above) if column.histogram else 0
    if outside:
        facts.append(f"{plural(outside, 'value')} beyond the chart")
    return " · ".join(facts)


def _stats(column: ColumnProfile) -> list[tuple[str, str]]:
    if column.numbers is not None:
        n = column.numbers
        q = n.quantiles
        return [
            ("minimum", number(n.minimum)),
            ("25 % below", number(q["p25"])),
            ("median", number(q["p50"])),
            ("75 % below", number(q["p75"])),
            ("maximum", number(n.maximum)),
            ("mean", number(n.mean)),
            ("std. deviation", number(n.std)),
            ("skewness", "–" if n.skewness is None else f"{n.skewness:.2f}".replace("-0.00", "0.00")),
            ("5 % below", number(q["p5"])),
            ("95 % below", number(q["p95"])),
            ("zeros", f"{n.zeros:,}"),
            ("far outliers", f"{n.outliers:,}"),
        ]
    if column.span is not None:
        return [("first", number(column.span.first)), ("last", number(column.span.last))]
    if column.lengths is not None and column.kind in TEXTUAL:
        lengths = column.lengths
        return [
            ("shortest", plural(lengths.minimum, "character")),
            ("mean length", number(lengths.mean)),
            ("longest", plural(lengths.maximum, "character")),
        ]
    return []


def _range(column: ColumnProfile) -> tuple[str, str, str]:
    if column.numbers is not None:
        return number(column.numbers.minimum), number(column.numbers.quantiles["p50"]), number(column.numbers.maximum)
    if column.span is not None:
        first, last = (str(number(moment))[:10] for moment in (column.span.first, column.span.last))
        return first, "", last
    return "", "", ""
