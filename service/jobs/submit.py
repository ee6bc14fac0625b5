"""Accept a job: validate, store it with its idempotency record and first event in one statement, commit, ring."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from marshmallow import ValidationError
from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.ids import uuid7
from service.jobs.cancel import CANCEL_IDLE
from service.jobs.queries import JOB_COLUMNS, UNFINISHED_SQL, find_job
from service.jobs.ring import Bell
from service.jobs.states import State
from service.jobs.types import JobType, UnknownJobType, registry
from service.statements import Row, Statement
from service.transaction import execute_alone, to_jsonb, transaction

OnConflict = Literal["use_existing", "reject", "replace"]


@dataclass(frozen=True)
class NewJob:
    """What a client asks for; None means: as the job type says. Times in seconds."""

    type: str
    args: dict[str, Any]
    queue: str | None = None
    priority: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    expires_at: datetime | None = None
    timeout: int | None = None
    max_attempts: int | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    on_conflict: OnConflict = "use_existing"
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    origin_id: UUID | None = None
    schedule_id: UUID | None = None


@dataclass(frozen=True)
class Idempotency:
    """A client's key, the fingerprint of the request that it came with, and how long keys are kept, in hours."""

    key: str
    fingerprint: bytes
    kept_hours: int


@dataclass(frozen=True)
class Submitted:
    """The job that answers the request, and how it came about."""

    job: Row
    outcome: Literal["created", "replayed", "existing"]


class InvalidJob(Exception):
    """The request names what does not exist or breaks the job type's schema. `errors` are shaped like the body."""

    def __init__(self, errors: dict[str, Any]) -> None:
        super().__init__("The job is not valid.")
        self.errors = errors


class IdempotencyKeyReused(Exception):
    """The key was used before with another request."""


class UniqueKeyTaken(Exception):
    """An unfinished job holds the unique key, and the client chose to be refused."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"The unfinished job {job_id} holds this unique_key.")
        self.job_id = job_id


def submit(
    bell: Bell,
    tenant_id: UUID,
    new: NewJob,
    *,
    idempotency: Idempotency | None = None,
    request_id: str | None = None,
) -> Submitted:
    """Store the job durably, then ring for it. What returns from here is kept.

    Raises InvalidJob, IdempotencyKeyReused or UniqueKeyTaken, and then nothing was stored. A broker that is down is
    no error: the dispatcher rings later.
    """
    job_type = check(new)
    parameters = _parameters(
        tenant_id, new, job_type, idempotency=idempotency, request_id=request_id, ring=bell.is_worth_trying
    )
    if new.unique_key is None and (rows := execute_alone(_STORE, parameters, name="submit")):
        submitted = Submitted(rows[0], "created")  # nearly always: one round trip
    else:
        with transaction("submit") as session:
            submitted = _store(session, tenant_id, new, parameters, idempotency)
    if submitted.outcome == "created" and submitted.job["rung_at"] is not None:
        bell.ring(submitted.job)  # only after the commit: a worker must never be faster than the row
    return submitted


def check(new: NewJob) -> JobType:
    """The job's type, once the request is found valid. Raises InvalidJob."""
    try:
        job_type = registry.get(new.type)
    except UnknownJobType:
        known = ", ".join(known.name for known in registry)
        raise InvalidJob({"type": [f"There is no job type {new.type!r}. There are: {known}."]}) from None
    try:
        job_type.schema.load(new.args)
    except ValidationError as error:
        raise InvalidJob({"args": error.normalized_messages()}) from None
    return job_type


def fingerprint(*parts: Any) -> bytes:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of what makes two requests the same."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()


# One statement, so that a process may die anywhere around it: either all three rows exist or none. The idempotency
# record comes first because its primary key is what makes a concurrent repeat wait for this transaction and then lose.
# The `WHERE` of its conflict clause lets a key be used anew once its time is over.
_STORE = Statement(
    f"""
    WITH idempotency AS (
        INSERT INTO idempotency_keys AS known (tenant_id, key, fingerprint, job_id)
        SELECT :tenant_id, CAST(:key AS text), :fingerprint, :id WHERE CAST(:key AS text) IS NOT NULL
        ON CONFLICT (tenant_id, key) DO UPDATE
           SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, created_at = clock_timestamp()
         WHERE known.created_at < clock_timestamp() - make_interval(hours => :kept_hours)
        RETURNING 1
    ), moment AS (
        SELECT now, COALESCE(CAST(:run_at AS timestamptz), now + make_interval(secs => :delay), now) AS run_at
          FROM (SELECT clock_timestamp() AS now) AS clock
    ), job AS (
        INSERT INTO jobs (id, tenant_id, type, queue, state, priority, args, tags, metadata, unique_key,
                          concurrency_key, max_attempts, timeout_seconds, created_at,
                          run_at, expires_at, origin_id, schedule_id, request_id, rung_at)
        SELECT :id, :tenant_id, :type, :queue,
               CASE WHEN run_at > now THEN 'scheduled' ELSE 'queued' END,
               :priority, CAST(:args AS jsonb), CAST(:tags AS text[]), CAST(:metadata AS jsonb), :unique_key,
               CAST(:concurrency_key AS text), :max_attempts, :timeout_seconds, now,
               run_at, :expires_at, :origin_id, :schedule_id, :request_id,
               CASE WHEN :ring AND run_at <= now
                     AND COALESCE((SELECT ring_directly FROM queue_states WHERE name = :queue), true)
                     AND NOT EXISTS (SELECT FROM dispatch_rules
                                      WHERE num_nonnulls(paused_at, max_running, rate_count) > 0
                                        AND (kind = 'queue' AND name = :queue OR kind = 'type' AND name = :type))
                    THEN now END
          FROM moment
         WHERE CAST(:key AS text) IS NULL OR EXISTS (SELECT FROM idempotency)
        ON CONFLICT (tenant_id, type, unique_key) WHERE unique_key IS NOT NULL AND state IN ({UNFINISHED_SQL})
        DO NOTHING
        RETURNING {JOB_COLUMNS}, rung_at
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, 1, :tenant_id, created_at, state, state FROM job
    )
    SELECT * FROM job
    """  # noqa: S608 - only constants of ours are put in
)


