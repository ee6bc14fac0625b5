"""Export lists of jobs as a stream: CSV or newline-delimited JSON, page by page, so that memory stays flat."""

import csv
import io
from collections.abc import Iterator
from typing import Any, Literal
from uuid import UUID

import orjson
from flask import Response, stream_with_context
from werkzeug.datastructures import MIMEAccept

from service.jobs.presentation import describe
from service.jobs.queries import JobFilter, list_jobs
from service.transaction import reading

ExportFormat = Literal["text/csv", "application/x-ndjson"]

PAGE = 500
CSV_COLUMNS = (
    "id",
    "type",
    "state",
    "queue",
    "priority",
    "attempt",
    "max_attempts",
    "created_at",
    "run_at",
    "started_at",
    "finished_at",
    "tags",
    "args",
    "result",
    "error",
)


def export_format(accepted: MIMEAccept) -> ExportFormat | None:
    """The export that the client prefers to JSON, if any."""
    best = accepted.best_match(["application/json", "text/csv", "application/x-ndjson"], default="application/json")
    if best == "text/csv":
        return "text/csv"
    return "application/x-ndjson" if best == "application/x-ndjson" else None


def export_jobs(tenant_id: UUID, wanted: JobFilter, kind: ExportFormat, *, before: UUID | None) -> Response:
    """All jobs of the tenant that match, newest first."""
    lines = _csv_lines if kind == "text/csv" else _json_lines
    stream = stream_with_context(lines(_all_jobs(tenant_id, wanted, before)))
    response = Response(stream, mimetype=kind)
    response.headers["Content-Disposition"] = f"attachment; filename=jobs.{'csv' if kind == 'text/csv' else 'ndjson'}"
    return response


def _all_jobs(tenant_id: UUID, wanted: JobFilter, before: UUID | None) -> Iterator[dict[str, Any]]:
    while True:
        with reading() as session:
            page, has_more = list_jobs(session, tenant_id, wanted, before=before, limit=PAGE)
        for job in page:
            yield describe(job)
        if not has_more:
            return
        before = page[-1]["id"]


def _json_lines(jobs: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for job in jobs:
        yield orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE)


def _csv_lines(jobs: Iterator[dict[str, Any]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(CSV_COLUMNS)
    for job in jobs:
        writer.writerow([_cell(job.get(column)) for column in CSV_COLUMNS])
        if buffer.tell() > 1 << 16:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """A cell; a text that a spreadsheet would run as a formula is quoted (OWASP, CSV injection)."""
    if isinstance(value, dict | list):
        value = orjson.dumps(value).decode()
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value
