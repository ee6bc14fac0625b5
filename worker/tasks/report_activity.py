"""`report.activity`: what the tenant's jobs did in a period."""

import calendar
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from service.jobs.activity import Activity, day_of_job, measure_activity
from service.queues import Queue
from service.transaction import reading, snapshot
from worker.context import JobContext, PermanentFailure
from worker.job_task import job

LONGEST = timedelta(days=366)


class ReportActivityArgs(Schema):
    """Arguments of `report.activity`: a period by name, or its bounds."""

    period = fields.String(
        validate=validate.OneOf(["day", "week", "month"]),
        metadata={"description": "How long the period before `until` is; a day where it and `since` are left out."},
    )
    since = fields.AwareDateTime(
        default_timezone=UTC, metadata={"description": "The period's beginning, instead of `period`."}
    )
    until = fields.AwareDateTime(
        default_timezone=UTC,
        metadata={"description": "The period's end, itself excluded; else the start, in UTC, of the job's own day."},
    )

    @validates_schema
    def _bounds(self, data: dict[str, Any], **_: object) -> None:
        since, until = data.get("since"), data.get("until")
        if since is not None and "period" in data:
            raise ValidationError("Give either period or since, not both.", "since")
        if since is None or until is None:
            return
        if since >= until:
            raise ValidationError("since must lie before until.", "since")
        if until - since > LONGEST:
            raise ValidationError(f"A period is at most {LONGEST.days} days long.", "since")


@job(
    "report.activity",
    args=ReportActivityArgs,
    queue=Queue.BULK,
    timeout=300,
    max_attempts=3,
    example={"period": "week"},
)
def report_activity(
    ctx: JobContext, *, period: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> dict[str, Any]:
    """Report on the tenant's jobs of a period: counts, success rate, waiting and running times, errors, with plots.

    Makes an HTML, a PDF and a CSV artifact; the result holds the figures and the artifacts' ids. A job belongs to the
    period in which it was created. A period without jobs gives a report that says so.
    """
    from worker.reporting.activity_report import make_activity_report  # noqa: PLC0415 - matplotlib is slow to import
    from worker.reporting.job_stamp import Stamp  # noqa: PLC0415 - as above

    ctx.progress(5, "Counting jobs")
    activity = _measure(ctx, period, since, until)
    ctx.progress(40, f"Writing about {activity.total.jobs:,} jobs")
    report = make_activity_report(activity, stamp=Stamp(ctx.job_id))
    ctx.progress(95, "Keeping the reports")
    stem = f"activity-{activity.since:%Y%m%d}-{activity.until:%Y%m%d}"
    ids = {
        "html": ctx.save_artifact(f"{stem}.html", "text/html; charset=utf-8", report.html),
        "pdf": ctx.save_artifact(f"{stem}.pdf", "application/pdf", report.pdf),
        "csv": ctx.save_artifact(f"{stem}.csv", "text/csv; charset=utf-8", report.csv),
    }
    ctx.progress(100, "Done")
    return {**report.result, "artifacts": {form: str(artifact_id) for form, artifact_id in ids.items()}}


def _measure(ctx: JobContext, period: str | None, since: datetime | None, until: datetime | None) -> Activity:
    if until is None:
        with reading() as session:
            until = day_of_job(session, ctx.tenant_id, ctx.job_id)
    until = until.astimezone(UTC)
    since = beginning(period or "day", until) if since is None else since.astimezone(UTC)
    if not timedelta(0) < until - since <= LONGEST:
        # The schema cannot tell while `until` comes from the job.
        raise PermanentFailure(
            f"The period from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC is empty or longer than "
            f"{LONGEST.days} days.",
            kind="bad_period",
        )
    with snapshot() as session:
        return measure_activity(session, ctx.tenant_id, since=since, until=until)


def beginning(period: str, until: datetime) -> datetime:
    """The moment a day, a week or a calendar month before `until`; a month back from the 31st ends on the last day."""
    if period != "month":
        return until - timedelta(days=7 if period == "week" else 1)
    year, month = (until.year, until.month - 1) if until.month > 1 else (until.year - 1, 12)
    return until.replace(year=year, month=month, day=min(until.day, calendar.monthrange(year, month)[1]))
