"""Rescue: jobs whose lease ran out go back to their queue, or end as failed when their attempts are spent."""

from sqlalchemy import RowMapping, text

from service.jobs.execution import REQUEUE_STATE, end_of_attempt
from service.jobs.queries import IDLE_SQL, JOB_COLUMNS
from service.jobs.repairs import note_repairs
from service.transaction import to_jsonb, transaction

# The inner query only finds candidates; `FOR UPDATE` around it checks state and lease again on the locked row, so a
# renewal or a finish that came between wins. `SKIP LOCKED`: whoever holds the row is about to end or renew it.
# `statement_timestamp()` stands where an index is to be used: `clock_timestamp()` may differ from row to row.
_OVERDUE = """id IN (SELECT id FROM jobs WHERE state = 'running' AND lease_until < statement_timestamp()
                      ORDER BY lease_until LIMIT :at_most FOR UPDATE SKIP LOCKED)
              AND state = 'running' AND lease_until < clock_timestamp()"""

_RESCUE = text(end_of_attempt(REQUEUE_STATE, _OVERDUE))

LEASE_LOST_ERROR = {
    "type": "lease_lost",
    "message": "The worker that ran this attempt gave no sign of life in time.",
}


def rescue(*, at_most: int = 500) -> list[RowMapping]:
    """End the attempts whose lease ran out; returns their jobs as they stand now."""
    parameters = {
        "at_most": at_most,
        "outcome": "lost",
        "error": to_jsonb(LEASE_LOST_ERROR),
        "result": None,
        "traceback": None,
        "delay_seconds": None,
    }
    with transaction("rescue") as session:
        rescued = list(session.execute(_RESCUE, parameters).mappings())
        note_repairs(session, "rescued", len(rescued))
    return rescued


_EXPIRE = text(
    f"""
    WITH job AS (
        UPDATE jobs
           SET state = 'expired', finished_at = clock_timestamp(), event_seq = event_seq + 1,
               error = jsonb_build_object('type', 'expired', 'attempt', attempt,
                                          'message', 'The job did not start before its expires_at.'
                                              || COALESCE(' Its last attempt failed: ' || (error ->> 'message'), ''))
         WHERE id IN (SELECT id FROM jobs WHERE expires_at <= statement_timestamp() AND state IN ({IDLE_SQL})
                       ORDER BY expires_at LIMIT :at_most FOR UPDATE SKIP LOCKED)
           AND state IN ({IDLE_SQL})
        RETURNING {JOB_COLUMNS}
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, event_seq, tenant_id, finished_at, state, state FROM job
    )
    SELECT id FROM job
    """  # noqa: S608 - only constants of ours are put in
)


def expire(*, at_most: int = 500) -> int:
    """End jobs that did not start before their `expires_at`; returns how many."""
    with transaction("expire") as session:
        return len(session.execute(_EXPIRE, {"at_most": at_most}).all())
