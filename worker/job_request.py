"""How the worker's parent process takes the death of a pool process: it gives the job back at once.

Celery alone would record a failure and acknowledge the message, and the job would never run again.
"""

import logging
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from celery import Celery
from celery.exceptions import Ignore, WorkerLostError
from celery.worker.request import Request
from sqlalchemy.exc import SQLAlchemyError

from service.celery_app import flask_app_of
from service.jobs.execution import all_lost, process_lost, timed_out
from service.jobs.retry import backoff_seconds
from service.jobs.ring import Bell
from service.jobs.types import registry
from service.statements import Row

log = logging.getLogger(__name__)

PROCESS_LOST_ERROR = {
    "type": "process_lost",
    "message": "The process that ran this attempt died: it was killed, ran out of memory or crashed.",
}


_RUN = secrets.token_hex(3)
"""Made once by the worker's main process, and inherited by its pool processes."""


def worker_name(pid: int) -> str:
    """The name by which a pool process claims jobs.

    Containers share process ids, and sometimes host names: nobody must give back what another worker's process runs.
    """
    return f"{socket.gethostname()}:{pid}:{_RUN}"


class JobCancelled(Ignore):  # type: ignore[misc] # celery ships no types
    """The attempt ended because somebody asked to cancel; only for events."""


class JobRequest(Request):  # type: ignore[misc] # celery ships no types
    """A ring in the parent's hands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received = time.monotonic()

    def revoked(self) -> bool:
        """Never: jobs are cancelled in PostgreSQL. One that is only forgotten here would be rung again and again."""
        return False

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Called for every way in which an attempt did not succeed, the death of its process included."""
        error = getattr(exc_info, "exception", None)
        error = getattr(error, "exc", error)
        if isinstance(error, (WorkerLostError, SystemExit)):
            self._give_back(partial(process_lost, error=PROCESS_LOST_ERROR))
        elif isinstance(error, JobCancelled):
            self.send_event("task-revoked", terminated=True, signum=0, expired=False)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001
        """The pool kills the process after the hard limit: a failed attempt, like any other that took too long."""
        if not soft:
            backoff = partial(backoff_seconds, registry.get(self.name).retry)
            error = {
                "type": "timeout",
                "message": f"The attempt ignored its timeout and was killed after {timeout:g} s.",
            }
            self._give_back(partial(timed_out, error=error, backoff=backoff))
        super().on_timeout(soft, timeout)

    def _give_back(self, end: Callable[..., Row | None]) -> None:
        if self.worker_pid is None:  # never reached a process, so nothing was claimed
            return
        app = flask_app_of(self.app)
        try:
            with app.app_context():
                job = end(UUID(self.id), worker=worker_name(self.worker_pid))
        except SQLAlchemyError as failure:
            log.error("could not give job %s back: %s; its lease will run out", self.id, type(failure).__name__)  # noqa: TRY400
            return
        if job is not None and job["state"] == "queued":
            Bell(self.app, hard_timeout_grace=app.config["HARD_TIMEOUT_GRACE"]).ring(job)


def give_all_back(celery_app: Celery, pid: int) -> None:
    """Give back what a pool process that is gone had claimed: the job that it ran, and those not yet finished."""
    app = flask_app_of(celery_app)
    try:
        with app.app_context():
            jobs = all_lost(worker=worker_name(pid), error=PROCESS_LOST_ERROR)
    except SQLAlchemyError as failure:
        log.error("could not give back the jobs of process %d: %s; leases run out", pid, type(failure).__name__)  # noqa: TRY400
        return
    queued = sorted((job for job in jobs if job["state"] == "queued"), key=lambda job: str(job["queue"]))
    Bell(celery_app, hard_timeout_grace=app.config["HARD_TIMEOUT_GRACE"]).ring_all(queued)
