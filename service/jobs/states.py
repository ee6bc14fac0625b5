"""The states of a job and the legal moves between them. Pure, and the only list of either.

Drawn in `docs/job-lifecycle.md`; a test keeps the drawing equal to this table.
"""

from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a job stands."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


NEW = None
"""The state of a job that does not exist yet."""

MOVES: MappingProxyType[State | None, frozenset[State]] = MappingProxyType(
    {
        NEW: frozenset({State.SCHEDULED, State.QUEUED, State.WAITING}),
        State.SCHEDULED: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED}),
        State.WAITING: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED}),
        State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED}),
        State.RUNNING: frozenset({State.SUCCEEDED, State.RETRYING, State.FAILED, State.QUEUED, State.CANCELLED}),
        State.RETRYING: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED}),
        State.SUCCEEDED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
        State.EXPIRED: frozenset(),
    }
)

FINAL = frozenset(state for state in State if not MOVES[state])
UNFINISHED = frozenset(State) - FINAL
IDLE = UNFINISHED - {State.RUNNING}
"""Unfinished, and no attempt is running: these can be cancelled on the spot."""

CELERY_STATE: MappingProxyType[State, str] = MappingProxyType(
    {
        State.SCHEDULED: "PENDING",
        State.QUEUED: "PENDING",
        State.WAITING: "PENDING",
        State.RUNNING: "STARTED",
        State.RETRYING: "RETRY",
        State.SUCCEEDED: "SUCCESS",
        State.FAILED: "FAILURE",
        State.EXPIRED: "FAILURE",
        State.CANCELLED: "REVOKED",
    }
)
"""What `AsyncResult(id).state` says."""


def is_legal(before: State | None, after: State) -> bool:
    """Whether a job may go from one state to the other in one move."""
    return after in MOVES[before]
