"""Dispatch: keep the broker topped up from PostgreSQL, and ring again what nobody claimed.

Per queue at most a window of rung jobs lies in the broker, so its memory is bounded whatever the backlog. What was
rung and is gone from the broker (a wipe, an eviction, a worker that died with it) is found by comparing counts: when
the broker holds fewer messages than there are rung jobs, the oldest rings were lost or are on their way to a worker,
and either way one more ring does no harm: it makes the broker hold one more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import RowMapping, text

from service.jobs.lanes import START, next_to_ring, room_in
from service.jobs.repairs import note_repairs
from service.jobs.ring import RING_ERRORS, Bell
from service.jobs.rules import all_rules
from service.queues import Queue
from service.transaction import transaction

log = logging.getLogger(__name__)

SETTLE_SECONDS = 2.0
"""How long a ring may be under way before its absence from the broker means anything."""

SUSPECT_SECONDS = 5.0
"""The same where the broker holds younger messages: they may be all that is missing, being on their way."""

LONGEST_SECONDS = 10.0
"""Waits double with each ring of a job, up to this: every job is on its way 15 s after a wipe, however often it was
rung before."""

# `statement_timestamp()` is the same clock, and PostgreSQL can look it up in an index: with `clock_timestamp()`, which
# may differ from row to row, it would read all that is scheduled, to find that nothing is due.
_PROMOTE = text(
    """
    WITH job AS (
        UPDATE jobs SET state = 'queued', rung_at = NULL, ring_count = 0, event_seq = event_seq + 1
         WHERE id IN (SELECT id FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at <= statement_timestamp()
                       ORDER BY run_at LIMIT :at_most FOR UPDATE SKIP LOCKED)
           AND state IN ('scheduled', 'retrying')
        RETURNING id, event_seq, tenant_id, state
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
        SELECT id, event_seq, tenant_id, clock_timestamp(), state, state FROM job
    )
    SELECT id FROM job
    """
)


def promote(*, at_most: int = 1000) -> int:
    """Queue the scheduled and retrying jobs whose `run_at` was reached; returns how many."""
    with transaction("promote") as session:
        return len(session.execute(_PROMOTE, {"at_most": at_most}).all())


@dataclass(frozen=True)
class Dispatched:
    """What one round did for one queue."""

    rung: int
    rung_again: int


class Dispatcher:
    """Rings jobs, round by round. Remembers between rounds only where its walk over the lanes goes on."""

    def __init__(self, bell: Bell, *, window: int, ring_again_seconds: float) -> None:
        self._bell = bell
        self._window = window
        self._ring_again_seconds = ring_again_seconds
        self._positions = dict.fromkeys(Queue, START)

    def round(self) -> dict[Queue, Dispatched]:
        """One round over every queue. Stops early, without an error, when the broker does not answer."""
        done: dict[Queue, Dispatched] = {}
        for queue in Queue:
            depth = _broker_depth(self._bell, queue)
            if depth is None:
                break
            done[queue] = self._dispatch(queue, depth)
        return done

    def _dispatch(self, queue: Queue, depth: int) -> Dispatched:
        with transaction("dispatch") as session:
            counts = session.execute(_COUNT_RUNG, {"queue": queue, "settle_seconds": SETTLE_SECONDS}).one()
            lost = (
                session.execute(
                    _RUNG_LONG_AGO,
                    {
                        "queue": queue,
                        "settle_seconds": SETTLE_SECONDS,
                        "missing": max(counts.settled - depth, 0),
                        "suspect_seconds": SUSPECT_SECONDS,
                        "suspect": max(counts.rung - depth, 0),
                        "longest_seconds": LONGEST_SECONDS,
                        "ring_again_seconds": self._ring_again_seconds,
                        "at_most": self._window,
                    },
                )
                .mappings()
                .all()
            )
            window_room = max(self._window - counts.rung, 0)
            room = room_in(session, queue, all_rules(session), window_room=window_room)
            fresh, self._positions[queue] = next_to_ring(session, queue, room, after=self._positions[queue])
        rung_again = _ring_and_mark(self._bell, lost)
        rung = _ring_and_mark(self._bell, fresh)
        if rung_again:
            log.warning("queue %s: rang %d jobs again that nobody had claimed", queue, rung_again)
        # Direct rings from the API stop while there is a backlog that must be rung in order first.
        with transaction() as session:
            ring_directly = len(fresh) + counts.rung < max(self._window // 2, 1)
            session.execute(_SET_RING_DIRECTLY, {"queue": queue, "ring_directly": ring_directly})
            note_repairs(session, "rung again", rung_again)
        return Dispatched(rung=rung, rung_again=rung_again)


_COUNT_RUNG = text(
    """
    SELECT count(*) AS rung,
           count(*) FILTER (WHERE rung_at < clock_timestamp() - make_interval(secs => :settle_seconds)) AS settled
      FROM jobs WHERE queue = :queue AND state = 'queued' AND rung_at IS NOT NULL
    """
)

_DOUBLING = "2.0 ^ LEAST(GREATEST(ring_count - 1, 0), 10)"


def _longest_rung(waited: str, at_most: str) -> str:
    """The jobs rung longer ago than so many seconds, the longest first; both are SQL."""
    return f"""
    (SELECT id, type, queue, timeout_seconds FROM jobs
      WHERE queue = :queue AND state = 'queued' AND rung_at IS NOT NULL
        AND rung_at < clock_timestamp() - make_interval(secs => {waited})
      ORDER BY rung_at LIMIT {at_most})
    """  # noqa: S608 - only constants of ours are put in


# As many as the broker misses. A queue that is never empty holds messages too young to be counted among the settled,
# which would hide lost ones for as long as the load goes on: so all rings are compared, too, with more patience. At
# last, whatever the counts say, any whose long wait (300 s by default, doubling) is over.
_RUNG_LONG_AGO = text(
    "UNION".join(
        (
            _longest_rung(f"LEAST(:settle_seconds * {_DOUBLING}, :longest_seconds)", "LEAST(:missing, :at_most)"),
            _longest_rung(f"LEAST(:suspect_seconds * {_DOUBLING}, :longest_seconds)", "LEAST(:suspect, :at_most)"),
            _longest_rung(f":ring_again_seconds * {_DOUBLING}", ":at_most"),
        )
    )
)

# A job that was claimed meanwhile is not marked. Dying between ring and mark only means one more ring.
_MARK_RUNG = text(
    """
    UPDATE jobs SET rung_at = clock_timestamp(), ring_count = ring_count + 1
     WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued'
    """
)

_SET_RING_DIRECTLY = text(
    """
    INSERT INTO queue_states AS known (name, ring_directly) VALUES (:queue, :ring_directly)
    ON CONFLICT (name) DO UPDATE SET ring_directly = excluded.ring_directly, seen_at = clock_timestamp()
     WHERE known.ring_directly <> excluded.ring_directly
        OR known.seen_at < clock_timestamp() - make_interval(secs => 10)
    """
)


def _ring_and_mark(bell: Bell, jobs: Sequence[RowMapping]) -> int:
    rung = bell.ring_all(jobs)
    if rung:
        with transaction("mark_rung") as session:
            session.execute(_MARK_RUNG, {"ids": [job["id"] for job in jobs[:rung]]})
    return rung


def _broker_depth(bell: Bell, queue: Queue) -> int | None:
    """How many messages the broker holds ready in the queue; None when it does not answer."""
    try:
        return bell.depth(queue.value)
    except RING_ERRORS as error:
        log.warning("the broker does not answer (%s); jobs wait in PostgreSQL", type(error).__name__)
        return None
