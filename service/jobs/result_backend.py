"""A Celery result backend that reads the jobs table, so that `AsyncResult(job_id)` tells what the API tells.

It survives a wiped broker, never expires before the job does, and opens no pub/sub channels. It writes nothing: the
executor ends each attempt in PostgreSQL before Celery hears of it.
"""

from typing import Any
from uuid import UUID

from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError
from sqlalchemy import text

from service.celery_app import flask_app_of
from service.jobs.states import CELERY_STATE, State
from service.transaction import reading


class JobError(Exception):
    """Why a job failed, as `AsyncResult.result` and `.get()` give it: the job's own error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class JobExpired(JobError):
    """The job did not start before its `expires_at`."""


_META = text(
    "SELECT state, result, error, attempt, type, queue, worker, finished_at, progress_percent, progress_message "
    "FROM jobs WHERE id = :id"
)


class JobsBackend(BaseBackend):  # type: ignore[misc] # celery ships no types
    """Answers `AsyncResult` from the truth."""

    supports_autoexpire = True  # pruning is the clock's work: Celery need not schedule a clean-up

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        try:
            job_id = UUID(task_id)
        except ValueError:
            return _meta(task_id, "PENDING", None)
        with flask_app_of(self.app).app_context(), reading() as session:
            job = session.execute(_META, {"id": job_id}).mappings().first()
        if job is None:
            return _meta(task_id, "PENDING", None)
        state = State(job["state"])
        progress = {"percent": job["progress_percent"], "message": job["progress_message"], "attempt": job["attempt"]}
        results: dict[State, Any] = {State.SUCCEEDED: job["result"], State.RUNNING: progress}
        result = results.get(state)
        error = job["error"] or {}
        if state in {State.FAILED, State.RETRYING}:
            result = JobError(error.get("type", "unknown"), error.get("message", ""))
        elif state is State.EXPIRED:
            result = JobExpired("expired", error.get("message", ""))
        elif state is State.CANCELLED:
            result = TaskRevokedError("cancelled")
        return _meta(task_id, CELERY_STATE[state], result) | {
            "name": job["type"],
            "queue": job["queue"],
            "worker": job["worker"],
            "retries": max(job["attempt"] - 1, 0),
            "date_done": job["finished_at"],
        }

    def store_result(self, task_id: str, result: Any, state: str, **_: Any) -> Any:
        """Nothing to store: the job's row was written by the executor."""
        return result

    def forget(self, task_id: str) -> None:
        """A job is history; it goes when its retention is over. Raises NotImplementedError, as Celery expects."""
        raise NotImplementedError("Jobs are not forgotten; they are pruned after their retention.")


def _meta(task_id: str, status: str, result: Any) -> dict[str, Any]:
    return {"task_id": task_id, "status": status, "result": result, "traceback": None, "children": []}
