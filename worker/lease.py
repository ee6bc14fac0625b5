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


class Interrupted(BaseException):
    """Raised inside the handler. Not an Exception, so that a handler's own `except Exception` does not swallow it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass
class Watch:
    """One attempt under the keeper's eyes."""

    claim: Claim
    timeout_seconds: float
    started: float = field(default_factory=time.monotonic)
    renewed: float = field(default_factory=time.monotonic)
    interruptible: bool = False
    """Only the main thread writes it, and the signal handler runs there too: so a late signal finds it unset."""
    reason: Reason | None = None
    progress: tuple[float, str] | None = None

    def stop(self, reason: Reason) -> None:
        """Ask the handler to stop; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            os.kill(os.getpid(), signal.SIGUSR1)


class LeaseKeeper:
    """Renews the lease of this process' attempt. Made after the fork, one per process."""

    def __init__(self, app: Flask, ahead: ClaimedAhead) -> None:
        self._app = app
        self._ahead = ahead
        self._lease_seconds: float = app.config["LEASE_SECONDS"]
        self._renew_seconds: float = app.config["LEASE_RENEW_SECONDS"]
        self._changed = threading.Condition()
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, claim: Claim, *, timeout_seconds: float) -> Iterator[Watch]:
        """Keep the claim's lease alive for the length of the block."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
            self._thread.start()
        watch = self._watch = Watch(claim, timeout_seconds)  # not told to the thread: it looks in time by itself
        try:
            yield watch
        finally:
            with self._changed:
                self._watch = None

    @contextmanager
    def interruptible(self, watch: Watch) -> Iterator[None]:
        """Let signals stop the code of the block. Raises Interrupted or SoftTimeLimitExceeded out of it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._on_signal)
        try:
            watch.interruptible = True
            if watch.reason is not None:
                raise Interrupted(watch.reason)
            if _shutting_down[0]:  # a job that lay in this process' pipe when the others were given back
                raise Interrupted(Reason.SHUTDOWN)
            yield
        finally:
            watch.interruptible = False

    def report_progress(self, watch: Watch, percent: float, message: str) -> None:
        """Remember the progress; the keeper's thread stores it."""
        with self._changed:
            if watch.progress is None:
                self._changed.notify()
            watch.progress = (percent, message)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        watch = self._watch
        if watch is None or not watch.interruptible:
            return
        if watch.reason is not None:
            raise Interrupted(watch.reason)
        if _shutting_down[0]:
            raise Interrupted(Reason.SHUTDOWN)
        # Celery's parent process sends the same signal at the soft time limit. One that comes too early was meant for
        # the job that ran here before.
        if time.monotonic() - watch.started >= watch.timeout_seconds - 1:
            raise SoftTimeLimitExceeded(watch.timeout_seconds)

    def _keep(self) -> None:
        while True:
            due = self._next_renewal()
            if due is None:
                with self._app.app_context():
                    self._ahead.give_back(older_than=WAITING_SECONDS)
                continue
            watch, progress = due
            try:
                with self._app.app_context():
                    cancel_requested = renew(
                        watch.claim,
                        lease_seconds=self._lease_seconds,
                        percent=progress[0] if progress else None,
                        message=progress[1] if progress else None,
                    )
            except ClaimLost:
                self._stop(watch, Reason.LEASE_LOST)
            except SQLAlchemyError as error:
                log.warning("could not renew the lease of job %s: %s", watch.claim.job_id, type(error).__name__)
                if time.monotonic() - watch.renewed > self._lease_seconds:
                    self._stop(watch, Reason.LEASE_LOST)
                time.sleep(1)
            else:
                watch.renewed = time.monotonic()
                if cancel_requested:
                    self._stop(watch, Reason.CANCELLED)

    def _next_renewal(self) -> tuple[Watch, tuple[float, str] | None] | None:
        """Wait until the current attempt's lease is due for renewal, or its progress is worth storing.

        None: no longer, because claims that were taken ahead have waited too long behind it.
        An attempt that begins meanwhile is due later than the one that is waited for, if any: so it need not wake this
        thread, and short attempts come and go unnoticed.
        """
        with self._changed:
            while True:
                if self._ahead.has_waited(WAITING_SECONDS):
                    return None
                watch = self._watch
                if watch is None or watch.reason is Reason.LEASE_LOST:
                    self._changed.wait(WAITING_SECONDS)
                    continue
                since = time.monotonic() - watch.renewed
                wait = (PROGRESS_SECONDS if watch.progress else self._renew_seconds) - since
                if wait <= 0:
                    progress, watch.progress = watch.progress, None
                    return watch, progress
                self._changed.wait(min(wait, WAITING_SECONDS))

    def _stop(self, watch: Watch, reason: Reason) -> None:
        with self._changed:
            if self._watch is watch:
                log.info("stopping job %s: %s", watch.claim.job_id, reason.value)
                watch.stop(reason)
