"""What both forms of the activity report say: periods, words on the axis, remarks and the JSON result."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

from service.jobs.activity import Activity, Percentiles, TypeActivity
from service.jobs.states import UNFINISHED, State
from worker.reporting.text import duration, plain, plural, share, visible

_LOW_SUCCESS = 0.95
_FEW = 5
_SLOW_WAIT_SECONDS = 60


def period_words(activity: Activity) -> str:
    """`2026-03-01 00:00 to 2026-03-02 00:00 UTC`."""
    return f"{activity.since:%Y-%m-%d %H:%M} to {activity.until:%Y-%m-%d %H:%M} UTC"


def bucket_words(start: datetime, width: timedelta) -> str:
    """A bucket's beginning, as short as its width allows."""
    return f"{start:%Y-%m-%d %H:%M}" if width < timedelta(days=1) else f"{start:%Y-%m-%d}"


def bucket_unit(width: timedelta) -> str:
    """`hour`, `day` or `week`."""
    return {timedelta(hours=1): "hour", timedelta(days=1): "day"}.get(width, "week")


def axis_ticks(activity: Activity) -> list[tuple[float, str]]:
    """Up to five buckets' beginnings along the axis, as places from 0 to 1 with their words."""
    buckets = activity.buckets
    step = max(1, -(-len(buckets) // 5))
    return [
        (place / len(buckets), bucket_words(buckets[place].start, activity.bucket))
        for place in range(0, len(buckets), step)
    ]


def remarks(activity: Activity) -> list[tuple[str, str]]:
    """Sentences worth reading first, as level and text."""
    total = activity.total
    found = []
    if total.unsuccessful and activity.errors:
        worst = activity.errors[0]
        most = f"{worst.type} with “{visible(worst.error, 60)}” ({worst.jobs:,})"
        found.append(("warning", f"{plural(total.unsuccessful, 'job')} did not succeed; most often {most}."))
    for kind in activity.types:
        rate = kind.success_rate
        if rate is not None and rate < _LOW_SUCCESS and kind.jobs >= _FEW:
            found.append(("warning", f"{kind.type} succeeds in {share(rate, 1)} of its jobs."))
        if kind.waiting is not None and kind.waiting.p95 > _SLOW_WAIT_SECONDS:
            words = f"One in twenty jobs of {kind.type} waited longer than {duration(kind.waiting.p95)}."
            found.append(("warning", words))
    unfinished = sum(total.states.get(state, 0) for state in UNFINISHED)
    if unfinished:
        verb = "is" if unfinished == 1 else "are"
        found.append(("info", f"{plural(unfinished, 'job')} of the period {verb} not finished yet."))
    if not found and total.jobs:
        found.append(("info", "Every job that ended has succeeded."))
    return found


def activity_result(activity: Activity) -> dict[str, Any]:
    """The report as plain JSON. Durations are seconds; `jobs` is 0 for a period without any."""
    return {
        "since": activity.since.isoformat(),
        "until": activity.until.isoformat(),
        "jobs": activity.total.jobs,
        "states": dict(sorted(activity.total.states.items())),
        "success_rate": _rounded(activity.total.success_rate),
        "waiting_seconds": _points(activity.total.waiting),
        "running_seconds": _points(activity.total.running),
        "types": [_type(kind) for kind in activity.types],
        "slowest": [
            {
                "job_id": str(slow.job_id),
                "type": slow.type,
                "attempt": slow.attempt,
                "seconds": _rounded(slow.seconds),
                "outcome": slow.outcome,
            }
            for slow in activity.slowest
        ],
        "errors": [
            {
                "type": error.type,
                "error": visible(error.error, 100),
                "jobs": error.jobs,
                "last_at": plain(error.last_at),
                "message": visible(error.message, 200),
            }
            for error in activity.errors
        ],
        "over_time": {
            "unit": bucket_unit(activity.bucket),
            "buckets": [
                [bucket.start.isoformat(), bucket.succeeded, bucket.unsuccessful, bucket.other]
                for bucket in activity.buckets
            ],
        },
    }


def _type(kind: TypeActivity) -> dict[str, Any]:
    return {
        "type": kind.type,
        "jobs": kind.jobs,
        "states": dict(sorted(kind.states.items())),
        "success_rate": _rounded(kind.success_rate),
        "waiting_seconds": _points(kind.waiting),
        "running_seconds": _points(kind.running),
    }


def _points(points: Percentiles | None) -> dict[str, Any] | None:
    if points is None:
        return None
    named = {"p50": points.p50, "p95": points.p95, "p99": points.p99}
    return {"count": points.count, **{name: _rounded(value) for name, value in named.items()}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def activity_csv(activity: Activity) -> str:
    """One row per job type and one for all; durations in seconds."""
    target = io.StringIO()
    writer = csv.writer(target)
    timings = [f"{what}_{point}_seconds" for what in ("waiting", "running") for point in ("p50", "p95", "p99")]
    writer.writerow(["since", "until", "type", "jobs", *(str(state) for state in State), "success_rate", *timings])
    for kind in [*activity.types, activity.total]:
        points = [
            "" if timing is None else _rounded(value)
            for timing in (kind.waiting, kind.running)
            for value in ((timing.p50, timing.p95, timing.p99) if timing else (None, None, None))
        ]
        states = [kind.states.get(state, 0) for state in State]
        rate = "" if kind.success_rate is None else _rounded(kind.success_rate)
        writer.writerow(
            [activity.since.isoformat(), activity.until.isoformat(), kind.type, kind.jobs, *states, rate, *points]
        )
    return target.getvalue()
