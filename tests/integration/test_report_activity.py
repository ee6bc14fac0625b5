"""`report.activity` on rows in PostgreSQL."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from flask import Flask
from marshmallow import ValidationError

from service.artifacts.storage import ArtifactStorage
from service.extensions import db
from service.jobs.activity import measure_activity
from service.transaction import snapshot
from tests.support.reporting import insert_job, job_context, kept, new_tenant
from worker.context import JobContext, PermanentFailure
from worker.tasks.report_activity import ReportActivityArgs, beginning, report_activity

DAY = datetime(2026, 3, 10, tzinfo=UTC)


@pytest.fixture
def tenant(app: Flask) -> Iterator[UUID]:
    with app.app_context():
        yield new_tenant(db.session())


@pytest.fixture
def ctx(tenant: UUID, tmp_path: Path) -> JobContext:
    job_id = insert_job(db.session(), tenant, created_at=DAY + timedelta(days=1, hours=2), state="queued")
    db.session.commit()
    storage = ArtifactStorage(tmp_path / "storage")
    return job_context(tmp_path, storage, tenant_id=tenant, job_id=job_id, job_type="report.activity")


def _busy_day(tenant: UUID) -> None:
    session = db.session()
    for number in range(100):
        insert_job(session, tenant, created_at=DAY + timedelta(minutes=10 * number), waited=1.0, ran=float(number + 1))
    for number in range(10):
        insert_job(
            session,
            tenant,
            created_at=DAY + timedelta(hours=number),
            job_type="http.request",
            state="failed",
            waited=2.0,
            ran=0.5,
            error={"type": "<b>refused</b>", "message": f"number {number}", "attempt": 1},
        )
    insert_job(session, tenant, created_at=DAY, job_type="http.request", state="queued")
    insert_job(session, tenant, created_at=DAY - timedelta(microseconds=1), ran=9.0)
    insert_job(session, tenant, created_at=DAY + timedelta(days=1), ran=9.0)
    session.commit()


def test_counts_rates_and_percentiles_are_those_of_the_period(ctx: JobContext, tenant: UUID) -> None:
    _busy_day(tenant)

    result = report_activity(ctx)

    assert (result["since"], result["until"]) == ("2026-03-10T00:00:00+00:00", "2026-03-11T00:00:00+00:00")
    assert result["jobs"] == 111
    assert result["states"] == {"failed": 10, "queued": 1, "succeeded": 100}
    assert result["success_rate"] == pytest.approx(100 / 110, abs=1e-6)
    types = {row["type"]: row for row in result["types"]}
    assert types["test.echo"]["running_seconds"] == {"count": 100, "p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert types["http.request"]["waiting_seconds"] == {"count": 10, "p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert types["http.request"]["success_rate"] == 0
    assert result["waiting_seconds"]["count"] == 110
    assert result["slowest"][0]["seconds"] == 100
    assert result["errors"] == [
        {
            "type": "http.request",
            "error": "<b>refused</b>",
            "jobs": 10,
            "last_at": "2026-03-10T09:00:02.500000+00:00",
            "message": "number 9",
        }
    ]
    assert len(result["over_time"]["buckets"]) == 24
    assert sum(sum(counts) for _, *counts in result["over_time"]["buckets"]) == 111


def test_the_report_comes_as_page_paper_and_table(ctx: JobContext, tenant: UUID) -> None:
    _busy_day(tenant)

    result = report_activity(ctx)
    files = kept(ctx)

    page = files["html"].decode()
    assert "Jobs on 10 March 2026" in page
    assert "&lt;b&gt;refused&lt;/b&gt;" in page
    assert "<b>refused</b>" not in page
    assert files["pdf"].startswith(b"%PDF-")
    rows = list(csv.DictReader(io.StringIO(files["csv"].decode())))
    assert [row["type"] for row in rows] == ["test.echo", "http.request", "all types"]
    assert rows[0]["running_p95_seconds"] == "95.05"
    assert result["artifacts"] == {
        form: str(artifact.id) for form, artifact in zip(("html", "pdf", "csv"), ctx.artifacts, strict=True)
    }
    json.dumps(result, allow_nan=False)


def test_called_twice_it_reports_the_same(ctx: JobContext, tenant: UUID, tmp_path: Path) -> None:
    _busy_day(tenant)
    again = job_context(tmp_path, ctx.storage, tenant_id=tenant, job_id=ctx.job_id, job_type=ctx.job_type)

    first, second = report_activity(ctx), report_activity(again)

    assert {**first, "artifacts": None} == {**second, "artifacts": None}
    assert kept(ctx) == kept(again)


def test_another_tenants_jobs_are_not_counted(ctx: JobContext) -> None:
    _busy_day(new_tenant(db.session()))

    result = report_activity(ctx)

    assert result["jobs"] == 0
    assert (result["slowest"], result["errors"], result["types"]) == ([], [], [])


def test_an_empty_period_gives_a_report_that_says_so(ctx: JobContext) -> None:
    result = report_activity(ctx)

    assert (result["jobs"], result["success_rate"], result["running_seconds"]) == (0, None, None)
    assert "No jobs in this period" in kept(ctx)["html"].decode()
    assert kept(ctx)["pdf"].startswith(b"%PDF-")


def test_a_period_that_ends_before_it_begins_fails_for_good(ctx: JobContext) -> None:
    with pytest.raises(PermanentFailure, match="empty or longer"):
        report_activity(ctx, since=DAY + timedelta(days=5))


def test_all_statements_see_one_snapshot(app: Flask, tenant: UUID) -> None:
    _busy_day(tenant)

    with snapshot() as session:
        activity = measure_activity(session, tenant, since=DAY - timedelta(days=20), until=DAY + timedelta(days=2))
        isolation = session.connection().get_isolation_level()

    assert isolation == "REPEATABLE READ"
    assert activity.bucket == timedelta(days=1)
    assert activity.total.jobs == 113
    assert sum(bucket.succeeded + bucket.unsuccessful + bucket.other for bucket in activity.buckets) == 113


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("day", datetime(2026, 3, 30, tzinfo=UTC)),
        ("week", datetime(2026, 3, 24, tzinfo=UTC)),
        ("month", datetime(2026, 2, 28, tzinfo=UTC)),
    ],
)
def test_named_periods_reach_back_from_their_end(period: str, expected: datetime) -> None:
    assert beginning(period, datetime(2026, 3, 31, tzinfo=UTC)) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"period": "year"},
        {"period": "day", "since": "2026-03-01T00:00:00Z"},
        {"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"},
        {"since": "2024-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"},
        {"until": "yesterday"},
    ],
)
def test_arguments_that_name_no_period_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ReportActivityArgs().load(arguments)
