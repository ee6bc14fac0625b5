"""A table's profile as one HTML page."""

from dataclasses import dataclass

from markupsafe import Markup

from worker.reporting import svg
from worker.reporting.charts import BarChart, ColumnView, Ranking, view
from worker.reporting.job_stamp import Stamp
from worker.reporting.pages import render
from worker.reporting.profile import Profile
from worker.reporting.profile_table import CHARTED_COLUMNS

PREVIEW_COLUMNS = 20


@dataclass(frozen=True)
class _Row:
    """A column's view with its charts drawn; `chart` is None where it has no card."""

    view: ColumnView
    spark: Markup
    chart: Markup | None

    def __getattr__(self, name: str) -> object:
        return getattr(self.view, name)


def table_page(profile: Profile, stamp: Stamp) -> str:
    """The whole report. It needs nothing but itself, and its own policy forbids everything but its style."""
    rows = [_draw(view(column), charted=place < CHARTED_COLUMNS) for place, column in enumerate(profile.profiles)]
    return render(
        "table.html",
        title=profile.title,
        p=profile,
        columns=rows,
        heat_map=svg.heat_map(profile.correlations) if profile.correlations else "",
        missing=svg.missing_matrix(profile.missing_picture) if profile.missing_picture else "",
        preview_columns=PREVIEW_COLUMNS,
        job_id=stamp.job_id,
        made_at=stamp.words,
    )


def _draw(column: ColumnView, *, charted: bool) -> _Row:
    name, chart = column.column.name, column.chart
    label = f"Distribution of {name}"
    if isinstance(chart, BarChart):
        bars = [svg.Bar(value, hint) for value, hint in zip(chart.values, chart.hints, strict=True)]
        return _Row(
            column,
            svg.sparkline(chart.values, label=label),
            svg.bars(bars, chart.ticks, label=label) if charted else None,
        )
    if isinstance(chart, Ranking):
        return _Row(
            column,
            svg.sparkline([value for _, value, _ in chart.rows], label=label),
            _ranking(chart) if charted else None,
        )
    return _Row(column, Markup(), Markup() if charted else None)


def _ranking(chart: Ranking) -> Markup:
    line = Markup('<div{}><bdi title="{}">{}</bdi><i style="width:{:.1f}%"></i><span>{:,} · {}</span></div>')
    lines = [line.format("", word, word, 100 * value / chart.most, value, part) for word, value, part in chart.rows]
    if chart.rest is not None:
        word, value, part = chart.rest
        width = min(100.0, 100 * value / chart.most)
        lines.append(line.format(Markup(' class="rest"'), word, word, width, value, part))
    return Markup('<div class="top">{}</div>').format(Markup().join(lines))