def store(
    session: Session,
    tenant_id: UUID,
    new: NewJob,
    job_type: JobType,
    *,
    idempotency: Idempotency | None = None,
    request_id: str | None = None,
    ring: bool = False,
) -> Submitted:
    """Write the job in the caller's transaction. With `ring` it is marked as rung if its queue has no backlog."""
    parameters = _parameters(tenant_id, new, job_type, idempotency=idempotency, request_id=request_id, ring=ring)
    return _store(session, tenant_id, new, parameters, idempotency)


def _parameters(
    tenant_id: UUID,
    new: NewJob,
    job_type: JobType,
    *,
    idempotency: Idempotency | None,
    request_id: str | None,
    ring: bool,
) -> dict[str, Any]:
    return {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "key": idempotency.key if idempotency else None,
        "fingerprint": idempotency.fingerprint if idempotency else None,
        "kept_hours": idempotency.kept_hours if idempotency else 0,
        "type": job_type.name,
        "queue": new.queue or job_type.queue.value,
        "priority": new.priority,
        "args": to_jsonb(new.args),
        "tags": new.tags,
        "metadata": to_jsonb(new.metadata),
        "unique_key": new.unique_key,
        "concurrency_key": new.concurrency_key,
        "max_attempts": new.max_attempts or job_type.max_attempts,
        "timeout_seconds": new.timeout or job_type.timeout_seconds,
        "run_at": new.run_at,
        "delay": new.delay,
        "expires_at": new.expires_at,
        "origin_id": new.origin_id,
        "schedule_id": new.schedule_id,
        "request_id": request_id,
        # What is limited is rung by the dispatcher, which counts.
        "ring": ring and new.concurrency_key is None and not job_type.is_limited,
    }


def _store(
    session: Session, tenant_id: UUID, new: NewJob, parameters: dict[str, Any], idempotency: Idempotency | None
) -> Submitted:
    job = session.execute(_STORE.text, parameters).mappings().first()
    if job is not None:
        return Submitted(job, "created")
    if idempotency is not None and (first := _first_answer(session, tenant_id, idempotency, parameters["id"])):
        return Submitted(first, "replayed")
    return _resolve_unique_key(session, tenant_id, new, parameters)


def _first_answer(session: Session, tenant_id: UUID, idempotency: Idempotency, own_id: UUID) -> RowMapping | None:
    """The job that answered this key first; None where the key is ours and something else stood in the way."""
    known = session.execute(
        text("SELECT fingerprint, job_id FROM idempotency_keys WHERE tenant_id = :tenant_id AND key = :key"),
        {"tenant_id": tenant_id, "key": idempotency.key},
    ).one()
    if known.job_id == own_id:
        return None
    if bytes(known.fingerprint) != idempotency.fingerprint:
        raise IdempotencyKeyReused
    # A write, so that the answer waits for a synchronous standby: the first answer may have been a 503 because that
    # wait was broken off, and this one says 2xx.
    session.execute(
        text("UPDATE idempotency_keys SET job_id = job_id WHERE tenant_id = :tenant_id AND key = :key"),
        {"tenant_id": tenant_id, "key": idempotency.key},
    )
    return find_job(session, tenant_id, known.job_id)


def _resolve_unique_key(session: Session, tenant_id: UUID, new: NewJob, parameters: dict[str, Any]) -> Submitted:
    """An unfinished job holds the unique key: use it, refuse, or cancel it and take its place."""
    holder = (
        session.execute(
            text(
                f"""
            SELECT {JOB_COLUMNS} FROM jobs
             WHERE tenant_id = :tenant_id AND type = :type AND unique_key = :unique_key AND state IN ({UNFINISHED_SQL})
               FOR UPDATE
            """  # noqa: S608
            ),
            parameters,
        )
        .mappings()
        .first()
    )
    if holder is not None and new.on_conflict == "use_existing":
        session.execute(
            text("UPDATE idempotency_keys SET job_id = :job_id WHERE tenant_id = :tenant_id AND key = :key"),
            {**parameters, "job_id": holder["id"]},
        )
        return Submitted(holder, "existing")
    if holder is not None and (new.on_conflict == "reject" or holder["state"] == State.RUNNING):
        raise UniqueKeyTaken(holder["id"])
    if holder is not None:
        session.execute(CANCEL_IDLE, {"id": holder["id"], "tenant_id": tenant_id})
    # The holder is out of the way (replaced here, or it ended a moment ago): the key's record is written already.
    job = session.execute(_STORE.text, {**parameters, "key": None}).mappings().first()
    if job is None:
        raise UniqueKeyTaken(parameters["id"])
    return Submitted(job, "created")
