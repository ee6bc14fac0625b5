"""The tables of the heart: jobs, their attempts and events, and what the clock needs to hand them out."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, Index, LargeBinary, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.extensions import Base
from service.ids import uuid7
from service.jobs.states import FINAL, IDLE, UNFINISHED, State


def _listed(states: frozenset[State]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


class Job(Base):
    """One request to run a job type with given arguments. The row is the truth; a message only rings its id."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_listed(frozenset(State))})", name="state"),
        CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt_within_max"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_while_running"),
        CheckConstraint(f"(state IN ({_listed(FINAL)})) = (finished_at IS NOT NULL)", name="finished_when_final"),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        # What is looked for among a tenant's jobs most often, and seldom found there: it is not walked to.
        Index("ix_jobs_unfinished", "tenant_id", "id", postgresql_where=text(f"state IN ({_listed(UNFINISHED)})")),
        Index(
            "ix_jobs_not_succeeded",
            "tenant_id",
            "id",
            postgresql_where=text(f"state IN ({_listed(FINAL - {State.SUCCEEDED})})"),
        ),
        Index("ix_jobs_schedule", "schedule_id", "id", postgresql_where=text("schedule_id IS NOT NULL")),
        Index(
            "uq_jobs_unique_key",
            "tenant_id",
            "type",
            "unique_key",
            unique=True,
            postgresql_where=text(f"unique_key IS NOT NULL AND state IN ({_listed(UNFINISHED)})"),
        ),
        # What the clock looks for, each in an index that holds only the jobs it is about.
        # By lane (type, tenant, key), so that a lane that may not be rung is skipped and not walked through.
        Index(
            "ix_jobs_lanes",
            "queue",
            "type",
            "tenant_id",
            text("COALESCE(concurrency_key, '')"),
            text("priority DESC"),
            "id",
            postgresql_where=text("state = 'queued' AND rung_at IS NULL"),
        ),
        Index("ix_jobs_rung", "queue", "rung_at", postgresql_where=text("state = 'queued' AND rung_at IS NOT NULL")),
        Index("ix_jobs_due", "run_at", postgresql_where=text("state IN ('scheduled', 'retrying')")),
        Index("ix_jobs_leases", "lease_until", postgresql_where=text("state = 'running'")),
        Index(
            "ix_jobs_expiring",
            "expires_at",
            postgresql_where=text(f"expires_at IS NOT NULL AND state IN ({_listed(IDLE)})"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    args: Mapped[dict[str, Any]] = mapped_column(JSONB)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'"))
    unique_key: Mapped[str | None] = mapped_column(Text)
    concurrency_key: Mapped[str | None] = mapped_column(Text)
    """Of a tenant's jobs of one type and key, only so many run at a time as the type says (one by default)."""

    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that counted so far; the running one included."""
    max_attempts: Mapped[int]
    timeout_seconds: Mapped[int]
    token: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The fencing token: grows with every claim; only the holder of the current one can write."""
    lease_until: Mapped[datetime | None]
    attempt_deadline: Mapped[datetime | None]
    """The lease is never renewed past this moment."""
    worker: Mapped[str | None] = mapped_column(Text)
    """Who holds the claim: node name and process id."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    run_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    """Start of the latest attempt."""
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]

    rung_at: Mapped[datetime | None]
    """When the job was last rung since it was queued; none while only PostgreSQL knows that it waits."""
    ring_count: Mapped[int] = mapped_column(server_default=text("0"))

    progress_percent: Mapped[float | None]
    progress_message: Mapped[str | None] = mapped_column(Text)
    result: Mapped[Any | None] = mapped_column(JSONB)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

    event_seq: Mapped[int] = mapped_column(server_default=text("1"))
    """Number of the job's newest event."""
    origin_id: Mapped[UUID | None]
    """The final job that this one retries."""
    schedule_id: Mapped[UUID | None]
    request_id: Mapped[str | None] = mapped_column(Text)


class Attempt(Base):
    """One try at running a job, named by its fencing token."""

    __tablename__ = "job_attempts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID]
    attempt: Mapped[int]
    worker: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    """`succeeded`, `failed`, `cancelled`, `lost` (its process or lease was) or `given_back` (at a shutdown)."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    traceback: Mapped[str | None] = mapped_column(Text)


class Event(Base):
    """A numbered entry in a job's history: 1, 2, 3, without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID]
    at: Mapped[datetime]
    state: Mapped[str] = mapped_column(Text)
    """The job's state after the event."""
    name: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))


class IdempotencyKey(Base):
    """A client's key and the job that answered it first; written in the job's own transaction."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    job_id: Mapped[UUID]
    job_ids: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    """Of a batch: all its jobs, in order."""
    existing: Mapped[list[bool] | None] = mapped_column(ARRAY(Boolean))
    """Of each of its jobs, in order, whether it was there already, with the unique key. Null: none was."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class QueueState(Base):
    """What the dispatcher last saw of a queue, and whether the API may ring its jobs directly."""

    __tablename__ = "queue_states"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    ring_directly: Mapped[bool] = mapped_column(server_default=text("true"))
    """False while there is a backlog: then the dispatcher decides what is rung next."""
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DispatchRule(Base):
    """An operator's decision about a queue or a job type: paused, so many at a time, so many per time."""

    __tablename__ = "dispatch_rules"
    __table_args__ = (
        CheckConstraint("kind IN ('queue', 'type')", name="kind"),
        CheckConstraint("max_running > 0", name="max_running"),
        CheckConstraint("rate_count > 0 AND rate_seconds > 0", name="rate"),
        CheckConstraint("num_nulls(rate_count, rate_seconds) IN (0, 2)", name="whole_rate"),
    )

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    paused_at: Mapped[datetime | None]
    max_running: Mapped[int | None]
    rate_count: Mapped[int | None]
    rate_seconds: Mapped[float | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RateBucket(Base):
    """How many jobs of a type may still start now: a token bucket that the database's clock fills."""

    __tablename__ = "rate_buckets"

    type: Mapped[str] = mapped_column(Text, primary_key=True)
    tokens: Mapped[float]
    filled_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Repair(Base):
    """How much the clock mended, by hour and kind: for the integrity report."""

    __tablename__ = "repairs"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)


class ClockLease(Base):
    """Which beat acts as the clock, and until when that is believed."""

    __tablename__ = "clock_leases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    lease_until: Mapped[datetime]


class WorkerNode(Base):
    """A worker's sign of life, for `GET /queues` and for operators."""

    __tablename__ = "worker_nodes"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    concurrency: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
