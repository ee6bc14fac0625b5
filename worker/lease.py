"""Keep the running attempt's lease alive, and stop its handler when it must not go on.

One daemon thread per pool process renews the lease of whatever attempt that process runs, carries its progress along
in the same statement, and learns there of cancel requests. The handler itself runs in the main thread, so that a
signal can stop it between two bytecodes: the thread sends SIGUSR1 to its own process, never to another one, which
rules out hitting the next job of a recycled process.
"""

import logging
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from service.jobs.execution import Claim, ClaimLost, renew
from worker.ahead import WAITING_SECONDS, ClaimedAhead

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
"""Progress is stored at most so often; what lies between is dropped."""
LOOK_SECONDS = 0.5
AGAIN_SECONDS = 0.01
"""After a signal that came at a moment at which nobody can be stopped; then it is sent less and less often."""

_shutting_down = mmap.mmap(-1, 1)
"""One byte that the parent process shares with the children it forks: whether the worker gives its jobs back."""


def announce_shutdown() -> None:
    """Called in the parent: from now on a SIGUSR1 means that the job is to be given back."""
    _shutting_down[0] = 1


class Reason(Enum):
    """Why a handler is stopped."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    SHUTDOWN = "worker shutdown"
    TIMEOUT = "timeout"


class Interrupted(BaseException):
    """Raised inside the handler. Not an Exception, so that a handler's own `except Exception` does not swallow it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass
class Watch:
    """One attempt under the keeper's eyes. Each field has one writer and is written whole: no lock is needed.

    None may be: the handler's thread can be stopped at any bytecode, also while it holds one.
    """

    claim: Claim
    timeout_seconds: float
    started: float = field(default_factory=time.monotonic)
    renewed: float = field(default_factory=time.monotonic)
    interruptible: bool = False
    """Only the main thread writes it, and the signal handler runs there too: so a late signal finds it unset."""
    reason: Reason | None = None
    """What the keeper learned of."""
    raised: set[Reason] = field(default_factory=set)
    """What the handler was stopped for. The same is not raised twice: it would hit the handler's own clean-up."""
    patience: float = AGAIN_SECONDS
    """How long the keeper waits before it sends the signal again."""
    progress: tuple[float, str] | None = None
    stored_progress: tuple[float, str] | None = None

    @property
    def ends(self) -> float:
        """When the time is over that its handler has."""
        return self.started + self.timeout_seconds

    def report(self, percent: float, message: str) -> None:
        """Note the progress; the keeper's thread stores it."""
        self.progress = (percent, message)

    def to_stop(self) -> Reason | None:
        """Why the handler is to be stopped now, if it is and was not yet."""
        for reason in (self.reason, Reason.SHUTDOWN if _shutting_down[0] else None):
            if reason is not None and reason not in self.raised:
                return reason
        return None


