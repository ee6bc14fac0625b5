"""Charts as inline SVG: sharp at any size, without scripts, in the colours of the page's light or dark mode.

Every text goes through `escape`; colours are classes of `report.css`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from service.jobs.activity import Percentiles
from worker.reporting.log_scale import LogScale
from worker.reporting.profile import Correlations, MissingPicture
from worker.reporting.text import duration

_DIGITS_FIT = 24
"""Up to so many columns a heat map's cells are wide enough for numbers."""


@dataclass(frozen=True)
class Bar:
    """One bar and what the pointer reads on it."""

    value: float
    hint: str


def bars(values: Sequence[Bar], ticks: Sequence[tuple[float, str]], *, label: str, height: int = 130) -> Markup:
    """A histogram. `ticks` are places from 0 to 1 along the axis with their words; `label` is for screen readers."""
    width, foot = 420, 20
    top = max((bar.value for bar in values), default=0) or 1
    step = width / max(1, len(values))
    gap = min(2.0, step * 0.15)
    parts = [
        Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        ).format(
            place * step + gap / 2,
            height - _bar_height(bar.value, top, height),
            step - gap,
            _bar_height(bar.value, top, height),
            bar.hint,
        )
        for place, bar in enumerate(values)
    ]
    parts.append(Markup('<line class="axis" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(height, width))
    parts += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            place * width, height + 15, _anchor(place), word
        )
        for place, word in ticks
    ]
    return _svg(width, height + foot, label, parts)


def _bar_height(value: float, top: float, height: int) -> float:
    """Something is never drawn as nothing."""
    return max(1.5, value / top * (height - 6)) if value else 0.0


def _anchor(place: float) -> str:
    return "start" if place < 0.05 else "end" if place > 0.95 else "middle"  # noqa: PLR2004 - the chart's margins


def sparkline(values: Sequence[float], *, label: str) -> Markup:
    """A small histogram for a row of a table."""
    width, height = 110, 26
    top = max(values, default=0) or 1
    step = width / max(1, len(values))
    parts = [
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            place * step,
            height - max(1.0, value / top * height),
            max(0.8, step - min(1.0, step * 0.2)),
            max(1.0, value / top * height),
        )
        for place, value in enumerate(values)
        if value
    ]
    return _svg(width, height, label, parts, css="spark")


def heat_map(correlations: Correlations) -> Markup:
    """Correlations from -1 (orange) over nothing to +1 (blue), with the number in each cell while it fits."""
    names = correlations.names
    cell, left, head = (34, 150, 96) if len(names) <= _DIGITS_FIT else (18, 150, 96)
    parts = []
    for row, name in enumerate(names):
        middle = head + row * cell + cell / 2
        parts.append(
            Markup('<text class="name" x="{}" y="{:.1f}" text-anchor="end">{}<title>{}</title></text>').format(
                left - 6, middle + 4, shorten(name, 22), name
            )
        )
        across = left + row * cell + cell / 2
        parts.append(
            Markup('<text class="name" transform="translate({:.1f} {}) rotate(-45)">{}<title>{}</title></text>').format(
                across, head - 6, shorten(name, 16), name
            )
        )
        for column, other in enumerate(names):
            r = correlations.matrix[row][column]
            x, y = left + column * cell, head + row * cell
            hint = f"{name} and {other}: " + ("not defined" if r is None else f"{r:+.2f}")
            css = "none" if r is None else "plus" if r >= 0 else "minus"
            parts.append(
                Markup(
                    '<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">'
                    "<title>{}</title></rect>"
                ).format(css, x, y, cell - 1, cell - 1, 0.05 + 0.95 * abs(r or 0), hint)
            )
            if r is not None and len(names) <= _DIGITS_FIT:
                strong = " strong" if abs(r) > 0.55 else ""  # noqa: PLR2004 - where the fill turns dark
                parts.append(
                    Markup('<text class="digit{}" x="{}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                        strong, x + cell / 2 - 0.5, y + cell / 2 + 3, _short(r)
                    )
                )
    size = len(names) * cell
    return _svg(left + size + 60, head + size + 4, "Correlations of numeric columns", parts, css="chart natural")


def _short(r: float) -> str:
    """-.43, 0 or 1: what fits into a cell."""
    text = f"{r:.2f}"
    return {"0.00": "0", "-0.00": "0", "1.00": "1", "-1.00": "-1"}.get(text, text.replace("0.", ".", 1))


