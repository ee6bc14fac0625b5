"""Figures for paper, drawn with matplotlib's object API: pyplot keeps figures in a global, and that leaks in a worker.

Every figure is a PNG of `DPI` dots per inch. Texts from strangers never pass through matplotlib's formula parser.
"""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from worker.reporting.charts import BarChart
from worker.reporting.palette import BLUE, GREY, INK, LINE, ORANGE, RAIL, SOFT
from worker.reporting.profile import Correlations, MissingPicture

DPI = 220
_MM = 25.4
_DIGITS_FIT = 20
_DIVERGING = LinearSegmentedColormap.from_list("orange-white-blue", [ORANGE, "#f3f5f8", BLUE])
_GONE = LinearSegmentedColormap.from_list("present-missing", [RAIL, ORANGE])


def bar_figure(chart: BarChart, width_mm: float, height_mm: float) -> bytes:
    """A histogram or a time line."""
    figure, axes = _figure(width_mm, height_mm)
    positions = [place + 0.5 for place in range(len(chart.values))]
    width = 0.92 if len(chart.values) > 1 else 0.3
    axes.bar(positions, chart.values, width=width, color=BLUE, linewidth=0)
    axes.set_xlim(0, len(chart.values))
    _frame(axes)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks([place * len(chart.values) for place, _ in chart.ticks])
    labels = axes.set_xticklabels([word for _, word in chart.ticks])
    for (place, _), text in zip(chart.ticks, labels, strict=True):
        text.set_horizontalalignment("left" if place < 0.05 else "right" if place > 0.95 else "center")  # noqa: PLR2004
    return _png(figure)


def heat_map_figure(correlations: Correlations, size_mm: float) -> bytes:
    """The matrix of correlations, orange to blue, with numbers while they fit."""
    names = correlations.names
    figure, axes = _figure(size_mm, size_mm)
    matrix = [[float("nan") if r is None else r for r in row] for row in correlations.matrix]
    axes.imshow(matrix, cmap=_DIVERGING, vmin=-1, vmax=1)
    font = max(4.5, min(8.0, 120 / len(names)))
    _name_axis(axes, names, font)
    axes.set_yticks(range(len(names)), [_cut(name) for name in names], fontsize=font)
    _literal(axes.get_yticklabels())
    axes.set_xticks([place - 0.5 for place in range(1, len(names))], minor=True)
    axes.set_yticks([place - 0.5 for place in range(1, len(names))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    if len(names) <= _DIGITS_FIT:
        for row, values in enumerate(correlations.matrix):
            for column, r in enumerate(values):
                if r is not None:
                    color = "white" if abs(r) > 0.55 else INK  # noqa: PLR2004 - where the fill turns dark
                    axes.text(
                        column,
                        row,
                        f"{r:.2f}".replace("-0.00", "0.00"),
                        ha="center",
                        va="center",
                        fontsize=font * 0.85,
                        color=color,
                    )
    return _png(figure)


def missing_figure(picture: MissingPicture, width_mm: float, height_mm: float) -> bytes:
    """Where values are missing: the file from top to bottom, one strip per column."""
    figure, axes = _figure(width_mm, height_mm)
    rows = [list(band) for band in zip(*picture.bands, strict=True)]
    axes.imshow(rows, cmap=_GONE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    _name_axis(axes, picture.names, max(4.5, min(8.0, 150 / len(picture.names))))
    axes.set_yticks([0, len(rows) - 1], ["row 1", f"{len(rows) * picture.rows_per_band:,.0f}"])
    axes.set_xticks([place - 0.5 for place in range(1, len(picture.names))], minor=True)
    axes.grid(which="minor", axis="x", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return _png(figure)


def columns_figure(
    series: Sequence[tuple[str, str, Sequence[float]]],
    ticks: Sequence[tuple[float, str]],
    width_mm: float,
    height_mm: float,
) -> bytes:
    """Stacked columns over time; each series is a word, a colour and a value per period."""
    figure, axes = _figure(width_mm, height_mm)
    periods = len(series[0][2])
    below = [0.0] * periods
    for word, color, values in series:
        axes.bar(
            [place + 0.5 for place in range(periods)],
            values,
            width=0.86,
            bottom=below,
            color=color,
            label=word,
            linewidth=0,
        )
        below = [bottom + value for bottom, value in zip(below, values, strict=True)]
    axes.set_xlim(0, periods)
    _frame(axes)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xticks([place * periods for place, _ in ticks])
    labels = axes.set_xticklabels([word for _, word in ticks])
    for (place, _), text in zip(ticks, labels, strict=True):
        text.set_horizontalalignment("left" if place < 0.05 else "right" if place > 0.95 else "center")  # noqa: PLR2004
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(series), frameon=False, fontsize=7, labelcolor=SOFT
    )
    return _png(figure)


def _figure(width_mm: float, height_mm: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_mm / _MM, height_mm / _MM), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01)  # type: ignore[union-attr,call-arg]
    axes = figure.add_subplot()
    axes.tick_params(labelsize=7, colors=SOFT, length=2, width=0.5)
    return figure, axes


def _frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
        axes.spines[side].set_linewidth(0.6)


def _name_axis(axes: Axes, names: Sequence[str], font: float) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), [_cut(name) for name in names], fontsize=font, rotation=45, ha="left")
    _literal(axes.get_xticklabels())
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _literal(texts: Sequence[Text]) -> None:
    """A column's name may look like a formula, and a broken one would raise."""
    for text in texts:
        text.set_parse_math(False)


def _cut(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"  # noqa: PLR2004 - what fits beside the axis


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    # Without the software's name and version the same data gives the same bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
