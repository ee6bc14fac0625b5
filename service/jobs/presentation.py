"""A job's row as the API shows it: with its Celery state, links, progress, and what it waits for."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from flask import request, url_for

from service.jobs.new_job import NewJob
from service.jobs.queries import waiting_facts
from service.jobs.schemas import moment
from service.jobs.states import CELERY_STATE, FINAL, State
from service.jobs.store import job_entry, stored_job
from service.jobs.types import JobType, registry


def describe(job: Mapping[Any, Any]) -> dict[str, Any]:
    """The job as `JobSchema` describes it, ready for JSON; without what only an answer of the API has.

    By hand, because marshmallow takes as long for it as all the rest of an answer; a test holds them equal.
    """
    progress = error = None
    if job["progress_percent"] is not None:
        progress = {"percent": job["progress_percent"], "message": job["progress_message"]}
    if job["error"] is not None:
        error = {name: job["error"][name] for name in ("type", "message", "attempt") if name in job["error"]}
    return {
        "id": job["id"],
        "type": job["type"],
        "state": job["state"],
        "queue": job["queue"],
        "priority": job["priority"],
        "args": job["args"],
        "tags": job["tags"],
        "metadata": job["metadata"],
        "unique_key": job["unique_key"],
        "concurrency_key": job["concurrency_key"],
        "attempt": job["attempt"],
        "max_attempts": job["max_attempts"],
        "timeout": job["timeout_seconds"],
        "created_at": moment(job["created_at"]),
        "run_at": moment(job["run_at"]),
        "started_at": moment(job["started_at"]),
        "finished_at": moment(job["finished_at"]),
        "expires_at": moment(job["expires_at"]),
        "cancel_requested_at": moment(job["cancel_requested_at"]),
        "progress": progress,
        "result": job["result"],
        "error": error,
        "celery_state": CELERY_STATE[State(job["state"])],
        "origin_id": job["origin_id"],
        "schedule_id": job["schedule_id"],
    }


def present(job: Mapping[Any, Any], *, waiting_for: dict[str, Any] | None = None) -> dict[str, Any]:
    """The job as the API answers it, ready for JSON: with what it waits for, and where to go from here."""
    job_id = str(job["id"])
    links = {name: link.replace(_MARK, job_id) for name, link in _links(request.script_root).items()}
    return {**describe(job), "waiting_for": waiting_for, "links": links}


_MARK = "JOB-ID"


@lru_cache(maxsize=16)
def _links(script_root: str) -> dict[str, str]:  # noqa: ARG001 - what url_for puts in front
    """The links of a job whose id is the mark; made once, because making one costs as much as finding a route."""
    return {
        "self": url_for("jobs.Job", job_id=_MARK),
        "result": url_for("jobs_history.JobResult", job_id=_MARK),
        "events": url_for("jobs_history.JobEvents", job_id=_MARK),
        "attempts": url_for("jobs_history.JobAttempts", job_id=_MARK),
        "artifacts": url_for("artifacts.JobArtifacts", job_id=_MARK),
    }


def etag_of(job: Mapping[Any, Any]) -> str:
    """A strong tag of everything that can change about a job: its newest event and its progress."""
    seen = f"{job['event_seq']}:{job['progress_percent']}:{job['progress_message']}"
    return f"{job['state']}-{job['event_seq']}-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def state_in_etag(etag: str) -> str:
    """The state that a tag of ours was about."""
    return etag.partition("-")[0]


def polling_interval(job: Mapping[Any, Any]) -> int:
    """How many seconds a client should wait before it asks again."""
    if job["state"] in {State.SCHEDULED, State.RETRYING}:
        seconds = (job["run_at"] - datetime.now(UTC)).total_seconds()
        return int(min(max(seconds, 1), 60))
    return 1


def explain_waiting(job: Mapping[Any, Any]) -> dict[str, Any] | None:
    """Why the job does not run yet, or None where it runs or has ended."""
    state = State(job["state"])
    if state is State.RUNNING or state in FINAL:
        return None
    if state in {State.SCHEDULED, State.RETRYING}:
        is_retry = state is State.RETRYING
        detail = f"attempt {job['attempt'] + 1} of {job['max_attempts']}" if is_retry else "the job's own start time"
        return _reason("retry_backoff" if is_retry else "run_at", detail, estimated_start=job["run_at"])
    facts = waiting_facts(job)
    if held := _held_back(job, facts):
        return held
    if not facts["has_worker"]:
        detail = f"No worker that consumes the queue {job['queue']!r} has given a sign of life in the last 30 seconds."
        return _reason("no_worker", detail)
    ahead = facts["ahead"]
    detail = f"{ahead:,} jobs come first." if ahead else "It is next, once a worker is free."
    return _reason("behind", detail, ahead=ahead)


def _held_back(job: Mapping[Any, Any], now: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The rule or limit that keeps a queued job from starting, if one does."""
    job_type = registry.get(job["type"]) if job["type"] in registry else None
    if now["paused"]:
        return _reason("paused", f"An operator paused the queue {job['queue']!r} or the job type {job['type']!r}.")
    per_key = job_type.max_running_per_key if job_type else 1
    if job["concurrency_key"] is not None and now["key_running"] >= per_key:
        return _reason(
            "concurrency", f"{now['key_running']} jobs with its concurrency_key run; the limit is {per_key}."
        )
    type_limit = now["type_limit"] or (job_type.max_running if job_type else None)
    for what, running, limit in (
        (f"the job type {job['type']!r}", now["type_running"], type_limit),
        (f"the queue {job['queue']!r}", now["queue_running"], now["queue_limit"]),
    ):
        if limit is not None and running >= limit:
            return _reason("concurrency", f"{running} jobs of {what} run; the limit is {limit}.")
    if now["tokens"] is not None and now["tokens"] < 1:
        return _reason("rate", f"Jobs of the type {job['type']!r} start no more often than its rate limit says.")
    return None


def _reason(
    reason: str, detail: str, *, ahead: int | None = None, estimated_start: datetime | None = None
) -> dict[str, Any]:
    return {"reason": reason, "detail": detail, "ahead": ahead, "estimated_start": moment(estimated_start)}


def preview(tenant_id: UUID, new: NewJob, job_type: JobType) -> dict[str, Any]:
    """The job as it would be, ready for JSON; nothing of it is stored, so it has neither id nor links."""
    now = datetime.now(UTC)
    run_at = new.run_at or now + timedelta(seconds=new.delay or 0)
    state = State.SCHEDULED if run_at > now else State.QUEUED
    entry = job_entry(tenant_id, new, job_type, ring=False)
    return describe(stored_job(entry, {"id": None, "state": state, "created_at": now, "run_at": run_at}))