def missing_matrix(picture: MissingPicture) -> Markup:
    """One column per column, the file's rows from top to bottom; the darker, the more is missing."""
    count = len(picture.names)
    cell = max(14, min(44, 760 // count))
    band, head, left = 6, 96, 70
    rows = len(picture.bands[0])
    parts = []
    for column, (name, shares) in enumerate(zip(picture.names, picture.bands, strict=True)):
        x = left + column * cell
        parts.append(
            Markup('<text class="name" transform="translate({:.1f} {}) rotate(-45)">{}<title>{}</title></text>').format(
                x + cell / 2, head - 6, shorten(name, 16), name
            )
        )
        parts.append(
            Markup('<rect class="there" x="{}" y="{}" width="{}" height="{}"/>').format(x, head, cell - 2, rows * band)
        )
        for place, part in enumerate(shares):
            if part:
                first = round(place * picture.rows_per_band) + 1
                last = max(first, round((place + 1) * picture.rows_per_band))
                parts.append(
                    Markup(
                        '<rect class="gone" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">'
                        "<title>{}</title></rect>"
                    ).format(
                        x,
                        head + place * band,
                        cell - 2,
                        band,
                        0.2 + 0.8 * part,
                        f"{name}, rows {first:,} to {last:,}: {part:.0%} missing",
                    )
                )
    total = rows * picture.rows_per_band
    parts += [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(left - 8, y, word)
        for y, word in ((head + 9, "row 1"), (head + rows * band, f"{total:,.0f}"))
    ]
    return _svg(
        left + count * cell + 70, head + rows * band + 6, "Where values are missing", parts, css="chart natural"
    )


def stacked_columns(
    periods: Sequence[str], series: Sequence[tuple[str, str, Sequence[float]]], ticks: Sequence[tuple[float, str]]
) -> Markup:
    """Columns over time; each series is a class, a word and one value per period, stacked in that order."""
    width, height = 860, 200
    totals = [sum(values[place] for _, _, values in series) for place in range(len(periods))]
    top = max(totals, default=0) or 1
    step = width / max(1, len(periods))
    gap = min(3.0, step * 0.15)
    parts = [
        Markup(
            '<line class="grid" x1="0" y1="{0:.1f}" x2="{1}" y2="{0:.1f}"/>'
            '<text class="tick" x="2" y="{2:.1f}">{3}</text>'
        ).format(height - part * (height - 16), width, height - part * (height - 16) - 3, f"{top * part:,.0f}")
        for part in ((0.5, 1.0) if top > 1 else (1.0,))
    ]
    for place, period in enumerate(periods):
        y = float(height)
        hint = f"{period}: " + (
            ", ".join(f"{values[place]:,.0f} {word}" for _, word, values in series if values[place]) or "none"
        )
        for css, _, values in series:
            if values[place]:
                tall = max(1.0, values[place] / top * (height - 16))
                y -= tall
                parts.append(
                    Markup(
                        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                    ).format(css, place * step + gap / 2, y, step - gap, tall, hint)
                )
    parts.append(Markup('<line class="axis" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(height, width))
    parts += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            place * width, height + 16, _anchor(place), word
        )
        for place, word in ticks
    ]
    return _svg(width, height + 22, "Jobs over time", parts)


def ranges(rows: Sequence[tuple[str, Percentiles]], *, label: str) -> Markup:
    """A line per type on a logarithmic scale: a dot at the median, a bar to the 99th percentile, a mark at the 95th."""
    if not rows:
        return Markup()
    scale = LogScale.over([point for _, points in rows for point in (points.p50, points.p95, points.p99)])
    width, left, line = 860, 190, 26
    height = len(rows) * line
    parts = []
    for place, word in scale.ticks():
        x = left + place * (width - left - 28)
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="{1}"/>'
                '<text class="tick" x="{0:.1f}" y="{2}" text-anchor="middle">{3}</text>'
            ).format(x, height, height + 15, word)
        )
    for row, (name, points) in enumerate(rows):
        middle = row * line + line / 2
        p50, p95, p99 = (left + scale.place(p) * (width - left - 28) for p in (points.p50, points.p95, points.p99))
        hint = f"{name}: median {duration(points.p50)}, 95 % {duration(points.p95)}, 99 % {duration(points.p99)}"
        parts.append(
            Markup(
                '<g><title>{}</title><text class="name" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
                '<rect class="range" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="8"/>'
                '<line class="mark" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
                '<circle class="point" cx="{:.1f}" cy="{:.1f}" r="5"/></g>'
            ).format(
                hint,
                left - 14,
                middle + 4,
                shorten(name, 26),
                p50,
                middle - 4,
                max(1.0, p99 - p50),
                p95,
                p95,
                middle - 7,
                middle + 7,
                p50,
                middle,
            )
        )
    return _svg(width, height + 22, label, parts)


def shorten(text: str, limit: int) -> str:
    """The text, cut to fit; the whole of it belongs into a `<title>` beside."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _svg(width: float, height: float, label: str, parts: Sequence[Markup], css: str = "chart") -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(css, width, height, width, label, Markup("").join(escape(part) for part in parts))
