"""Accept many jobs in one call: one statement, one commit, one push."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.jobs.new_job import Idempotency, NewJob
from service.jobs.queries import UNFINISHED_SQL
from service.jobs.ring import Bell
from service.jobs.store import STORE, job_entry, record_entry, store_parameters
from service.jobs.submit import AnswerGone, IdempotencyKeyReused, UniqueKeyTaken, known_answer
from service.jobs.types import registry
from service.statements import Row
from service.transaction import execute_alone, transaction


@dataclass(frozen=True)
class BatchItem:
    """What became of one job of a batch. `conflict`: an unfinished job holds its unique key, and `id` is that one's."""

    id: UUID
    state: str
    outcome: Literal["created", "existing", "conflict"]


@dataclass(frozen=True)
class Batch:
    """The answer to a batch, one item per job, in order. None: the job was refused and is not stored."""

    items: list[BatchItem | None]
    is_replay: bool


def submit_batch(
    bell: Bell,
    tenant_id: UUID,
    jobs: Sequence[NewJob | None],
    *,
    atomic: bool = True,
    idempotency: Idempotency | None = None,
    request_id: str | None = None,
) -> Batch:
    """Store the jobs durably, all or none, then ring for them. None stands for a job that was found not valid.

    Raises IdempotencyKeyReused, AnswerGone or, if `atomic`, UniqueKeyTaken when a job that chose to be refused meets
    an unfinished one; then nothing was stored. `replace` is not for batches.
    """
    ring = bell.is_worth_trying
    entries = [
        job_entry(tenant_id, job, registry.get(job.type), ring=ring and position < RUNG_AT_ONCE, request_id=request_id)
        if job is not None
        else None
        for position, job in enumerate(jobs)
    ]
    sent = [entry for entry in entries if entry is not None]
    ids = [entry["id"] if entry is not None else None for entry in entries]
    records = [record_entry(idempotency, sent, job_ids=ids)] if idempotency else []
    parameters = store_parameters(sent, records, kept_hours=idempotency.kept_hours if idempotency else 0)
    rows: Sequence[Row]
    if all(entry["unique_key"] is None for entry in sent) and (rows := execute_alone(STORE, parameters, name="submit")):
        states = {row["id"]: row["state"] for row in rows}
        items = [BatchItem(job_id, states[job_id], "created") if job_id is not None else None for job_id in ids]
    else:
        with transaction("submit") as session:
            rows = session.execute(STORE.text, parameters).mappings().all()
            if idempotency is not None:
                known = known_answer(session, tenant_id, idempotency)
                if known is not None and known["job_id"] != sent[0]["id"]:
                    return _answer_again(session, tenant_id, idempotency, known, count=len(jobs))
            rows, holders = _store_the_rest(session, tenant_id, sent, rows)
            items = _items(jobs, ids, {row["id"]: row["state"] for row in rows}, holders, atomic=atomic)
            if idempotency is not None:
                _remember(session, tenant_id, idempotency, items)
    rung = {row["id"] for row in rows if row["rung_at"] is not None}
    bell.ring_all([entry for entry in sent if entry["id"] in rung])
    return Batch(items, is_replay=False)


RUNG_AT_ONCE = 1000
"""Most jobs of one batch that are rung with it: a window full. The dispatcher rings the rest as there is room."""


def batch_answered_before(tenant_id: UUID, idempotency: Idempotency, *, count: int) -> Batch | None:
    """What answered this key first, for a batch of `count` jobs that would be refused now. None: the key is not known.

    Raises IdempotencyKeyReused and AnswerGone.
    """
    with transaction("submit") as session:
        known = known_answer(session, tenant_id, idempotency)
        if known is None or known["is_over"]:
            return None
        return _answer_again(session, tenant_id, idempotency, known, count=count)


_STATES = text("SELECT id, state FROM jobs WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))")


def _answer_again(session: Session, tenant_id: UUID, idempotency: Idempotency, known: Row, *, count: int) -> Batch:
    job_ids = known["job_ids"]
    if bytes(known["fingerprint"]) != idempotency.fingerprint or job_ids is None or len(job_ids) != count:
        raise IdempotencyKeyReused
    states = {row.id: row.state for row in session.execute(_STATES, {"tenant_id": tenant_id, "ids": job_ids})}
    if not {*states, None} >= set(job_ids):
        raise AnswerGone
    existing = known["existing"] or [False] * count
    items = [
        BatchItem(job_id, states[job_id], "existing" if was_there else "created") if job_id is not None else None
        for job_id, was_there in zip(job_ids, existing, strict=True)
    ]
    return Batch(items, is_replay=True)


_REMEMBER = text(
    "UPDATE idempotency_keys SET job_ids = CAST(:ids AS uuid[]), existing = CAST(:existing AS boolean[])"
    " WHERE tenant_id = :tenant_id AND key = :key"
)


def _remember(session: Session, tenant_id: UUID, idempotency: Idempotency, items: Sequence[BatchItem | None]) -> None:
    is_there = [item is not None and item.outcome != "conflict" for item in items]
    answered = {
        "tenant_id": tenant_id,
        "key": idempotency.key,
        "ids": [item.id if item is not None and there else None for item, there in zip(items, is_there, strict=True)],
        "existing": [item is not None and item.outcome == "existing" for item in items],
    }
    session.execute(_REMEMBER, answered)


_HOLDERS = text(
    f"""
    SELECT id, type, unique_key, state FROM jobs
     WHERE tenant_id = :tenant_id AND unique_key = ANY(CAST(:unique_keys AS text[])) AND state IN ({UNFINISHED_SQL})
    """  # noqa: S608
)
Holders = Mapping[tuple[str, str | None], Any]
"""Unfinished jobs (`id`, `state`) by type and unique key."""


def _store_the_rest(
    session: Session, tenant_id: UUID, sent: Sequence[dict[str, Any]], rows: Sequence[Row]
) -> tuple[Sequence[Row], Holders]:
    """Store what was left out and whose unique key has become free since; all that is stored, and who holds the rest.

    A holder may end between two statements, and somebody else may come first then: as long as one is free, we try.
    """
    while True:
        stored = {row["id"] for row in rows}
        left_out = [entry for entry in sent if entry["id"] not in stored]
        values = {"tenant_id": tenant_id, "unique_keys": [entry["unique_key"] for entry in left_out]}
        found = session.execute(_HOLDERS, values).all() if left_out else []
        holders = {(row.type, row.unique_key): row for row in found}
        free = [entry for entry in left_out if (entry["type"], entry["unique_key"]) not in holders]
        if not free:
            return rows, holders
        parameters = store_parameters([{**entry, "record_id": None} for entry in free], [], kept_hours=0)
        rows = [*rows, *session.execute(STORE.text, parameters).mappings().all()]


def _items(
    jobs: Sequence[NewJob | None],
    ids: Sequence[UUID | None],
    stored: Mapping[UUID, str],
    holders: Holders,
    *,
    atomic: bool,
) -> list[BatchItem | None]:
    items: list[BatchItem | None] = []
    for position, (job, job_id) in enumerate(zip(jobs, ids, strict=True)):
        if job is None or job_id is None:
            items.append(None)
        elif job_id in stored:
            items.append(BatchItem(job_id, stored[job_id], "created"))
        else:
            holder = holders[job.type, job.unique_key]
            if job.on_conflict != "use_existing" and atomic:
                raise UniqueKeyTaken(holder.id if holder.id not in stored else None, position=position)
            outcome: Literal["existing", "conflict"] = "existing" if job.on_conflict == "use_existing" else "conflict"
            items.append(BatchItem(holder.id, holder.state, outcome))
    return items
