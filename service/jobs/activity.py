"""What a tenant's jobs did in a period: one statement per figure, all of them seeing the same moment.

A job belongs to the period in which it was created; how it went is told as of now.
"""

# ruff: noqa: S608 - only a constant of ours is put into the statements

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.ids import id_after, id_before
from service.jobs.states import State

LISTED = 10
"""Rows in the lists of the slowest attempts and of the most frequent errors."""
_HOURLY_UP_TO = timedelta(days=2)
_DAILY_UP_TO = timedelta(days=92)
_UNSUCCESSFUL = (State.FAILED, State.EXPIRED)


# The times decide; the ids make it a walk over a part of the tenant's index.
_OF_PERIOD = """jobs.tenant_id = :tenant_id AND jobs.id > :not_from AND jobs.id < :not_up_to
               AND jobs.created_at >= :since AND jobs.created_at < :until"""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of durations in seconds, and of how many durations."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass
class TypeActivity:
    """The jobs of one type, or of all types together."""

    type: str
    states: dict[str, int] = field(default_factory=dict)
    waiting: Percentiles | None = None
    """From the moment a job's latest attempt was due to the moment it started."""
    running: Percentiles | None = None
    """From start to end of every finished attempt."""

    @property
    def jobs(self) -> int:
        """Jobs in whatever state."""
        return sum(self.states.values())

    @property
    def unsuccessful(self) -> int:
        """Jobs that failed for good, or expired."""
        return sum(self.states.get(state, 0) for state in _UNSUCCESSFUL)

    @property
    def success_rate(self) -> float | None:
        """Succeeded jobs among those that succeeded, failed or expired, 0 to 1; None while there are none."""
        succeeded = self.states.get(State.SUCCEEDED, 0)
        ended = succeeded + self.unsuccessful
        return succeeded / ended if ended else None


@dataclass(frozen=True)
class SlowAttempt:
    """One of the longest attempts."""

    job_id: UUID
    type: str
    attempt: int
    seconds: float
    outcome: str


@dataclass(frozen=True)
class FrequentError:
    """An error with which jobs of a type ended, and an example of its message."""

    type: str
    error: str
    jobs: int
    last_at: datetime
    message: str


@dataclass(frozen=True)
class Bucket:
    """Jobs created from `start` until the next bucket, by how they went."""

    start: datetime
    succeeded: int
    unsuccessful: int
    other: int


@dataclass(frozen=True)
class Activity:
    """The jobs that a tenant created from `since` until before `until`."""

    since: datetime
    until: datetime
    total: TypeActivity
    types: list[TypeActivity]
    """Most jobs first."""
    slowest: list[SlowAttempt]
    errors: list[FrequentError]
    bucket: timedelta
    buckets: list[Bucket]


def day_of_job(session: Session, tenant_id: UUID, job_id: UUID) -> datetime:
    """The start, in UTC, of the day on which the job was created: the same at each of its attempts."""
    found = session.execute(
        text("SELECT date_trunc('day', created_at, 'UTC') FROM jobs WHERE id = :job_id AND tenant_id = :tenant_id"),
        {"job_id": job_id, "tenant_id": tenant_id},
    )
    day: datetime = found.scalar_one()
    return day


def measure_activity(session: Session, tenant_id: UUID, *, since: datetime, until: datetime) -> Activity:
    """Count and time the tenant's jobs of the period.

    `session` is to be a snapshot: otherwise a job that ends meanwhile would make the figures disagree.
    """
    period = {
        "tenant_id": tenant_id,
        "since": since,
        "until": until,
        "not_from": id_before(since),
        "not_up_to": id_after(until),
    }
    types = _count_states(session, period)
    total = TypeActivity("all types")
    for kind in types.values():
        for state, jobs in kind.states.items():
            total.states[state] = total.states.get(state, 0) + jobs
    for name, waiting in _percentiles(session, _WAITING, period).items():
        (types[name] if name else total).waiting = waiting
    for name, running in _percentiles(session, _RUNNING, period).items():
        (types[name] if name else total).running = running
    bucket = bucket_width(until - since)
    return Activity(
        since=since,
        until=until,
        total=total,
        types=sorted(types.values(), key=lambda kind: (-kind.jobs, kind.type)),
        slowest=_slowest(session, period),
        errors=_frequent_errors(session, period),
        bucket=bucket,
        buckets=_over_time(session, period, bucket),
    )


