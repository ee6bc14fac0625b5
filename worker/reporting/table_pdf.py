"""A table's profile on paper."""

import io
from collections.abc import Callable
from dataclasses import replace

from worker.reporting.charts import BarChart, ColumnView, Ranking, view
from worker.reporting.column_types import Kind
from worker.reporting.figures import bar_figure, heat_map_figure, missing_figure
from worker.reporting.job_stamp import Stamp
from worker.reporting.palette import BLUE, GREEN, GREY, INK, LINE, ORANGE, SOFT, VIOLET, rgb
from worker.reporting.paper import BOTTOM, MARGIN, WIDTH, Paper, printable
from worker.reporting.profile import Profile
from worker.reporting.profile_table import CHARTED_COLUMNS
from worker.reporting.text import count, plural, share, size

_GAP = 5.0
_ROW_GAP = 4.0
_CARD = ((WIDTH - _GAP) / 2, 58.5)
_RANKED = 7
_KIND_COLORS = {
    Kind.INTEGER: BLUE,
    Kind.DECIMAL: BLUE,
    Kind.CATEGORY: VIOLET,
    Kind.BOOLEAN: VIOLET,
    Kind.DATE: GREEN,
    Kind.DATETIME: GREEN,
    Kind.EMPTY: ORANGE,
}


def table_paper(profile: Profile, stamp: Stamp, progress: Callable[[float], None]) -> bytes:
    """The report as a PDF document; `progress` is told the share that is drawn, 0 to 1."""
    paper = Paper(title=profile.title, kind="table report", stamp=stamp)
    views = [view(column) for column in profile.profiles]
    _overview(paper, profile)
    _columns(paper, views)
    _pictures(paper, profile)
    _cards(paper, views[:CHARTED_COLUMNS], progress)
    _how(paper, profile)
    return bytes(paper.output())


def _overview(paper: Paper, profile: Profile) -> None:
    paper.cover(f"{profile.file_name} · {profile.file_format} · {size(profile.file_size)} · {paper.stamp.words}")
    duplicates = count(profile.duplicates.value, exact=profile.duplicates.exact)
    paper.tiles(
        [
            (count(profile.rows), "rows"),
            (count(profile.columns), "columns"),
            (share(profile.missing_cells, profile.cells), "of cells missing"),
            (duplicates, "duplicate rows"),
            (size(profile.file_size), "file size"),
            (size(profile.memory_bytes), "typed, in memory"),
        ]
    )
    paper.heading("Worth noticing", keep=12)
    if profile.notes:
        paper.notes([(note.level, note.text) for note in profile.notes])
    else:
        paper.paragraph(
            "Nothing stands out: no duplicates, no constant or mostly missing columns, no strong skew or correlation."
        )
    if profile.left_out:
        paper.heading("Left out", keep=12)
        paper.notes([("info", text) for text in profile.left_out])


def _columns(paper: Paper, views: list[ColumnView]) -> None:
    paper.heading("Columns")
    heads = [
        ("Name", 0.30, "L"),
        ("Type", 0.11, "L"),
        ("Missing", 0.11, "R"),
        ("Distinct", 0.13, "R"),
        ("Lowest", 0.12, "R"),
        ("Middle", 0.11, "R"),
        ("Highest", 0.12, "R"),
    ]
    paper.rows(
        heads,
        [
            (
                item.column.name,
                str(item.column.kind),
                share(item.column.missing, item.column.rows),
                "–"
                if item.column.kind is Kind.OTHER
                else count(item.column.distinct.value, exact=item.column.distinct.exact),
                item.lowest,
                item.middle,
                item.highest,
            )
            for item in views
        ],
    )


def _pictures(paper: Paper, profile: Profile) -> None:
    correlations, missing = profile.correlations, profile.missing_picture
    if correlations is not None:
        side = min(150.0, 45 + 12.0 * len(correlations.names))
        paper.heading("Correlations", keep=side + 8)
        paper.paragraph(
            "Pearson’s r over all rows that have both values: +1 (blue) rise together, -1 (orange) move against "
            "each other."
        )
        named = replace(correlations, names=[printable(name) for name in correlations.names])
        paper.figure(heat_map_figure(named, side), side, side, x=MARGIN + (WIDTH - side) / 2)
    if missing is not None:
        wide = min(WIDTH, 40 + 12.0 * len(missing.names))
        paper.heading("Where values are missing", keep=88)
        paper.paragraph("The file from top to bottom; the stronger the orange, the more of these rows miss the value.")
        named_missing = replace(missing, names=[printable(name) for name in missing.names])
        paper.figure(missing_figure(named_missing, wide, 78), wide, 78, x=MARGIN + (WIDTH - wide) / 2)


