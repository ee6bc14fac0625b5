"""A period's activity in all of its forms."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from service.jobs.activity import Activity
from worker.reporting.activity_html import activity_page
from worker.reporting.activity_pdf import activity_paper
from worker.reporting.activity_words import activity_csv, activity_result
from worker.reporting.job_stamp import Stamp


@dataclass(frozen=True)
class ActivityReport:
    """One report in four forms."""

    html: bytes
    pdf: bytes
    csv: bytes
    result: dict[str, Any]


def make_activity_report(activity: Activity, *, stamp: Stamp) -> ActivityReport:
    """Write the report; the same activity and stamp give the same report."""
    title = _title(activity)
    return ActivityReport(
        html=activity_page(activity, title, stamp).encode(),
        pdf=activity_paper(activity, title, stamp),
        csv=activity_csv(activity).encode(),
        result=activity_result(activity),
    )


def _title(activity: Activity) -> str:
    last = activity.until - timedelta(microseconds=1)
    if activity.since.date() == last.date():
        return f"Jobs on {last:%-d %B %Y}"
    return f"Jobs from {activity.since:%-d %B %Y} to {last:%-d %B %Y}"