def bucket_width(span: timedelta) -> timedelta:
    """Hours for up to two days, days for up to three months, else weeks."""
    if span <= _HOURLY_UP_TO:
        return timedelta(hours=1)
    return timedelta(days=1) if span <= _DAILY_UP_TO else timedelta(days=7)


def _count_states(session: Session, period: dict[str, Any]) -> dict[str, TypeActivity]:
    rows = session.execute(
        text(f"""
            SELECT type, state, count(*)
              FROM jobs
             WHERE {_OF_PERIOD}
             GROUP BY type, state
        """),
        period,
    )
    types: dict[str, TypeActivity] = {}
    for name, state, jobs in rows:
        types.setdefault(name, TypeActivity(name)).states[state] = jobs
    return types


# A retry moves `run_at` past `started_at` until its attempt begins: such a pair says nothing about waiting.
_WAITING = f"""
    SELECT type, count(*), percentile_cont(ARRAY[0.5, 0.95, 0.99])
                           WITHIN GROUP (ORDER BY extract(epoch FROM started_at - run_at)::float8)
      FROM jobs
     WHERE {_OF_PERIOD}
       AND started_at >= run_at
     GROUP BY GROUPING SETS ((type), ())
    HAVING count(*) > 0
"""
_RUNNING = f"""
    SELECT type, count(*), percentile_cont(ARRAY[0.5, 0.95, 0.99])
                           WITHIN GROUP (ORDER BY extract(epoch FROM tried.finished_at - tried.started_at)::float8)
      FROM jobs
      JOIN job_attempts AS tried ON tried.job_id = jobs.id AND tried.tenant_id = jobs.tenant_id
     WHERE {_OF_PERIOD}
       AND tried.finished_at IS NOT NULL
     GROUP BY GROUPING SETS ((type), ())
    HAVING count(*) > 0
"""


def _percentiles(session: Session, statement: str, period: dict[str, Any]) -> dict[str | None, Percentiles]:
    """By type; under None those of all types together."""
    return {name: Percentiles(count, *points) for name, count, points in session.execute(text(statement), period)}


def _slowest(session: Session, period: dict[str, Any]) -> list[SlowAttempt]:
    rows = session.execute(
        text(f"""
            SELECT jobs.id, jobs.type, tried.attempt,
                   extract(epoch FROM tried.finished_at - tried.started_at)::float8 AS seconds,
                   coalesce(tried.outcome, '')
              FROM jobs
              JOIN job_attempts AS tried ON tried.job_id = jobs.id AND tried.tenant_id = jobs.tenant_id
             WHERE {_OF_PERIOD}
               AND tried.finished_at IS NOT NULL
             ORDER BY seconds DESC, jobs.id, tried.token
             LIMIT :listed
        """),
        {**period, "listed": LISTED},
    )
    return [SlowAttempt(*row) for row in rows]


def _frequent_errors(session: Session, period: dict[str, Any]) -> list[FrequentError]:
    rows = session.execute(
        text(f"""
            SELECT type, coalesce(error->>'type', state) AS error, count(*) AS jobs, max(finished_at),
                   coalesce((array_agg(left(error->>'message', 300) ORDER BY finished_at DESC, id DESC))[1], '')
              FROM jobs
             WHERE {_OF_PERIOD}
               AND state IN ('failed', 'expired')
             GROUP BY 1, 2
             ORDER BY jobs DESC, 1, 2
             LIMIT :listed
        """),
        {**period, "listed": LISTED},
    )
    return [FrequentError(*row) for row in rows]


def _over_time(session: Session, period: dict[str, Any], bucket: timedelta) -> list[Bucket]:
    rows = session.execute(
        text(f"""
            SELECT slot,
                   count(jobs.id) FILTER (WHERE state = 'succeeded'),
                   count(jobs.id) FILTER (WHERE state IN ('failed', 'expired')),
                   count(jobs.id) FILTER (WHERE state NOT IN ('succeeded', 'failed', 'expired'))
              FROM generate_series(CAST(:since AS timestamptz), CAST(:until AS timestamptz) - interval '1 microsecond',
                                   CAST(:bucket AS interval)) AS slot
              LEFT JOIN jobs ON {_OF_PERIOD}
                            AND date_bin(CAST(:bucket AS interval), jobs.created_at, CAST(:since AS timestamptz)) = slot
             GROUP BY slot
             ORDER BY slot
        """),
        {**period, "bucket": bucket},
    )
    return [Bucket(*row) for row in rows]
