"""A period's activity on paper."""

from service.jobs.activity import Activity, Percentiles
from service.jobs.states import State
from worker.reporting.activity_words import axis_ticks, bucket_unit, period_words, remarks
from worker.reporting.figures import columns_figure
from worker.reporting.job_stamp import Stamp
from worker.reporting.log_scale import LogScale
from worker.reporting.palette import BLUE, GREY, INK, LINE, ORANGE, SOFT, rgb
from worker.reporting.paper import MARGIN, WIDTH, Paper, printable
from worker.reporting.text import count, duration, share, visible

_RANGE_LINE = 6.0
_LEFT, _WIDE = MARGIN + 48, WIDTH - 48 - 62
"""Where the axis of durations lies: names stand before it, figures behind it."""


def activity_paper(activity: Activity, title: str, stamp: Stamp) -> bytes:
    """The report as a PDF document. A period without jobs gets a page that says so."""
    paper = Paper(title=title, kind="activity report", stamp=stamp)
    paper.cover(period_words(activity))
    if activity.total.jobs == 0:
        paper.heading("No jobs in this period", keep=10)
        paper.paragraph(f"No job was created from {period_words(activity)}.", points=9.5)
        return bytes(paper.output())
    _overview(paper, activity)
    _types(paper, activity)
    _timings(paper, "Waiting", "From the moment an attempt was due to its start.", _named(activity, "waiting"))
    _timings(paper, "Running", "From start to end of every finished attempt.", _named(activity, "running"))
    _errors(paper, activity)
    _slowest(paper, activity)
    paper.ln(4)
    paper.paragraph(
        "A job belongs to the period in which it was created; how it went is told as of the making of this report."
    )
    return bytes(paper.output())


def _overview(paper: Paper, activity: Activity) -> None:
    total = activity.total
    paper.tiles(
        [
            (count(total.jobs), "jobs"),
            ("–" if total.success_rate is None else share(total.success_rate, 1), "succeeded"),
            (count(total.unsuccessful), "failed or expired"),
            (duration(total.waiting.p50 if total.waiting else None), "median waiting"),
            (duration(total.running.p50 if total.running else None), "median running"),
            (duration(total.running.p99 if total.running else None), "running, 99 %"),
        ]
    )
    paper.heading("Worth noticing", keep=12)
    paper.notes(remarks(activity))
    paper.heading("Over time", keep=70)
    paper.paragraph(f"Jobs by the {bucket_unit(activity.bucket)} of their creation.")
    buckets = activity.buckets
    series = [
        ("succeeded", BLUE, [float(bucket.succeeded) for bucket in buckets]),
        ("failed or expired", ORANGE, [float(bucket.unsuccessful) for bucket in buckets]),
        ("waiting, running or cancelled", GREY, [float(bucket.other) for bucket in buckets]),
    ]
    paper.figure(columns_figure(series, axis_ticks(activity), WIDTH, 62), WIDTH, 62)


def _types(paper: Paper, activity: Activity) -> None:
    states = [state for state in State if activity.total.states.get(state)]
    wide = 0.58 / (len(states) + 2)
    heads = [("Type", 0.42, "L"), ("Jobs", wide, "R"), *((str(state), wide, "R") for state in states)]
    heads.append(("success", wide, "R"))
    paper.heading("By type")
    paper.rows(
        heads,
        [
            [
                kind.type,
                count(kind.jobs),
                *(count(kind.states.get(state, 0)) for state in states),
                "–" if kind.success_rate is None else share(kind.success_rate, 1),
            ]
            for kind in [*activity.types, activity.total]
        ],
        points=7 if len(states) < 5 else 6,  # noqa: PLR2004 - columns that fit in the larger letters
    )


def _named(activity: Activity, what: str) -> list[tuple[str, Percentiles]]:
    found = [(kind.type, getattr(kind, what)) for kind in [*activity.types, activity.total]]
    return [(name, points) for name, points in found if points is not None]


def _timings(paper: Paper, title: str, words: str, rows: list[tuple[str, Percentiles]]) -> None:
    if not rows:
        return
    paper.heading(title, keep=40)
    paper.paragraph(f"{words} Dot: median; mark: 95th percentile; the bar ends at the 99th. Logarithmic scale.")
    scale = LogScale.over([point for _, points in rows for point in (points.p50, points.p95, points.p99)])
    for place, word in scale.ticks():
        paper.pen(SOFT, 6)
        paper.set_xy(_LEFT + place * _WIDE - 8, paper.get_y())
        paper.cell(16, 4, word, align="C")
    paper.pen(SOFT, 6.5)
    for column, word in enumerate(("median", "95 %", "99 %")):
        paper.set_xy(MARGIN + WIDTH - 57 + 19 * column, paper.get_y())
        paper.cell(19, 4, word, align="R")
    paper.set_xy(MARGIN, paper.get_y() + 4)
    for name, points in rows:
        paper.need(_RANGE_LINE)
        _range(paper, name, points, scale)


def _range(paper: Paper, name: str, points: Percentiles, scale: LogScale) -> None:
    top = paper.get_y()
    middle = top + _RANGE_LINE / 2
    paper.set_draw_color(*rgb(LINE))
    paper.set_line_width(0.2)
    for place, _ in scale.ticks():
        paper.line(_LEFT + place * _WIDE, top, _LEFT + place * _WIDE, top + _RANGE_LINE)
    paper.pen(INK, 7.5, bold=True)
    paper.set_xy(MARGIN, top)
    paper.cell(46, _RANGE_LINE, paper.fitted(printable(name), 45))
    p50, p95, p99 = (_LEFT + scale.place(point) * _WIDE for point in (points.p50, points.p95, points.p99))
    paper.set_fill_color(*rgb("#a9c6ec"))
    paper.rect(p50, middle - 0.9, max(0.3, p99 - p50), 1.8, style="F")
    paper.set_draw_color(*rgb(BLUE))
    paper.set_line_width(0.6)
    paper.line(p95, middle - 1.7, p95, middle + 1.7)
    paper.set_line_width(0.2)
    paper.set_fill_color(*rgb(BLUE))
    paper.ellipse(p50 - 1.2, middle - 1.2, 2.4, 2.4, style="F")
    paper.pen(INK, 7)
    for column, point in enumerate((points.p50, points.p95, points.p99)):
        paper.set_xy(MARGIN + WIDTH - 57 + 19 * column, top)
        paper.cell(19, _RANGE_LINE, duration(point), align="R")
    paper.set_xy(MARGIN, top + _RANGE_LINE)


def _errors(paper: Paper, activity: Activity) -> None:
    if not activity.errors:
        return
    paper.heading("Most failing")
    heads = [("Type", 0.2, "L"), ("Error", 0.2, "L"), ("Jobs", 0.08, "R"), ("  Latest message", 0.52, "L")]
    paper.rows(
        heads,
        [
            (error.type, visible(error.error, 60), count(error.jobs), "  " + visible(error.message, 160))
            for error in activity.errors
        ],
        points=7,
    )


def _slowest(paper: Paper, activity: Activity) -> None:
    if not activity.slowest:
        return
    paper.heading("Slowest attempts")
    heads = [
        ("Type", 0.3, "L"),
        ("Took", 0.12, "R"),
        ("Attempt", 0.1, "R"),
        ("  Outcome", 0.14, "L"),
        ("Job", 0.34, "L"),
    ]
    paper.rows(
        heads,
        [
            (slow.type, duration(slow.seconds), str(slow.attempt), f"  {slow.outcome}", str(slow.job_id))
            for slow in activity.slowest
        ],
        points=7,
    )
