"""Cancel a job, and say truthfully what won."""

from typing import Literal
from uuid import UUID

from sqlalchemy import RowMapping, text

from service.jobs.queries import IDLE_SQL, JOB_COLUMNS, find_job
from service.jobs.states import FINAL, State
from service.transaction import transaction

CancelOutcome = Literal["cancelled", "requested", "already_final"]

# The state stands in the guard, so that of a cancel and a claim at the same moment exactly one finds its row.
CANCEL_IDLE = text(
    f"""
    WITH job AS (
        UPDATE jobs
           SET state = 'cancelled', finished_at = clock_timestamp(), cancel_requested_at = clock_timestamp(),
               event_seq = event_seq + 1
         WHERE id = :id AND tenant_id = :tenant_id AND state IN ({IDLE_SQL})
        RETURNING {JOB_COLUMNS}
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, event_seq, tenant_id, finished_at, state, 'cancelled' FROM job
    )
    SELECT * FROM job
    """  # noqa: S608
)

# A running job is only asked to stop: its worker learns of it with the next renewal and decides by finishing.
_REQUEST_CANCEL = text(
    f"""
    WITH job AS (
        UPDATE jobs
           SET cancel_requested_at = clock_timestamp(), event_seq = event_seq + 1
         WHERE id = :id AND tenant_id = :tenant_id AND state = 'running' AND cancel_requested_at IS NULL
        RETURNING {JOB_COLUMNS}
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, event_seq, tenant_id, cancel_requested_at, state, 'cancel_requested' FROM job
    )
    SELECT * FROM job
    """  # noqa: S608
)


class JobNotFound(LookupError):
    """The tenant has no job of that id."""


def cancel(tenant_id: UUID, job_id: UUID) -> tuple[RowMapping, CancelOutcome]:
    """Cancel a waiting job at once, or ask a running one to stop. Raises JobNotFound.

    Returns the job after the fact: `already_final` means that something else won, and its state says what.
    """
    parameters = {"id": job_id, "tenant_id": tenant_id}
    while True:
        with transaction("cancel") as session:
            if job := session.execute(CANCEL_IDLE, parameters).mappings().first():
                return job, "cancelled"
            if job := session.execute(_REQUEST_CANCEL, parameters).mappings().first():
                return job, "requested"
            job = find_job(session, tenant_id, job_id)
        if job is None:
            raise JobNotFound
        if State(job["state"]) in FINAL:
            return job, "already_final"
        if job["state"] == State.RUNNING and job["cancel_requested_at"] is not None:
            return job, "requested"
        # The job moved between the statements (given back while we looked): look again. Every move of a job brings
        # it nearer to an end, so this does not go on for ever.
