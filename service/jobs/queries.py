"""Reading jobs: one tenant's, always. Also the column lists and state lists that the statements share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.accounts.keys import KEY_IS_GOOD
from service.group_commit import GroupCommit
from service.ids import id_after, id_before
from service.jobs.states import FINAL, IDLE, UNFINISHED, State
from service.statements import Row, Statement
from service.transaction import execute_alone

JOB_COLUMNS = (
    "jobs.id, jobs.tenant_id, type, state, queue, priority, args, tags, metadata, unique_key, concurrency_key, "
    "attempt, max_attempts, timeout_seconds, token, "
    "created_at, run_at, started_at, finished_at, expires_at, cancel_requested_at, "
    "progress_percent, progress_message, result, error, event_seq, origin_id, schedule_id, request_id"
)


def _listed(states: Collection[State]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


UNFINISHED_SQL = _listed(UNFINISHED)
IDLE_SQL = _listed(IDLE)
FINAL_SQL = _listed(FINAL)


_FIND = Statement(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = :id AND tenant_id = :tenant_id")  # noqa: S608


def look_at_job(tenant_id: UUID, job_id: UUID) -> Row | None:
    """The tenant's job, or None: there is none of that id, or it is another tenant's."""
    rows = execute_alone(_FIND, {"id": job_id, "tenant_id": tenant_id})
    return rows[0] if rows else None


# `OFFSET 0` keeps it a look-up by id for each: joined freely, it would be planned for the size that the table once had.
_FIND_EACH = Statement(
    f"""
    SELECT position, job.*
      FROM jsonb_to_recordset(CAST(:asked AS jsonb)) AS asked (position int, id uuid, tenant_id uuid, key_id uuid)
           CROSS JOIN LATERAL (SELECT {JOB_COLUMNS} FROM jobs
                                WHERE jobs.id = asked.id AND jobs.tenant_id = asked.tenant_id OFFSET 0) AS job
     WHERE {KEY_IS_GOOD}
    """  # noqa: S608
)


class JobReader:
    """Looks at jobs for one API process: looks that come at the same moment share a statement."""

    def __init__(self, *, turn_seconds: float = 2.0) -> None:
        self._group: GroupCommit[dict[str, UUID], Row | None] = GroupCommit(_find_each, turn_seconds=turn_seconds)

    def look(self, tenant_id: UUID, job_id: UUID, *, key_id: UUID) -> Row | None:
        """The tenant's job, as it stands now; None also where the API key is not good any more.

        Raises LineStalled if its turn did not come in time.
        """
        return self._group.commit({"id": job_id, "tenant_id": tenant_id, "key_id": key_id})


def _find_each(asked: list[dict[str, UUID]]) -> list[Row | None]:
    numbered = [{"position": position, **one} for position, one in enumerate(asked)]
    rows = execute_alone(_FIND_EACH, {"asked": orjson.dumps(numbered).decode()}, name="look")
    found = {row["position"]: row for row in rows}
    return [found.get(position) for position in range(len(asked))]


def find_job(session: Session, tenant_id: UUID, job_id: UUID) -> RowMapping | None:
    """The same inside a transaction of the caller's."""
    return session.execute(_FIND.text, {"id": job_id, "tenant_id": tenant_id}).mappings().first()


@dataclass(frozen=True)
class Pulse:
    """As much of a job as tells whether it changed."""

    state: str
    event_seq: int
    progress_percent: float | None
    progress_message: str | None


