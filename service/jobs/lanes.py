"""Which jobs are rung next: by lane, fairly between tenants, within every limit.

A lane is what can be held back as a whole: the jobs of one type, tenant and concurrency key. The statement walks from
lane to lane in the index instead of over jobs, so that a lane with a million jobs costs as much as one with a few.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.jobs.types import UnknownJobType, registry
from service.queues import Queue

LANES_AT_A_TIME = 500
"""Most lanes looked into in one round; the next round goes on where this one ended."""

ROWS_AT_A_TIME = 20_000
"""About how many jobs one round compares. With few lanes that is every lane's whole window, so that priority decides
exactly; with very many it is the best few of each."""

LanePosition = tuple[str, str, str]
"""A lane's place in the index: type, tenant, key."""

START: LanePosition = ("", "00000000-0000-0000-0000-000000000000", "")


# `walk` jumps from one lane's first job to the next lane's (a loose index scan), past all lanes of a type that is held;
# `LATERAL` takes the best of each lane.
# A tenant's first jobs stand before anybody's second ones: so one tenant's backlog delays another's job by no more
# than what is rung already. Within that, priority, then age.
_NEXT = text(
    """
    WITH RECURSIVE walk AS (
        (SELECT type, tenant_id, COALESCE(concurrency_key, '') AS key, 1 AS number FROM jobs
          WHERE queue = :queue AND state = 'queued' AND rung_at IS NULL
            AND (type, tenant_id, COALESCE(concurrency_key, ''))
                > (:after_type, CAST(:after_tenant AS uuid), :after_key)
          ORDER BY type, tenant_id, COALESCE(concurrency_key, '') LIMIT 1)
        UNION ALL
        SELECT following.type, following.tenant_id, following.key, walk.number + 1
          FROM walk CROSS JOIN LATERAL (
            SELECT type, tenant_id, COALESCE(concurrency_key, '') AS key FROM jobs
             WHERE queue = :queue AND state = 'queued' AND rung_at IS NULL
               AND (type, tenant_id, COALESCE(concurrency_key, ''))
                   > (walk.type, CASE WHEN walk.type = ANY (CAST(:held_types AS text[]))
                                      THEN CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid)
                                      ELSE walk.tenant_id END, walk.key)
             ORDER BY type, tenant_id, COALESCE(concurrency_key, '') LIMIT 1) AS following
         WHERE walk.number < :lanes
    ), best AS (
        SELECT job.*, walk.number
          FROM walk CROSS JOIN LATERAL (
            SELECT id, type, queue, tenant_id, concurrency_key, priority, timeout_seconds FROM jobs
             WHERE queue = :queue AND state = 'queued' AND rung_at IS NULL
               AND type = walk.type AND tenant_id = walk.tenant_id AND COALESCE(concurrency_key, '') = walk.key
             ORDER BY priority DESC, id
             LIMIT GREATEST(:room / (SELECT count(*) FROM walk) + 1,
                            LEAST(:room, :rows / (SELECT count(*) FROM walk)))) AS job
         WHERE walk.type <> ALL (CAST(:held_types AS text[]))
    )
    SELECT best.*, (SELECT max(number) FROM walk) AS lanes_seen,
           row_number() OVER (PARTITION BY tenant_id ORDER BY priority DESC, id) AS turn
      FROM best ORDER BY turn, priority DESC, id
    """
)

# What counts against a limit: what runs, and what was rung to run.
_ACTIVE = text(
    """
    SELECT queue, type, tenant_id, concurrency_key, count(*) AS jobs FROM jobs WHERE state = 'running'
     GROUP BY queue, type, tenant_id, concurrency_key
    UNION ALL
    SELECT queue, type, tenant_id, concurrency_key, count(*) FROM jobs WHERE state = 'queued' AND rung_at IS NOT NULL
     GROUP BY queue, type, tenant_id, concurrency_key
    """
)

# The database's clock fills the bucket, up to one period's worth.
_FILL = text(
    """
    INSERT INTO rate_buckets AS bucket (type, tokens) VALUES (:type, :count)
    ON CONFLICT (type) DO UPDATE
       SET tokens = LEAST(:count, bucket.tokens + EXTRACT(epoch FROM clock_timestamp() - bucket.filled_at)
                                                  * :count / :seconds),
           filled_at = clock_timestamp()
    RETURNING tokens
    """
)
_SPEND = text("UPDATE rate_buckets SET tokens = tokens - :spent WHERE type = :type")


