"""Accept many jobs in one call: one statement, one commit, one push."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.jobs.new_job import Idempotency, NewJob
from service.jobs.queries import UNFINISHED_SQL
from service.jobs.ring import Bell
from service.jobs.store import STORE, job_entry, record_entry, store_parameters
from service.jobs.submit import AnswerGone, IdempotencyKeyReused, UniqueKeyTaken
from service.jobs.types import registry
from service.statements import Row
from service.transaction import execute_alone, transaction

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

    The jobs were found valid. Raises IdempotencyKeyReused, AnswerGone, or UniqueKeyTaken when a job that chose to be
    refused meets an unfinished one; then nothing was stored. `replace` is not for batches.
    """
    ring = bell.is_worth_trying
    entries = [
        job_entry(tenant_id, job, registry.get(job.type), ring=ring and position < RUNG_AT_ONCE, request_id=request_id)
        for position, job in enumerate(jobs)
    ]
    ids = [entry["id"] for entry in entries]
    records = [record_entry(idempotency, entries, is_batch=True)] if idempotency else []
    parameters = store_parameters(entries, records, kept_hours=idempotency.kept_hours if idempotency else 0)
    rows: Sequence[Row]
    if all(job.unique_key is None for job in jobs) and (rows := execute_alone(STORE, parameters, name="submit")):
        states = {row["id"]: row["state"] for row in rows}
        batch = Batch([BatchItem(job_id, states[job_id], "created") for job_id in ids], is_replay=False)
    else:
        with transaction("submit") as session:
            rows = session.execute(STORE.text, parameters).mappings().all()
            batch = _resolve(session, tenant_id, jobs, ids, rows=rows, idempotency=idempotency)
    rung = {row["id"] for row in rows if row["rung_at"] is not None}
    bell.ring_all([entry for entry in entries if entry["id"] in rung])
    return batch


RUNG_AT_ONCE = 1000
"""Most jobs of one batch that are rung with it: a window full. The dispatcher rings the rest as there is room."""


_KNOWN = text(
    "SELECT fingerprint, job_id, job_ids, existing FROM idempotency_keys WHERE tenant_id = :tenant_id AND key = :key"
)
_REMEMBER = text(
    "UPDATE idempotency_keys SET job_ids = CAST(:ids AS uuid[]), existing = CAST(:existing AS boolean[])"
    " WHERE tenant_id = :tenant_id AND key = :key"
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
        known = session.execute(_KNOWN, parameters).mappings().one()  # new or old
        if known["job_id"] != ids[0]:
            job_ids = known["job_ids"]
            # As many as then: where it is not atomic, a release between may find other jobs of the same batch valid.
            if bytes(known["fingerprint"]) != idempotency.fingerprint or job_ids is None or len(job_ids) != len(ids):
                raise IdempotencyKeyReused
            return _replay(session, tenant_id, job_ids, existing=known["existing"] or [False] * len(job_ids))
    items = _with_holders(session, tenant_id, jobs, ids, {row["id"]: row["state"] for row in rows})
    if idempotency is not None:
        answered = {
            "tenant_id": tenant_id,
            "key": idempotency.key,
            "ids": [item.id for item in items],
            "existing": [item.outcome == "existing" for item in items],
        }
        session.execute(_REMEMBER, answered)
    return Batch(items, is_replay=False)


def _replay(session: Session, tenant_id: UUID, job_ids: list[UUID], *, existing: list[bool]) -> Batch:
    states = {row.id: row.state for row in session.execute(_STATES, {"tenant_id": tenant_id, "ids": job_ids})}
    if not states.keys() >= set(job_ids):
        raise AnswerGone
    items = [
        BatchItem(job_id, states[job_id], "existing" if was_there else "created")
        for job_id, was_there in zip(job_ids, existing, strict=True)
    ]
    return Batch(items, is_replay=True)


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