def pulses(session: Session, job_ids: Collection[UUID]) -> dict[UUID, Pulse]:
    """The pulses of many jobs in one statement. For ids that were looked up with their tenant before."""
    rows = session.execute(
        text(
            "SELECT id, state, event_seq, progress_percent, progress_message FROM jobs "
            "WHERE id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"ids": list(job_ids)},
    )
    return {row.id: Pulse(row.state, row.event_seq, row.progress_percent, row.progress_message) for row in rows}


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list is about; None means any."""

    states: tuple[str, ...] = ()
    type: str | None = None
    queue: str | None = None
    tag: str | None = None
    schedule_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """SQL conditions and their parameters; only those that were asked for, so that the planner sees simple ones."""
        candidates = [
            (self.type is not None, "type = :type", "type", self.type),
            (self.queue is not None, "queue = :queue", "queue", self.queue),
            (self.tag is not None, "tags @> ARRAY[CAST(:tag AS text)]", "tag", self.tag),
            (self.schedule_id is not None, "schedule_id = :schedule_id", "schedule_id", self.schedule_id),
            (self.created_after is not None, "created_at > :created_after", "created_after", self.created_after),
            (self.created_before is not None, "created_at < :created_before", "created_before", self.created_before),
        ]
        chosen = [(condition, name, value) for wanted, condition, name, value in candidates if wanted]
        conditions = [condition for condition, _, _ in chosen]
        parameters = {name: value for _, name, value in chosen}
        if self.states:  # spelled out: only then can the planner tell that an index on some states has them all
            conditions.append(f"state IN ({_listed({State(state) for state in self.states})})")
        if self.created_after is not None:
            conditions.append("jobs.id > :not_from")
            parameters["not_from"] = id_before(self.created_after)
        if self.created_before is not None:
            conditions.append("jobs.id < :not_up_to")
            parameters["not_up_to"] = id_after(self.created_before)
        return conditions, parameters


PAGE_BYTES = 4 << 20
"""A page ends before it grows larger than this; one job it has at least, of a few megabytes at most."""


def _size_of(column: str) -> str:
    """SQL for the bytes of a JSON column; only what is large is written out to be measured."""
    stored = f"pg_column_size({column})"
    return f"COALESCE(CASE WHEN {stored} > 2000 THEN octet_length(CAST({column} AS text)) ELSE {stored} END, 0)"


_BYTES = " + ".join(map(_size_of, ("args", "result", "metadata")))


def list_jobs(
    session: Session, tenant_id: UUID, wanted: JobFilter, *, before: UUID | None, limit: int
) -> tuple[list[RowMapping], bool]:
    """A page of the tenant's jobs, newest first, older than the job `before`; and whether there are more.

    Keyset: pages neither repeat nor skip. One has at most `limit` jobs, and fewer where they are large.
    """
    conditions, parameters = wanted.conditions()
    conditions.append("tenant_id = :tenant_id")
    if before is not None:
        conditions.append("jobs.id < :before")
    statement = f"""
        SELECT {JOB_COLUMNS}, found FROM (
            SELECT *, count(*) OVER () AS found, row_number() OVER newest AS place, sum({_BYTES}) OVER newest AS bytes
              FROM (SELECT {JOB_COLUMNS} FROM jobs WHERE {" AND ".join(conditions)} ORDER BY jobs.id DESC LIMIT :found)
                   AS jobs
            WINDOW newest AS (ORDER BY id DESC)
        ) AS jobs
         WHERE place = 1 OR (place <= :limit AND bytes <= :most_bytes)
         ORDER BY place
        """  # noqa: S608 - only constants of ours are put in
    parameters |= {"tenant_id": tenant_id, "before": before, "limit": limit, "found": limit + 1}
    rows = session.execute(text(statement), {**parameters, "most_bytes": PAGE_BYTES}).mappings().all()
    return list(rows), bool(rows) and rows[0]["found"] > len(rows)


def list_attempts(session: Session, tenant_id: UUID, job_id: UUID) -> list[RowMapping]:
    """The job's attempts in order."""
    statement = text(
        "SELECT token, attempt, worker, started_at, finished_at, outcome, error, traceback FROM job_attempts "
        "WHERE job_id = :job_id AND tenant_id = :tenant_id ORDER BY token"
    )
    return list(session.execute(statement, {"job_id": job_id, "tenant_id": tenant_id}).mappings())


def list_events(session: Session, tenant_id: UUID, job_id: UUID, *, after: int, limit: int = 1000) -> list[RowMapping]:
    """The job's events numbered above `after`, in order."""
    statement = text(
        "SELECT seq, at, name, state, data FROM job_events "
        "WHERE job_id = :job_id AND tenant_id = :tenant_id AND seq > :after ORDER BY seq LIMIT :limit"
    )
    parameters = {"job_id": job_id, "tenant_id": tenant_id, "after": after, "limit": limit}
    return list(session.execute(statement, parameters).mappings())


# Everything in one round trip, because clients poll waiting jobs. Of the jobs that come first, those that were rung are
# counted and those before it in its own lane; other lanes take turns with it. Each part stops counting at `at_most`, so
# that a look at a job costs the same whatever the backlog.
_WAITING_FACTS = Statement(
    """
    SELECT EXISTS (SELECT FROM dispatch_rules
                    WHERE paused_at IS NOT NULL
                      AND (kind = 'queue' AND name = :queue OR kind = 'type' AND name = :type)) AS paused,
           (SELECT max_running FROM dispatch_rules WHERE kind = 'type' AND name = :type) AS type_limit,
           (SELECT max_running FROM dispatch_rules WHERE kind = 'queue' AND name = :queue) AS queue_limit,
           (SELECT count(*) FROM jobs WHERE state = 'running' AND type = :type) AS type_running,
           (SELECT count(*) FROM jobs WHERE state = 'running' AND queue = :queue) AS queue_running,
           (SELECT count(*) FROM jobs
             WHERE state = 'running' AND type = :type AND tenant_id = :tenant_id
               AND concurrency_key = CAST(:concurrency_key AS text)) AS key_running,
           (SELECT tokens FROM rate_buckets
             WHERE type = :type AND filled_at > clock_timestamp() - make_interval(secs => 5)) AS tokens,
           EXISTS (SELECT FROM worker_nodes
                    WHERE :queue = ANY (queues)
                      AND seen_at > clock_timestamp() - make_interval(secs => 30)) AS has_worker,
           (SELECT count(*) FROM (
                (SELECT FROM jobs
                  WHERE queue = :queue AND state = 'queued' AND rung_at IS NOT NULL AND id <> :id LIMIT :at_most)
                UNION ALL
                (SELECT FROM jobs
                  WHERE queue = :queue AND state = 'queued' AND rung_at IS NULL
                    AND type = :type AND tenant_id = :tenant_id
                    AND COALESCE(concurrency_key, '') = COALESCE(CAST(:concurrency_key AS text), '')
                    AND priority > :priority LIMIT :at_most)
                UNION ALL
                (SELECT FROM jobs
                  WHERE queue = :queue AND state = 'queued' AND rung_at IS NULL
                    AND type = :type AND tenant_id = :tenant_id
                    AND COALESCE(concurrency_key, '') = COALESCE(CAST(:concurrency_key AS text), '')
                    AND priority = :priority AND id < :id LIMIT :at_most)
            ) AS before) AS ahead
    """
)


def waiting_facts(job: Mapping[Any, Any], *, at_most: int = 10_000) -> Row:
    """What rules, limits, workers and other jobs mean for a queued job right now."""
    names = ("id", "tenant_id", "type", "queue", "priority", "concurrency_key")
    return execute_alone(_WAITING_FACTS, {name: job[name] for name in names} | {"at_most": at_most})[0]


def queue_depths(session: Session, tenant_id: UUID) -> list[RowMapping]:
    """The tenant's unfinished jobs by queue and state, and since when the oldest queued one waits."""
    statement = text(
        f"""
        SELECT queue, state, count(*) AS jobs, min(run_at) AS oldest
          FROM jobs WHERE tenant_id = :tenant_id AND state IN ({UNFINISHED_SQL}) GROUP BY queue, state
        """  # noqa: S608
    )
    return list(session.execute(statement, {"tenant_id": tenant_id}).mappings())


def live_workers(session: Session, *, seen_within_seconds: float = 30.0) -> list[RowMapping]:
    """The workers that gave a sign of life lately."""
    statement = text(
        "SELECT name, queues, concurrency, started_at, seen_at FROM worker_nodes "
        "WHERE seen_at > clock_timestamp() - make_interval(secs => :seconds) ORDER BY name"
    )
    return list(session.execute(statement, {"seconds": seen_within_seconds}).mappings())
