"""Claims of jobs that may not run beside too many others: the lanes are locked first, then counted.

Two statements, because one statement sees the jobs as they were before it waited for the lock.
"""

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.jobs.types import JobType


@dataclass(frozen=True)
class Limits:
    """What a job type's own declaration allows at a time."""

    max_running: int | None = None
    max_running_per_key: int = 1

    @classmethod
    def of(cls, job_type: JobType) -> Self:
        """The declared limits of a type."""
        return cls(job_type.max_running, job_type.max_running_per_key)


UNDECLARED = Limits()
"""A type that declares none."""

# In a claim's WHERE: true for a job that nothing limits, which is what nearly every claim finds.
UNLIMITED = """
    CAST(:type_limit AS int) IS NULL AND concurrency_key IS NULL
    AND NOT EXISTS (SELECT FROM dispatch_rules
                     WHERE (paused_at IS NOT NULL OR max_running IS NOT NULL)
                       AND (kind = 'queue' AND name = jobs.queue OR kind = 'type' AND name = jobs.type))
"""

# True for a job whose lanes have room. Only to be trusted while the lanes are locked.
WITHIN_LIMITS = """
    NOT EXISTS (SELECT FROM dispatch_rules
                 WHERE paused_at IS NOT NULL
                   AND (kind = 'queue' AND name = jobs.queue OR kind = 'type' AND name = jobs.type))
    AND (SELECT count(*) FROM jobs AS other WHERE other.state = 'running' AND other.queue = jobs.queue)
        < COALESCE((SELECT max_running FROM dispatch_rules WHERE kind = 'queue' AND name = jobs.queue), 2147483647)
    AND (SELECT count(*) FROM jobs AS other WHERE other.state = 'running' AND other.type = jobs.type)
        < COALESCE((SELECT max_running FROM dispatch_rules WHERE kind = 'type' AND name = jobs.type),
                   CAST(:type_limit AS int), 2147483647)
    AND (concurrency_key IS NULL
         OR (SELECT count(*) FROM jobs AS other
              WHERE other.state = 'running' AND other.tenant_id = jobs.tenant_id AND other.type = jobs.type
                AND other.concurrency_key = jobs.concurrency_key) < :key_limit)
"""

# In the order of their numbers, so that two claims cannot wait for each other in a circle. Of the transaction, not of
# the session: it ends with the claim, behind any connection pooler.
_LOCK_LANES = text(
    """
    SELECT pg_advisory_xact_lock(lane) FROM (
        SELECT hashtextextended(name, 0) AS lane FROM (
            SELECT 'queue:' || queue AS name FROM jobs WHERE id = :id AND state = 'queued'
            UNION ALL SELECT 'type:' || type FROM jobs WHERE id = :id AND state = 'queued'
            UNION ALL SELECT 'key:' || tenant_id || type || ':' || concurrency_key FROM jobs
                       WHERE id = :id AND state = 'queued' AND concurrency_key IS NOT NULL
        ) AS lanes
        ORDER BY 1
    ) AS in_order
    """
)

# A job that was rung and may not start is handed back to the dispatcher, which rings it when there is room.
_UNRING = text("UPDATE jobs SET rung_at = NULL, ring_count = 0 WHERE id = :id AND state = 'queued'")


def lock_lanes(session: Session, job_id: UUID) -> bool:
    """Wait until no other claim of the same lanes is under way. False: the job is not queued, nothing is locked."""
    return bool(session.execute(_LOCK_LANES, {"id": job_id}).all())


def unring(session: Session, job_id: UUID) -> None:
    """Leave the job to the dispatcher."""
    session.execute(_UNRING, {"id": job_id})


def limit_parameters(limits: Limits) -> dict[str, Any]:
    """The parameters of the conditions above."""
    return {"type_limit": limits.max_running, "key_limit": limits.max_running_per_key}
