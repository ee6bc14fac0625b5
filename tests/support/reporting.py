"""A real JobContext for handlers that make reports, and rows of jobs for them to report on."""

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.artifacts.storage import ArtifactStorage
from service.ids import uuid7
from worker.context import JobContext


@dataclass
class Told:
    """What a handler said while it ran."""

    progress: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, percent: float, message: str) -> None:
        self.progress.append((percent, message))


def job_context(folder: Path, storage: ArtifactStorage, *, tenant_id: UUID, job_id: UUID, job_type: str) -> JobContext:
    """An attempt that writes into `folder`; its `report_progress` is a `Told`."""
    scratch = folder / uuid7().hex
    scratch.mkdir(parents=True)
    return JobContext(
        job_id=job_id,
        tenant_id=tenant_id,
        job_type=job_type,
        attempt=1,
        max_attempts=3,
        config={},
        make_scratch=lambda: scratch,
        storage=storage,
        report_progress=Told(),
        log=logging.LoggerAdapter(logging.getLogger("tests"), {}),
    )


def kept(ctx: JobContext) -> dict[str, bytes]:
    """What the handler saved, by the end of its name."""
    return {
        artifact.name.rsplit(".", 1)[1]: ctx.storage.path(artifact.stored.key).read_bytes()
        for artifact in ctx.artifacts
    }


def new_tenant(session: Session) -> UUID:
    """A tenant of its own, committed."""
    tenant_id = uuid7()
    session.execute(
        text("INSERT INTO tenants (id, name) VALUES (:id, :name)"), {"id": tenant_id, "name": f"t-{tenant_id}"}
    )
    session.commit()
    return tenant_id


def id_of(moment: datetime) -> UUID:
    """A new id such as was made at that moment."""
    return UUID(int=int(moment.timestamp() * 1000) << 80 | uuid7().int & (1 << 80) - 1)


def insert_job(
    session: Session,
    tenant_id: UUID,
    *,
    created_at: datetime,
    job_type: str = "test.echo",
    state: str = "succeeded",
    waited: float = 0.0,
    ran: float | None = None,
    error: dict[str, Any] | None = None,
) -> UUID:
    """A job that waited and ran so many seconds; with `ran` it has one finished attempt."""
    job_id = id_of(created_at)
    started = None if ran is None else created_at + timedelta(seconds=waited)
    finished = None if started is None or ran is None else started + timedelta(seconds=ran)
    final = state in {"succeeded", "failed", "cancelled", "expired"}
    session.execute(
        text("""
            INSERT INTO jobs (id, tenant_id, type, queue, state, args, attempt, max_attempts, timeout_seconds,
                              created_at, run_at, started_at, finished_at, error)
            VALUES (:id, :tenant_id, :type, 'default', :state, '{}', :attempt, 3, 60,
                    :created_at, :created_at, :started_at, :finished_at, CAST(:error AS jsonb))
        """),
        {
            "id": job_id,
            "tenant_id": tenant_id,
            "type": job_type,
            "state": state,
            "attempt": 0 if started is None else 1,
            "created_at": created_at,
            "started_at": started,
            "finished_at": (finished or created_at) if final else None,
            "error": None if error is None else json.dumps(error),
        },
    )
    if started is not None:
        session.execute(
            text("""
                INSERT INTO job_attempts (job_id, token, tenant_id, attempt, worker, started_at, finished_at, outcome)
                VALUES (:job_id, 1, :tenant_id, 1, 'w', :started_at, :finished_at, :outcome)
            """),
            {
                "job_id": job_id,
                "tenant_id": tenant_id,
                "started_at": started,
                "finished_at": finished,
                "outcome": "succeeded" if state == "succeeded" else "failed",
            },
        )
    return job_id
