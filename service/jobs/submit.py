"""Accept a job: validate, store it with its idempotency record and first event in one statement, commit, ring."""

import time
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.accounts.keys import KeyRefused, require_good_key
from service.group_commit import GroupCommit
from service.jobs.cancel import CANCEL_IDLE
from service.jobs.new_job import Idempotency, InvalidJob, NewJob, check
from service.jobs.queries import JOB_COLUMNS, UNFINISHED_SQL, find_job
from service.jobs.ring import Bell
from service.jobs.states import State
from service.jobs.store import STORE, job_entry, record_entry, store_parameters, stored_job
from service.jobs.types import JobType
from service.statements import Row
from service.transaction import execute_alone, transaction


@dataclass(frozen=True)
class Submitted:
    """The job that answers the request, and how it came about."""

    job: Row
    outcome: Literal["created", "existing"]
    is_replay: bool = False
    """The same answer was given before, to the same idempotency key."""


class IdempotencyKeyReused(Exception):
    """The key was used before with another request."""


class AnswerGone(Exception):
    """The key is still known, and the job that answered it first is deleted."""


class UniqueKeyTaken(Exception):
    """An unfinished job holds the unique key, and the client chose to be refused.

    `position` is the refused job's in its batch. No `job_id`: it is held by a job that is not stored either.
    """

    def __init__(self, job_id: UUID | None, *, position: int | None = None) -> None:
        holder = f"The unfinished job {job_id}" if job_id else "Another job of this batch"
        super().__init__(f"{holder} holds this unique_key.")
        self.job_id = job_id
        self.position = position


@dataclass(frozen=True)
class _Submission:
    """A job on its way into the database."""

    tenant_id: UUID
    new: NewJob
    entry: dict[str, Any]
    idempotency: Idempotency | None

    @classmethod
    def make(
        cls, tenant_id: UUID, new: NewJob, job_type: JobType, idempotency: Idempotency | None, **values: Any
    ) -> "_Submission":
        return cls(tenant_id, new, job_entry(tenant_id, new, job_type, **values), idempotency)


MOST_TOGETHER = 32
"""Enough for the disk; each may bring a body of some megabytes."""

PATIENCE_SECONDS = 0.1
"""How long a group waits for one of its idempotency keys, which another submission under way may hold for long."""


class Intake:
    """Where one API process takes its jobs in: those that come at the same moment share statement, commit and ring."""

    def __init__(self, bell: Bell, *, turn_seconds: float = 2.0) -> None:
        self.bell = bell
        self._group: GroupCommit[_Submission, Row | None] = GroupCommit(
            self._store_together, at_most=MOST_TOGETHER, turn_seconds=turn_seconds
        )

    def submit(
        self,
        tenant_id: UUID,
        new: NewJob,
        *,
        idempotency: Idempotency | None = None,
        request_id: str | None = None,
        key_id: UUID | None = None,
    ) -> Submitted:
        """Store the job durably, then ring for it. What returns from here is kept.

        Raises InvalidJob, IdempotencyKeyReused, AnswerGone, UniqueKeyTaken, or LineStalled if its turn did not come
        in time, and then nothing was stored; KeyRefused if the job is submitted by a key that is not good any more. A
        broker that is down is no error: the dispatcher rings later.
        """
        try:
            job_type = check(new)
        except InvalidJob:
            # It may have been valid when it was first sent: a release between may have changed its type.
            if idempotency is None or (first := answered_before(tenant_id, idempotency, key_id=key_id)) is None:
                raise
            return first
        ring = self.bell.is_worth_trying
        submission = _Submission.make(
            tenant_id, new, job_type, idempotency, ring=ring, request_id=request_id, key_id=key_id
        )
        if new.unique_key is None and (stored := self._group.commit(submission)) is not None:
            return Submitted(stored_job(submission.entry, stored), "created")  # nearly always: one round trip
        with transaction("submit") as session:
            if key_id is not None:
                require_good_key(session, key_id)
            submitted = _store(session, submission)
        if submitted.outcome == "created" and not submitted.is_replay and submitted.job["rung_at"] is not None:
            self.bell.ring(submitted.job)  # only after the commit: a worker must never be faster than the row
        return submitted

    def _store_together(self, submissions: list[_Submission]) -> list[Row | None]:
        """Store them in one statement, then ring. None for what must be looked at alone: a repeat, or a bad neighbour.

        A repeat within the group is left out: one statement must not write a record twice. Nor does a group wait for a
        key that another transaction holds: whoever came next would wait behind it.
        """
        records: dict[tuple[UUID, str], dict[str, Any]] = {}
        entries = []
        kept_hours = 0
        for submission in submissions:
            if (idempotency := submission.idempotency) is not None:
                known = (submission.tenant_id, idempotency.key)
                if known in records:
                    continue
                records[known] = record_entry(idempotency, [submission.entry])
                kept_hours = idempotency.kept_hours
            entries.append(submission.entry)
        parameters = store_parameters(
            entries, list(records.values()), kept_hours=kept_hours, patience_seconds=PATIENCE_SECONDS
        )
        began = time.monotonic()
        try:
            rows = execute_alone(STORE, parameters, name="submit")
        except DBAPIError as error:
            if not _may_fare_better_alone(error, members=len(submissions), seconds=time.monotonic() - began):
                raise
            return [None] * len(submissions)
        stored = {row["id"]: row for row in rows}
        self.bell.ring_all([entry for entry in entries if (row := stored.get(entry["id"])) and row["rung_at"]])
        return [stored.get(submission.entry["id"]) for submission in submissions]


