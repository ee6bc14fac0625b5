"""A period's activity as one HTML page."""

from service.jobs.activity import Activity
from service.jobs.states import State
from worker.reporting import svg
from worker.reporting.activity_words import axis_ticks, bucket_unit, bucket_words, period_words, remarks
from worker.reporting.job_stamp import Stamp
from worker.reporting.pages import render


def activity_page(activity: Activity, title: str, stamp: Stamp) -> str:
    """The whole report; it needs nothing but itself. A period without jobs gets a page that says so."""
    buckets = activity.buckets
    chart = svg.stacked_columns(
        [bucket_words(bucket.start, activity.bucket) for bucket in buckets],
        [
            ("succeeded", "succeeded", [bucket.succeeded for bucket in buckets]),
            ("failed", "failed or expired", [bucket.unsuccessful for bucket in buckets]),
            ("other", "other", [bucket.other for bucket in buckets]),
        ],
        axis_ticks(activity),
    )
    timed = [kind for kind in activity.types if kind.waiting or kind.running]
    return render(
        "activity.html",
        title=title,
        a=activity,
        period=period_words(activity),
        unit=bucket_unit(activity.bucket),
        notes=remarks(activity),
        chart=chart,
        waiting=svg.ranges([(kind.type, kind.waiting) for kind in timed if kind.waiting], label="Waiting by type"),
        running=svg.ranges([(kind.type, kind.running) for kind in timed if kind.running], label="Running by type"),
        states=[state for state in State if activity.total.states.get(state)],
        job_id=stamp.job_id,
        made_at=stamp.words,
    )
