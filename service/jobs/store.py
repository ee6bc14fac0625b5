"""Store jobs: one statement for one job or ten thousand, with their idempotency records and first events."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from service.accounts.keys import KEY_IS_GOOD
from service.ids import uuid7
from service.jobs.new_job import Idempotency, NewJob
from service.jobs.queries import UNFINISHED_SQL
from service.jobs.types import JobType
from service.statements import Row, Statement

# One statement, so that a process may die anywhere around it: either all rows exist or none. The idempotency record
# comes first because its primary key is what makes a concurrent repeat wait for this transaction and then lose; in the
# order of the keys, so that two groups of submissions cannot wait for each other in a circle. The `WHERE` of its
# conflict clause lets a key be used anew once its time is over. `patience` bounds that wait and those that follow; it
# is set before the first of them, because the rows are sorted before any is written. What an unfinished job's unique
# key stands against is left out, and looked up afterwards.
#
# The jobs come as one JSON text: an array per column would cost the client more than PostgreSQL takes to store them.
STORE = Statement(
    f"""
    WITH record AS (
        INSERT INTO idempotency_keys AS known (tenant_id, key, fingerprint, job_id, job_ids)
        SELECT tenant_id, key, decode(fingerprint, 'hex'), job_id, job_ids
          FROM jsonb_to_recordset(CAST(:records AS jsonb))
               AS sent (tenant_id uuid, key_id uuid, key text, fingerprint text, job_id uuid, job_ids uuid[])
         WHERE {KEY_IS_GOOD}
           AND set_config('lock_timeout', COALESCE(:patience, current_setting('lock_timeout')), true) <> ''
         ORDER BY tenant_id, key
        ON CONFLICT (tenant_id, key) DO UPDATE
           SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, job_ids = excluded.job_ids,
               existing = NULL, created_at = clock_timestamp()
         WHERE known.created_at < clock_timestamp() - make_interval(hours => :kept_hours)
        RETURNING job_id
    ), sent AS (
        SELECT sent.*, now, GREATEST(COALESCE(sent.at, now + make_interval(secs => sent.delay)), now) AS run_at
          FROM jsonb_to_recordset(CAST(:jobs AS jsonb))
               AS sent (id uuid, tenant_id uuid, key_id uuid, record_id uuid, type text, queue text, priority int,
                        args jsonb, tags text[], metadata jsonb, unique_key text, concurrency_key text,
                        max_attempts int, timeout_seconds int, at timestamptz, delay float8, expires_at timestamptz,
                        origin_id uuid, schedule_id uuid, request_id text, ring bool),
               (SELECT clock_timestamp() AS now) AS clock
         WHERE {KEY_IS_GOOD} AND (record_id IS NULL OR record_id IN (SELECT job_id FROM record))
    ), job AS (
        INSERT INTO jobs (id, tenant_id, type, queue, state, priority, args, tags, metadata, unique_key,
                          concurrency_key, max_attempts, timeout_seconds, created_at,
                          run_at, expires_at, origin_id, schedule_id, request_id, rung_at)
        SELECT id, tenant_id, type, queue, CASE WHEN run_at > now THEN 'scheduled' ELSE 'queued' END, priority, args,
               tags, metadata, unique_key, concurrency_key, max_attempts, timeout_seconds, now,
               run_at, expires_at, origin_id, schedule_id, request_id,
               CASE WHEN ring AND run_at <= now
                     AND queue NOT IN (SELECT name FROM queue_states WHERE NOT ring_directly)
                     AND queue NOT IN (SELECT name FROM dispatch_rules
                                        WHERE kind = 'queue' AND num_nonnulls(paused_at, max_running, rate_count) > 0)
                     AND type NOT IN (SELECT name FROM dispatch_rules
                                       WHERE kind = 'type' AND num_nonnulls(paused_at, max_running, rate_count) > 0)
                    THEN now END
          FROM sent ORDER BY type, unique_key, id
        ON CONFLICT (tenant_id, type, unique_key) WHERE unique_key IS NOT NULL AND state IN ({UNFINISHED_SQL})
        DO NOTHING
        RETURNING id, tenant_id, state, created_at, run_at, rung_at
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, 1, tenant_id, created_at, state, state FROM job
    )
    SELECT id, state, created_at, run_at, rung_at FROM job
    """  # noqa: S608 - only constants of ours are put in
)


def job_entry(
    tenant_id: UUID,
    new: NewJob,
    job_type: JobType,
    *,
    ring: bool,
    request_id: str | None = None,
    key_id: UUID | None = None,
) -> dict[str, Any]:
    """The job as `STORE` takes it, with an id of its own.

    With `ring` it is marked as rung if its queue has no backlog. With `key_id` it is stored only if that API key is
    good at that moment.
    """
    return {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "key_id": key_id,
        "type": job_type.name,
        "queue": new.queue or job_type.queue.value,
        "priority": new.priority,
        "args": new.args,
        "tags": new.tags,
        "metadata": new.metadata,
        "unique_key": new.unique_key,
        "concurrency_key": new.concurrency_key,
        "max_attempts": new.max_attempts or job_type.max_attempts,
        "timeout_seconds": new.timeout or job_type.timeout_seconds,
        "at": new.run_at,
        "delay": new.delay,
        "expires_at": new.expires_at,
        "origin_id": new.origin_id,
        "schedule_id": new.schedule_id,
        "request_id": request_id,
        # What is limited is rung by the dispatcher, which counts.
        "ring": ring and new.concurrency_key is None and not job_type.is_limited,
    }


def record_entry(
    idempotency: Idempotency, jobs: Sequence[dict[str, Any]], *, job_ids: Sequence[UUID | None] | None = None
) -> dict[str, Any]:
    """The idempotency record of these jobs as `STORE` takes it; the jobs are stored only if it is theirs.

    `job_ids` is a batch's: what its jobs become, in their order, None for those that are refused.
    """
    first = jobs[0]
    for job in jobs:
        job["record_id"] = first["id"]
    return {
        "tenant_id": first["tenant_id"],
        "key_id": first["key_id"],
        "key": idempotency.key,
        "fingerprint": idempotency.fingerprint.hex(),
        "job_id": first["id"],
        "job_ids": job_ids,
    }


def store_parameters(
    jobs: Sequence[dict[str, Any]],
    records: Sequence[dict[str, Any]],
    *,
    kept_hours: int,
    patience_seconds: float | None = None,
) -> dict[str, Any]:
    """What `STORE` is executed with. `patience_seconds` may shorten the time for which it waits for a lock."""
    return {
        "patience": None if patience_seconds is None else f"{patience_seconds * 1000:.0f}ms",
        "jobs": orjson.dumps(jobs).decode(),
        "records": orjson.dumps(records).decode(),
        "kept_hours": kept_hours,
    }


_UNTOUCHED: Mapping[str, Any] = {
    "attempt": 0,
    "token": 0,
    "started_at": None,
    "finished_at": None,
    "cancel_requested_at": None,
    "progress_percent": None,
    "progress_message": None,
    "result": None,
    "error": None,
    "event_seq": 1,
}


def stored_job(entry: dict[str, Any], stored: Row) -> Row:
    """The job's row as it is in the database now: what was sent, and what `STORE` decided."""
    return {**entry, **_UNTOUCHED, **stored}