def _cards(paper: Paper, views: list[ColumnView], progress: Callable[[float], None]) -> None:
    wide, tall = _CARD
    paper.heading("Column by column", keep=tall)
    top = paper.get_y()
    for place, item in enumerate(views):
        progress(place / len(views))
        if place % 2 == 0 and top + tall > BOTTOM:
            paper.add_page()
            top = paper.get_y()
        _card(paper, item, MARGIN + (place % 2) * (wide + _GAP), top)
        if place % 2:
            top += tall + _ROW_GAP
    paper.set_xy(MARGIN, top + (tall + _ROW_GAP if len(views) % 2 else 0))


def _card(paper: Paper, item: ColumnView, x: float, y: float) -> None:
    wide, tall = _CARD
    inner = wide - 8
    paper.set_draw_color(*rgb(LINE))
    paper.rect(x, y, wide, tall, style="D", round_corners=True, corner_radius=1.8)
    kind = item.column.kind
    color = _KIND_COLORS.get(kind, SOFT)
    paper.pen(color, 7)
    badge = paper.get_string_width(kind) + 4
    paper.set_draw_color(*rgb(color))
    paper.rect(x + wide - 4 - badge, y + 3.6, badge, 4.6, style="D", round_corners=True, corner_radius=2.2)
    paper.set_xy(x + wide - 4 - badge, y + 3.6)
    paper.cell(badge, 4.6, kind, align="C")
    paper.set_xy(x + 4, y + 3.2)
    paper.pen(INK, 9.5, bold=True)
    paper.cell(inner - badge - 2, 5.4, paper.fitted(printable(item.column.name), inner - badge - 2))
    paper.set_xy(x + 4, y + 9)
    paper.pen(SOFT, 6.5)
    paper.cell(inner, 4, paper.fitted(printable(item.facts), inner))
    if isinstance(item.chart, BarChart):
        paper.image(io.BytesIO(bar_figure(item.chart, inner, 27)), x=x + 4, y=y + 14, w=inner, h=27)
    elif isinstance(item.chart, Ranking):
        _ranking(paper, item.chart, x + 4, y + 14.5, inner)
    _stats(paper, item.stats, x + 4, y + 42.5, inner)


def _ranking(paper: Paper, chart: Ranking, x: float, y: float, wide: float) -> None:
    rows = [(*row, BLUE) for row in chart.rows[:_RANKED]]
    hidden = chart.rows[_RANKED:]
    if chart.rest is not None and not hidden:
        rows = [*rows[: _RANKED - 1], (*chart.rest, GREY)] if len(rows) == _RANKED else [*rows, (*chart.rest, GREY)]
    for place, (word, value, part, color) in enumerate(rows):
        top = y + place * 3.9
        paper.pen(INK, 6.5)
        paper.set_xy(x, top)
        paper.cell(wide * 0.36, 3.6, paper.fitted(printable(word), wide * 0.36 - 1))
        paper.meter(x + wide * 0.36, top + 0.7, wide * 0.34, value / chart.most, color=color, tall=2.2)
        paper.pen(SOFT, 6)
        paper.set_xy(x + wide * 0.71, top)
        paper.cell(wide * 0.29, 3.6, f"{value:,} · {part}", align="R")


def _stats(paper: Paper, stats: list[tuple[str, str]], x: float, y: float, wide: float) -> None:
    across = min(4, len(stats))
    for place, (term, value) in enumerate(stats[:8]):
        left, top = x + (place % across) * wide / across, y + (place // across) * 8
        paper.set_xy(left, top)
        paper.pen(SOFT, 5.8)
        paper.cell(wide / across, 3, term)
        paper.set_xy(left, top + 3)
        paper.pen(INK, 7)
        paper.cell(wide / across, 3.6, paper.fitted(printable(value), wide / across - 1))


def _how(paper: Paper, profile: Profile) -> None:
    paper.heading("How it was read", keep=20)
    closing = ["Histograms leave out far values, and say how many."]
    closing.append("Distinct texts and equal rows are told apart by 64-bit fingerprints.")
    closing.append("□ stands for a character that this document’s font lacks; the HTML report shows it.")
    if len(profile.profiles) > CHARTED_COLUMNS:
        closing.append(f"Cards show the first {plural(CHARTED_COLUMNS, 'column')}.")
    for text in [*profile.details, *closing]:
        paper.paragraph(text)
