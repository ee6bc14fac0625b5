"""`table.report`: a table goes in, a report that a person wants to read comes out."""

from pathlib import PurePath
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields, validate

from service.queues import Queue
from worker.context import JobContext, PermanentFailure
from worker.job_task import job

TIMEOUT_SECONDS = 900
"""A CSV file of 1 GB takes about a minute on two cores; a slow disk may take several times that."""


class TableReportArgs(Schema):
    """Arguments of `table.report`."""

    artifact_id = fields.UUID(
        required=True, metadata={"description": "The uploaded CSV or Parquet file, from POST /artifacts."}
    )
    title = fields.String(
        validate=validate.Length(min=1, max=200), metadata={"description": "The report's title; else the file's name."}
    )
    delimiter = fields.String(
        validate=validate.OneOf([",", ";", "\t", "|"]),
        metadata={"description": "What separates a CSV file's fields; found out where it is left out."},
    )
    format = fields.String(
        validate=validate.OneOf(["csv", "parquet"]),
        metadata={"description": "The file's format; found out from its first bytes where it is left out."},
    )


@job(
    "table.report",
    args=TableReportArgs,
    queue=Queue.BULK,
    timeout=TIMEOUT_SECONDS,
    max_attempts=3,
    example={"artifact_id": "0193d5a0-7c00-7000-8000-000000000000", "title": "Orders of 2025"},
)
def table_report(
    ctx: JobContext,
    *,
    artifact_id: UUID,
    title: str | None = None,
    delimiter: str | None = None,
    format: str | None = None,  # noqa: A002 - the argument's name in the API
) -> dict[str, Any]:
    """Profile a CSV or Parquet file of up to 1 GB and write a report on it, as HTML and as PDF.

    The report shows for each column its type, missing and distinct values, statistics and distribution, and for the
    table correlations, duplicates and what is worth noticing. The result holds the figures and the ids of the two
    artifacts. A file that is not a table fails the job with the line and the reason.
    """
    # polars and matplotlib take half a second and 100 MB: only a process that makes a report pays for them.
    from worker.reporting.csv_structure import BadTable  # noqa: PLC0415
    from worker.reporting.job_stamp import Stamp  # noqa: PLC0415
    from worker.reporting.table_report import make_table_report  # noqa: PLC0415

    ctx.progress(0, "Opening the file")
    artifact = ctx.open_artifact(artifact_id)
    try:
        report = make_table_report(
            artifact.path,
            name=artifact.name,
            title=title,
            stamp=Stamp(ctx.job_id),
            scratch=ctx.scratch,
            progress=ctx.progress,
            file_format=format,
            delimiter=delimiter,
        )
    except BadTable as bad:
        raise PermanentFailure(str(bad), kind="bad_table") from None
    ctx.progress(98, "Keeping the reports")
    stem = PurePath(artifact.name).stem or "table"
    html_id = ctx.save_artifact(f"{stem}-report.html", "text/html; charset=utf-8", report.html)
    pdf_id = ctx.save_artifact(f"{stem}-report.pdf", "application/pdf", report.pdf)
    ctx.progress(100, "Done")
    return {**report.result, "artifacts": {"html": str(html_id), "pdf": str(pdf_id)}}
