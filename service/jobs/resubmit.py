"""Retry a final job by hand: a new job that names the old one as its origin. A final state never changes."""

from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping

from service.jobs.cancel import JobNotFound
from service.jobs.new_job import Idempotency, NewJob
from service.jobs.queries import find_job
from service.jobs.states import FINAL, State
from service.jobs.submit import Intake, Submitted, answered_before
from service.transaction import reading


class JobNotFinal(Exception):
    """Only a job that has ended can be retried by hand."""

    def __init__(self, job: RowMapping) -> None:
        super().__init__(f"The job is {job['state']}; only a job that has ended can be retried.")


def resubmit(
    intake: Intake,
    tenant_id: UUID,
    job_id: UUID,
    *,
    args: dict[str, Any] | None = None,
    idempotency: Idempotency | None = None,
    request_id: str | None = None,
) -> Submitted:
    """Submit the job anew, with other arguments if some are given.

    Raises JobNotFound, JobNotFinal, and what `submit` raises.
    """
    with reading() as session:
        old = find_job(session, tenant_id, job_id)
    if old is None:
        # Whoever repeats the request may find it deleted, and is answered as at first.
        if idempotency is not None and (first := answered_before(tenant_id, idempotency)) is not None:
            return first
        raise JobNotFound
    if State(old["state"]) not in FINAL:
        raise JobNotFinal(old)
    new = NewJob(
        type=old["type"],
        args=old["args"] if args is None else args,
        queue=old["queue"],
        priority=old["priority"],
        concurrency_key=old["concurrency_key"],
        timeout=old["timeout_seconds"],
        max_attempts=old["max_attempts"],
        tags=old["tags"],
        metadata=old["metadata"],
        origin_id=old["id"],
    )
    return intake.submit(tenant_id, new, idempotency=idempotency, request_id=request_id)