def _may_fare_better_alone(error: DBAPIError, *, members: int, seconds: float) -> bool:
    """Whether PostgreSQL itself said no, so that nothing was stored, for a reason that may not be everybody's."""
    if error.connection_invalidated or not isinstance(error.orig, psycopg.Error) or not error.orig.sqlstate:
        return False
    if isinstance(error.orig, LockNotAvailable):
        return seconds < 10 * PATIENCE_SECONDS  # a key was held; after so long it was a table, and will be again
    return members > 1


def store(session: Session, tenant_id: UUID, new: NewJob, job_type: JobType) -> Submitted:
    """Write the job in the caller's transaction; the dispatcher rings it."""
    return _store(session, _Submission.make(tenant_id, new, job_type, None, ring=False))


def _store(session: Session, submission: _Submission) -> Submitted:
    idempotency = submission.idempotency
    if (stored := _execute(session, submission, idempotency)) is not None:
        return Submitted(stored, "created")
    if idempotency is not None and (first := _first_answer(session, submission, idempotency)):
        return first
    return _resolve_unique_key(session, submission)


def _execute(session: Session, submission: _Submission, idempotency: Idempotency | None) -> Row | None:
    entry = {**submission.entry, "record_id": None}
    records = [record_entry(idempotency, [entry])] if idempotency else []
    parameters = store_parameters([entry], records, kept_hours=idempotency.kept_hours if idempotency else 0)
    stored = session.execute(STORE.text, parameters).mappings().first()
    return None if stored is None else stored_job(entry, stored)


def answered_before(tenant_id: UUID, idempotency: Idempotency, *, key_id: UUID | None = None) -> Submitted | None:
    """What answered this key first, for a request that cannot be looked at otherwise. None: the key is not known.

    Raises IdempotencyKeyReused, AnswerGone, and KeyRefused as `Intake.submit` does.
    """
    with transaction("submit") as session:
        if key_id is not None:
            require_good_key(session, key_id)
        known = known_answer(session, tenant_id, idempotency)
        return None if known is None or known["is_over"] else _answer_again(session, tenant_id, idempotency, known)


# The first answer may have been a 503, because the wait for a synchronous standby was broken off, and a repeat's says
# 2xx: its commit waits for the standby as well, for the record is locked.
_KNOWN = text(
    """
    SELECT fingerprint, job_id, job_ids, existing,
           created_at < clock_timestamp() - make_interval(hours => :kept_hours) AS is_over
      FROM idempotency_keys WHERE tenant_id = :tenant_id AND key = :key FOR UPDATE
    """
)


def known_answer(session: Session, tenant_id: UUID, idempotency: Idempotency) -> Row | None:
    """The key's record. `is_over`: a new request may have it."""
    values = {"tenant_id": tenant_id, "key": idempotency.key, "kept_hours": idempotency.kept_hours}
    return session.execute(_KNOWN, values).mappings().one_or_none()


def _first_answer(session: Session, submission: _Submission, idempotency: Idempotency) -> Submitted | None:
    """What answered this key first; None where the key is ours and something else stood in the way."""
    known = known_answer(session, submission.tenant_id, idempotency)
    if known is None:  # no record, new or old: the API key was revoked a moment ago
        raise KeyRefused
    if known["job_id"] == submission.entry["id"]:
        return None
    return _answer_again(session, submission.tenant_id, idempotency, known)


def _answer_again(session: Session, tenant_id: UUID, idempotency: Idempotency, known: Row) -> Submitted:
    if bytes(known["fingerprint"]) != idempotency.fingerprint:
        raise IdempotencyKeyReused
    job = find_job(session, tenant_id, known["job_id"])
    if job is None:  # whoever repeats the request must not be given a second one
        raise AnswerGone
    return Submitted(job, "existing" if known["existing"] else "created", is_replay=True)


def _resolve_unique_key(session: Session, submission: _Submission) -> Submitted:
    """An unfinished job holds the unique key: use it, refuse, or cancel it and take its place."""
    tenant_id, new = submission.tenant_id, submission.new
    while True:  # a holder that ended between two statements left the key to us, or to somebody who came first
        wanted = {"tenant_id": tenant_id, "type": new.type, "unique_key": new.unique_key}
        holder = session.execute(_HOLDER, wanted).mappings().first()
        if holder is not None and new.on_conflict == "use_existing":
            key = submission.idempotency.key if submission.idempotency else None
            session.execute(_REMEMBER_HOLDER, {"tenant_id": tenant_id, "key": key, "job_id": holder["id"]})
            return Submitted(holder, "existing")
        if holder is not None and (new.on_conflict == "reject" or holder["state"] == State.RUNNING):
            raise UniqueKeyTaken(holder["id"])
        if holder is not None:
            session.execute(CANCEL_IDLE, {"id": holder["id"], "tenant_id": tenant_id})
        if (job := _execute(session, submission, None)) is not None:  # the key's record is written already
            return Submitted(job, "created")


_HOLDER = text(
    f"""
    SELECT {JOB_COLUMNS} FROM jobs
     WHERE tenant_id = :tenant_id AND type = :type AND unique_key = :unique_key AND state IN ({UNFINISHED_SQL})
       FOR UPDATE
    """  # noqa: S608
)
_REMEMBER_HOLDER = text(
    "UPDATE idempotency_keys SET job_id = :job_id, existing = ARRAY[true] WHERE tenant_id = :tenant_id AND key = :key"
)
