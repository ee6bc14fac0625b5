"""Group commit: what arrives while a commit is under way waits for it, and is committed together in the next one.

Nobody waits for a timer: whoever comes to an idle group commits at once, alone. Under load the groups grow by
themselves, and one statement, one commit and one wait for the disk serve many callers. It serves reads as well, which
have no commit and share the statement.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class LeaderEnded(Exception):
    """Whoever committed for the group was ended meanwhile: nobody knows what became of the commit."""


class LineStalled(Exception):
    """Those in front did not get on in time, and the caller left the line: nothing was done."""


class _Place(Generic[Item, Outcome]):
    """A caller in the line."""

    __slots__ = ("error", "item", "leads", "outcome", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.leads = False
        self.turn = threading.Lock()
        self.turn.acquire()


class GroupCommit(Generic[Item, Outcome]):
    """Calls `commit` with the items of several callers, never twice at a time; one outcome per item, in order.

    What `commit` raises is raised to all callers of its group; LeaderEnded where only its own caller was meant. Whoever
    waits longer than `turn_seconds` for the group's turn gets LineStalled: while the database is stuck each group takes
    as long as a lock may, and the last in line would wait for them all.
    """

    def __init__(
        self, commit: Callable[[list[Item]], Sequence[Outcome]], *, at_most: int = 100, turn_seconds: float = 2.0
    ) -> None:
        self._commit = commit
        self._at_most = at_most
        self._turn_seconds = turn_seconds
        self._lock = threading.Lock()
        self._line: deque[_Place[Item, Outcome]] = deque()
        self._has_leader = False

    def commit(self, item: Item) -> Outcome:
        """The item's outcome, once its group is committed. Raises LineStalled."""
        place: _Place[Item, Outcome] = _Place(item)
        with self._lock:
            self._line.append(place)
            place.leads = not self._has_leader
            self._has_leader = True
        if not place.leads:
            self._wait(place)
        if place.leads:
            self._lead(place)
        if place.error is not None:
            raise place.error
        return cast("Outcome", place.outcome)

    def _wait(self, place: _Place[Item, Outcome]) -> None:
        """Until the place has its outcome, or is the first in line and leads."""
        try:
            if not place.turn.acquire(timeout=self._turn_seconds):
                self._leave(place)
                place.turn.acquire()
        except BaseException:  # the caller is being ended: the line must go on without it
            with self._lock:
                if place in self._line:
                    self._line.remove(place)
                successor = self._appoint() if place.leads else None
            if successor is not None:
                successor.turn.release()
            raise

    def _leave(self, place: _Place[Item, Outcome]) -> None:
        """Leave the line, unless the place's turn has come after all. Raises LineStalled."""
        with self._lock:
            if place in self._line and not place.leads:
                self._line.remove(place)
                raise LineStalled

    def _lead(self, own: _Place[Item, Outcome]) -> None:
        """Commit everybody who is in line, then leave the lead to whoever came meanwhile."""
        time.sleep(0)  # whose request is here already comes along: nobody else is waited for
        with self._lock:
            group = list(islice(self._line, self._at_most))  # its first is the leader
            for _ in group:
                self._line.popleft()
        try:
            outcomes = self._commit([place.item for place in group])
            for place, outcome in zip(group, outcomes, strict=True):
                place.outcome = outcome
        except BaseException as error:  # noqa: BLE001 - each caller raises it
            for place in group:
                place.error = error if place is own or isinstance(error, Exception) else LeaderEnded()
        with self._lock:
            successor = self._appoint()
        if successor is not None:
            successor.turn.release()
        for place in group:
            if place is not own:
                place.turn.release()

    def _appoint(self) -> _Place[Item, Outcome] | None:
        """The first in line leads from now on; nobody, if there is none."""
        successor = self._line[0] if self._line else None
        self._has_leader = successor is not None
        if successor is not None:
            successor.leads = True
        return successor