@dataclass
class Room:
    """How many more jobs may be rung in one round, by queue, type and key."""

    queue: int
    types: dict[str, int] = field(default_factory=dict)
    rated: dict[str, int] = field(default_factory=dict)
    active_keys: Counter[tuple[str, Any, str]] = field(default_factory=Counter)

    @property
    def held_types(self) -> list[str]:
        """The types of which none may be rung now."""
        return sorted(name for name, room in [*self.types.items(), *self.rated.items()] if room <= 0)

    def take(self, job: RowMapping) -> bool:
        """Whether the job may be rung; if so, its place is taken."""
        lane = (job["type"], job["tenant_id"], job["concurrency_key"])
        if self.queue <= 0 or self.types.get(job["type"], 1) <= 0 or self.rated.get(job["type"], 1) <= 0:
            return False
        if job["concurrency_key"] is not None and self.active_keys[lane] >= _per_key(job["type"]):
            return False
        self.queue -= 1
        self.active_keys[lane] += 1
        for room in (self.types, self.rated):
            if job["type"] in room:
                room[job["type"]] -= 1
        return True


def room_in(session: Session, queue: Queue, rules: Iterable[RowMapping], *, window_room: int) -> Room:
    """What the window, the rules and the types' own limits leave for a queue."""
    by_target = {(rule["kind"], rule["name"]): rule for rule in rules}
    queue_rule = by_target.get(("queue", queue.value))
    room = Room(queue=0 if queue_rule and queue_rule["paused_at"] else window_room)
    if room.queue <= 0:
        return room
    active = session.execute(_ACTIVE).all()
    if queue_rule and queue_rule["max_running"] is not None:
        taken = sum(row.jobs for row in active if row.queue == queue)
        room.queue = min(room.queue, queue_rule["max_running"] - taken)
    for row in active:
        if row.concurrency_key is not None:
            room.active_keys[row.type, row.tenant_id, row.concurrency_key] += row.jobs
    for name in {job_type.name for job_type in registry} | {name for kind, name in by_target if kind == "type"}:
        rule = by_target.get(("type", name))
        most = _max_running(name, rule)
        if rule and rule["paused_at"]:
            room.types[name] = 0
        elif most is not None:
            room.types[name] = most - sum(row.jobs for row in active if row.type == name)
        if rate := _rate(name, rule):
            tokens = session.execute(_FILL, {"type": name, "count": rate[0], "seconds": rate[1]}).scalar_one()
            room.rated[name] = int(tokens)
    return room


def next_to_ring(
    session: Session, queue: Queue, room: Room, *, after: LanePosition
) -> tuple[list[RowMapping], LanePosition]:
    """The jobs to ring now, in order, and where the next round's walk over the lanes begins."""
    if room.queue <= 0:
        return [], after
    parameters = {
        "queue": queue.value,
        "room": room.queue,
        "lanes": LANES_AT_A_TIME,
        "rows": ROWS_AT_A_TIME,
        "held_types": room.held_types,
        "after_type": after[0],
        "after_tenant": after[1],
        "after_key": after[2],
    }
    found: Sequence[RowMapping] = session.execute(_NEXT, parameters).mappings().all()
    chosen = [job for job in found if room.take(job)]
    for name in room.rated:
        if spent := sum(job["type"] == name for job in chosen):
            session.execute(_SPEND, {"type": name, "spent": spent})
    if not found or found[0]["lanes_seen"] < LANES_AT_A_TIME:
        return chosen, START
    last = max(found, key=lambda job: job["number"])
    return chosen, (last["type"], str(last["tenant_id"]), last["concurrency_key"] or "")


def _max_running(name: str, rule: RowMapping | None) -> int | None:
    if rule and rule["max_running"] is not None:
        return int(rule["max_running"])
    return registry.get(name).max_running if name in registry else None


def _rate(name: str, rule: RowMapping | None) -> tuple[int, float] | None:
    if rule and rule["rate_count"] is not None:
        return rule["rate_count"], rule["rate_seconds"]
    return registry.get(name).rate if name in registry else None


def _per_key(name: str) -> int:
    try:
        return registry.get(name).max_running_per_key
    except UnknownJobType:
        return 1