class LeaseKeeper:
    """Renews the lease of this process' attempt. Made after the fork, one per process."""

    def __init__(self, app: Flask, ahead: ClaimedAhead) -> None:
        self._app = app
        self._ahead = ahead
        self._lease_seconds: float = app.config["LEASE_SECONDS"]
        self._renew_seconds: float = app.config["LEASE_RENEW_SECONDS"]
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, claim: Claim, *, timeout_seconds: float) -> Iterator[Watch]:
        """Keep the claim's lease alive for the length of the block."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
            thread.start()
            self._thread = thread
        watch = self._watch = Watch(claim, timeout_seconds)  # not told to the thread: it looks in time by itself
        try:
            yield watch
        finally:
            self._watch = None

    @contextmanager
    def interruptible(self, watch: Watch) -> Iterator[None]:
        """Let signals stop the code of the block. Raises Interrupted or SoftTimeLimitExceeded out of it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._on_signal)
        try:
            watch.interruptible = True
            self._raise_if_to_stop(watch)  # a job that lay in this process' pipe when the others were given back
            yield
        finally:
            watch.interruptible = False

    def _on_signal(self, _signum: int, frame: FrameType | None) -> None:
        watch = self._watch
        # Whoever is let go on for now is stopped a moment later: the keeper sends again until it has worked.
        if watch is not None and watch.interruptible and not _may_hold_a_lock(frame):
            self._raise_if_to_stop(watch)

    def _raise_if_to_stop(self, watch: Watch) -> None:
        reason = watch.to_stop()
        if reason is None:
            return
        watch.raised.add(reason)
        if reason is Reason.TIMEOUT:
            raise SoftTimeLimitExceeded(watch.timeout_seconds)
        raise Interrupted(reason)

    def _keep(self) -> None:
        while True:
            try:
                time.sleep(self._look())
            except Exception:  # without its keeper every longer attempt of this process would be lost
                log.exception("the lease keeper stumbled, and goes on")
                time.sleep(LOOK_SECONDS)

    def _look(self) -> float:
        """Do what is due: stop the handler, give back what waits behind it, renew. Returns the seconds to sleep.

        An attempt that begins meanwhile is not due sooner than that: it need not wake this thread, and short ones come
        and go unnoticed.
        """
        if self._ahead.has_waited(WAITING_SECONDS):
            with self._app.app_context():
                self._ahead.give_back(older_than=WAITING_SECONDS)
        watch = self._watch
        if watch is None:
            return LOOK_SECONDS
        wait, now = LOOK_SECONDS, time.monotonic()
        if watch.reason is None:
            wait = min(wait, watch.ends - now)
            watch.reason = Reason.TIMEOUT if wait <= 0 else None
        if watch.interruptible and (reason := watch.to_stop()):
            wait = _stop(watch, reason)
        if watch.reason is Reason.LEASE_LOST:
            return wait
        progress = watch.progress
        is_new = progress is not watch.stored_progress
        due = watch.renewed + (PROGRESS_SECONDS if is_new else self._renew_seconds)
        if due <= now:  # also while it is being stopped: its clean-up may take a while
            return self._renew(watch, progress if is_new else None)
        return min(wait, due - now)

    def _renew(self, watch: Watch, progress: tuple[float, str] | None) -> float:
        percent, message = progress or (None, None)
        try:
            with self._app.app_context():
                cancel_requested = renew(
                    watch.claim, lease_seconds=self._lease_seconds, percent=percent, message=message
                )
        except ClaimLost:
            watch.reason = Reason.LEASE_LOST
        except SQLAlchemyError as error:
            log.warning("could not renew the lease of job %s: %s", watch.claim.job_id, type(error).__name__)
            if time.monotonic() - watch.renewed > self._lease_seconds:
                watch.reason = Reason.LEASE_LOST
            return LOOK_SECONDS
        else:
            watch.renewed = time.monotonic()
            watch.stored_progress = progress or watch.stored_progress
            if cancel_requested:
                watch.reason = Reason.CANCELLED
        return 0.0


def _stop(watch: Watch, reason: Reason) -> float:
    """Send the signal. Returns in how many seconds to send it again, should the handler not be stopped by then."""
    if watch.patience == AGAIN_SECONDS:
        log.info("stopping job %s: %s", watch.claim.job_id, reason.value)
    os.kill(os.getpid(), signal.SIGUSR1)
    wait, watch.patience = watch.patience, min(2 * watch.patience, LOOK_SECONDS)
    return wait


def _may_hold_a_lock(frame: FrameType | None) -> bool:
    """Whether to raise in that frame could leave a lock taken for good that everybody needs.

    CPython lets a signal in between taking a lock and the block that would let it go again, inside `threading`'s own
    `__enter__` and in `logging`, which takes its handlers' locks outside of a `with`.
    """
    if frame is not None and frame.f_globals.get("__name__") == "threading" and frame.f_code.co_name in _LOCKING:
        return True
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


_LOCKING = ("__enter__", "__exit__")
