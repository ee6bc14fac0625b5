"""Accept many jobs in one call: one statement, one commit, one push."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.ids import uuid7
from service.jobs.queries import UNFINISHED_SQL
from service.jobs.ring import Bell
from service.jobs.submit import Idempotency, IdempotencyKeyReused, NewJob, UniqueKeyTaken, check
from service.jobs.types import JobType
from service.statements import Row, Statement
from service.transaction import execute_alone, to_jsonb, transaction

BatchOutcome = Literal["created", "existing"]


@dataclass(frozen=True)
class BatchItem:
    """What became of one job of a batch."""

    id: UUID
    state: str
    outcome: BatchOutcome


@dataclass(frozen=True)
class Batch:
    """The answer to a batch, one item per job, in order."""

    items: list[BatchItem]
    is_replay: bool


def submit_batch(
    bell: Bell,
    tenant_id: UUID,
    jobs: Sequence[NewJob],
    *,
    idempotency: Idempotency | None = None,
    request_id: str | None = None,
) -> Batch:
    """Store all the jobs durably, then ring for them. All or none.

    The jobs were found valid. Raises IdempotencyKeyReused, or UniqueKeyTaken when a job that chose to be refused meets
    an unfinished one; then nothing was stored. `replace` is not for batches.
    """
    checked = [(job, check(job)) for job in jobs]
    ids = [uuid7() for _ in jobs]
    parameters = _parameters(tenant_id, checked, ids, idempotency, request_id, ring=bell.is_worth_trying)
    if all(job.unique_key is None for job in jobs) and (rows := execute_alone(_STORE_ALL, parameters, name="submit")):
        stored = {row["id"]: row for row in rows}
        batch = Batch([BatchItem(job_id, stored[job_id]["state"], "created") for job_id in ids], is_replay=False)
    else:
        with transaction("submit") as session:
            rows = list(session.execute(_STORE_ALL.text, parameters).mappings())
            batch = _resolve(session, tenant_id, jobs, ids, rows=rows, idempotency=idempotency)
    bell.ring_all([row for row in rows if row["rung_at"] is not None])
    return batch


# The arrays are read side by side, so that the number of parameters does not grow with the batch. The idempotency
# record comes first, as for a single job. What an unfinished job's unique key stands against is left out, and looked up
# afterwards in the same transaction.
_STORE_ALL = Statement(
    f"""
    WITH idempotency AS (
        INSERT INTO idempotency_keys AS known (tenant_id, key, fingerprint, job_id, job_ids)
        SELECT :tenant_id, CAST(:key AS text), :fingerprint, :first_id, CAST(:ids AS uuid[])
         WHERE CAST(:key AS text) IS NOT NULL
        ON CONFLICT (tenant_id, key) DO UPDATE
           SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, job_ids = excluded.job_ids,
               created_at = clock_timestamp()
         WHERE known.created_at < clock_timestamp() - make_interval(hours => :kept_hours)
        RETURNING 1
    ), open_queues AS (
        SELECT queue FROM unnest(CAST(:queue_names AS text[])) AS queue
         WHERE COALESCE((SELECT ring_directly FROM queue_states WHERE name = queue), true)
           AND NOT EXISTS (SELECT FROM dispatch_rules
                            WHERE num_nonnulls(paused_at, max_running, rate_count) > 0
                              AND kind = 'queue' AND name = queue)
    ), held_types AS (
        SELECT name FROM dispatch_rules
         WHERE num_nonnulls(paused_at, max_running, rate_count) > 0 AND kind = 'type'
    ), sent AS (
        SELECT sent.*, now, COALESCE(sent.at, now + make_interval(secs => sent.delay), now) AS run_at
          FROM unnest(CAST(:ids AS uuid[]), CAST(:types AS text[]), CAST(:queues AS text[]), CAST(:priorities AS int[]),
                      CAST(:args AS text[]), CAST(:tags AS text[]), CAST(:metadata AS text[]),
                      CAST(:unique_keys AS text[]), CAST(:concurrency_keys AS text[]), CAST(:max_attempts AS int[]),
                      CAST(:timeouts AS int[]), CAST(:run_ats AS timestamptz[]), CAST(:delays AS float8[]),
                      CAST(:expires_ats AS timestamptz[]), CAST(:rings AS bool[]))
               WITH ORDINALITY
               AS sent (id, type, queue, priority, args, tags, metadata, unique_key, concurrency_key, max_attempts,
                        timeout_seconds, at, delay, expires_at, ring, position),
               (SELECT clock_timestamp() AS now) AS clock
         WHERE CAST(:key AS text) IS NULL OR EXISTS (SELECT FROM idempotency)
    ), job AS (
        INSERT INTO jobs (id, tenant_id, type, queue, state, priority, args, tags, metadata, unique_key,
                          concurrency_key, max_attempts, timeout_seconds, created_at, run_at, expires_at, request_id,
                          rung_at)
        SELECT id, :tenant_id, type, queue, CASE WHEN run_at > now THEN 'scheduled' ELSE 'queued' END, priority,
               CAST(args AS jsonb), ARRAY(SELECT jsonb_array_elements_text(CAST(tags AS jsonb))),
               CAST(metadata AS jsonb), unique_key, concurrency_key, max_attempts, timeout_seconds, now,
               run_at, expires_at, :request_id,
               CASE WHEN ring AND run_at <= now AND position <= :window AND queue IN (SELECT queue FROM open_queues)
                     AND type NOT IN (SELECT name FROM held_types) THEN now END
          FROM sent ORDER BY position
        ON CONFLICT (tenant_id, type, unique_key) WHERE unique_key IS NOT NULL AND state IN ({UNFINISHED_SQL})
        DO NOTHING
        RETURNING id, type, queue, state, timeout_seconds, created_at, rung_at
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, 1, :tenant_id, created_at, state, state FROM job
    )
    SELECT * FROM job
    """  # noqa: S608 - only constants of ours are put in
)

RUNG_AT_ONCE = 500
"""Most jobs of one batch that are rung with it; the dispatcher rings the rest as the window has room."""


def _parameters(
    tenant_id: UUID,
    checked: Sequence[tuple[NewJob, JobType]],
    ids: list[UUID],
    idempotency: Idempotency | None,
    request_id: str | None,
    *,
    ring: bool,
) -> dict[str, Any]:
    queues = [job.queue or job_type.queue.value for job, job_type in checked]
    return {
        "tenant_id": tenant_id,
        "key": idempotency.key if idempotency else None,
        "fingerprint": idempotency.fingerprint if idempotency else None,
        "kept_hours": idempotency.kept_hours if idempotency else 0,
        "request_id": request_id,
        "window": RUNG_AT_ONCE,
        "first_id": ids[0],
        "ids": ids,
        "types": [job_type.name for _, job_type in checked],
        "queues": queues,
        "queue_names": sorted(set(queues)),
        "priorities": [job.priority for job, _ in checked],
        "args": [to_jsonb(job.args) for job, _ in checked],
        "tags": [to_jsonb(job.tags) for job, _ in checked],
        "metadata": [to_jsonb(job.metadata) for job, _ in checked],
        "unique_keys": [job.unique_key for job, _ in checked],
        "concurrency_keys": [job.concurrency_key for job, _ in checked],
        "max_attempts": [job.max_attempts or job_type.max_attempts for job, job_type in checked],
        "timeouts": [job.timeout or job_type.timeout_seconds for job, job_type in checked],
        "run_ats": [job.run_at for job, _ in checked],
        "delays": [job.delay for job, _ in checked],
        "expires_ats": [job.expires_at for job, _ in checked],
        "rings": [ring and job.concurrency_key is None and not job_type.is_limited for job, job_type in checked],
    }


_KNOWN = text("SELECT fingerprint, job_id, job_ids FROM idempotency_keys WHERE tenant_id = :tenant_id AND key = :key")
_REMEMBER = text(
    "UPDATE idempotency_keys SET job_ids = CAST(:ids AS uuid[]) WHERE tenant_id = :tenant_id AND key = :key"
)
_STATES = text("SELECT id, state FROM jobs WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))")
_HOLDERS = text(
    f"""
    SELECT id, type, unique_key, state FROM jobs
     WHERE tenant_id = :tenant_id AND unique_key = ANY(CAST(:unique_keys AS text[])) AND state IN ({UNFINISHED_SQL})
    """  # noqa: S608
)


def _resolve(
    session: Session,
    tenant_id: UUID,
    jobs: Sequence[NewJob],
    ids: list[UUID],
    *,
    rows: Sequence[Row],
    idempotency: Idempotency | None,
) -> Batch:
    """Answer a repeat with the first answer, and jobs that were left out with the ones that hold their unique keys."""
    if idempotency is not None:
        parameters = {"tenant_id": tenant_id, "key": idempotency.key}
        known = session.execute(_KNOWN, parameters).mappings().one()
        if known["job_id"] != ids[0]:
            if bytes(known["fingerprint"]) != idempotency.fingerprint or known["job_ids"] is None:
                raise IdempotencyKeyReused
            session.execute(_REMEMBER, {**parameters, "ids": known["job_ids"]})  # a write: see `submit`
            return _replay(session, tenant_id, known["job_ids"])
    items = _with_holders(session, tenant_id, jobs, ids, {row["id"]: row["state"] for row in rows})
    if idempotency is not None:
        answered = {"tenant_id": tenant_id, "key": idempotency.key, "ids": [item.id for item in items]}
        session.execute(_REMEMBER, answered)
    return Batch(items, is_replay=False)


def _replay(session: Session, tenant_id: UUID, job_ids: list[UUID]) -> Batch:
    states = {row.id: row.state for row in session.execute(_STATES, {"tenant_id": tenant_id, "ids": job_ids})}
    return Batch([BatchItem(job_id, states[job_id], "created") for job_id in job_ids], is_replay=True)


def _with_holders(
    session: Session, tenant_id: UUID, jobs: Sequence[NewJob], ids: list[UUID], stored: dict[UUID, str]
) -> list[BatchItem]:
    keys = [job.unique_key for job, job_id in zip(jobs, ids, strict=True) if job_id not in stored]
    found = session.execute(_HOLDERS, {"tenant_id": tenant_id, "unique_keys": keys}).all() if keys else []
    holders = {(row.type, row.unique_key): row for row in found}
    items = []
    for job, job_id in zip(jobs, ids, strict=True):
        if job_id in stored:
            items.append(BatchItem(job_id, stored[job_id], "created"))
            continue
        holder = holders.get((job.type, job.unique_key))
        if holder is None or job.on_conflict != "use_existing":
            raise UniqueKeyTaken(holder.id if holder else job_id)
        items.append(BatchItem(holder.id, holder.state, "existing"))
    return items
