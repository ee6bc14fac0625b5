"""End several attempts in one commit, where a process runs short jobs back to back.

The next handler runs while a thread writes what the last ones came to. Until then their jobs are running, under their
leases; if the process dies, its parent gives them back.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from service.direct_connection import DirectConnection
from service.failpoints import failpoint
from service.jobs.execution import Claim, succeed_all
from service.transaction import CommitUnsure

log = logging.getLogger(__name__)

Result = TypeVar("Result")

GATHER_SECONDS = 0.02
ENOUGH_AT_ONCE = 16
"""With so many there is nothing to gain from waiting for more."""
MOST_AT_ONCE = 64
SHORT_SECONDS = 0.02
"""A job type whose last handler took no longer is expected to be as quick again."""
PERSIST_SECONDS = 25.0
"""How long the end of an attempt is tried again while the database is away; below the lease, after which it is moot."""


class Finisher:
    """Made after the fork, one per process."""

    def __init__(self, connection: DirectConnection) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._handed_over: dict[Claim, tuple[str, Mapping[str, Any]]] = {}
        self._writing = self._hurry = False
        self._thread: threading.Thread | None = None
        self._seconds: dict[str, float] = {}

    def note_seconds(self, job_type: str, seconds: float) -> None:
        """How long a handler of the type just took."""
        self._seconds[job_type] = seconds

    def is_short(self, job_type: str) -> bool:
        """Whether handlers of the type are quick, as far as this process knows."""
        return self._seconds.get(job_type, SHORT_SECONDS + 1) <= SHORT_SECONDS

    def hand_over(self, claim: Claim, result: str, log_fields: Mapping[str, Any]) -> bool:
        """Have a success written soon; `result` is JSON text. False: that cannot be now, write it yourself."""
        with self._changed:
            if len(self._handed_over) >= MOST_AT_ONCE or not self._has_thread():
                return False
            self._handed_over[claim] = (result, log_fields)
            if len(self._handed_over) in (1, ENOUGH_AT_ONCE):
                self._changed.notify_all()
        failpoint("succeed", "handed_over")
        return True

    def _has_thread(self) -> bool:
        """Whether there is one to write, from now on at least."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="finisher", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine or the container has none to spare
                return False
            self._thread = thread
        return True

    def settle(self) -> None:
        """Wait until nothing is left to write: before a handler that may hold the interpreter, and at a clean exit."""
        if self._handed_over or self._writing:
            with self._changed:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._handed_over and not self._writing, PERSIST_SECONDS + 1)
                self._hurry = False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._handed_over))
                self._changed.wait_for(lambda: self._hurry or len(self._handed_over) >= ENOUGH_AT_ONCE, GATHER_SECONDS)
                self._writing = True  # before the swap: `settle` looks without the lock, and one of the two must hold
                taken, self._handed_over = self._handed_over, {}
            try:
                self._write(taken)
            finally:
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()

    def _write(self, taken: Mapping[Claim, tuple[str, Mapping[str, Any]]]) -> None:
        results = {claim: result for claim, (result, _) in taken.items()}
        try:
            ended = persist(lambda: succeed_all(results, execute=self._connection.execute))
        except CommitUnsure:
            log.warning("%d attempts have ended here, but perhaps not on the standby", len(taken))
            return
        except Exception as error:  # noqa: BLE001 - the thread goes on, whatever it was
            log.error("could not end %d attempts: %s; their leases will run out", len(taken), type(error).__name__)  # noqa: TRY400
            return
        held = {row["id"] for row in ended}
        for claim, (_, log_fields) in taken.items():
            if claim.job_id in held:
                log.info("job %s succeeded", claim.job_id, extra=log_fields)
            else:
                log.warning("job %s: this attempt was overtaken; nothing of it is kept", claim.job_id)


def persist(write: Callable[[], Result], *, between: Callable[[], object] = lambda: None) -> Result:
    """Write the end of an attempt, trying again while the database is away. Raises OperationalError or InterfaceError.

    Safe to repeat: the token guards the statement. Where the first COMMIT did arrive, the repeat finds no such attempt
    any more, which here means that the job has already ended as it should. `between` tidies up after a failure.
    """
    give_up = time.monotonic() + PERSIST_SECONDS
    wait = 0.1
    while True:
        try:
            return write()
        except (OperationalError, InterfaceError):
            between()
            if time.monotonic() + wait > give_up:
                raise
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
