"""`AsyncResult(id)` and the API tell the same, for every state."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from flask import Flask
from sqlalchemy import text

from service.config import environment_with
from service.jobs.execution import Claim, claim, fail, succeed
from service.jobs.result_backend import JobError
from service.jobs.states import CELERY_STATE, State
from service.transaction import transaction
from tests.support.client import KeyClient


def take(app: Flask, job_id: str) -> Claim:
    with app.app_context():
        job = claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10)
        assert job is not None
        return Claim(job["id"], job["token"])


def run_to(app: Flask, client: KeyClient, state: State) -> str:
    """A job that reached the state through the use cases that lead there."""
    delay = {"delay": 60} if state is State.SCHEDULED else {}
    job_id: str = client.submit("test.echo", **delay)["id"]
    error = {"type": "broken", "message": "it broke"}
    steps: dict[State, Callable[[], Any]] = {
        State.RUNNING: lambda: take(app, job_id),
        State.SUCCEEDED: lambda: succeed(take(app, job_id), {"answer": 42}),
        State.FAILED: lambda: fail(take(app, job_id), error, traceback=None, retry_after=None),
        State.RETRYING: lambda: fail(take(app, job_id), error, traceback=None, retry_after=60),
        State.CANCELLED: lambda: client.post(f"/jobs/{job_id}/cancel"),
    }
    with app.app_context():
        if state in steps:
            steps[state]()
        elif state in {State.EXPIRED, State.WAITING}:  # the one needs the clock, the other has no way in yet
            finished = ", finished_at = clock_timestamp()" if state is State.EXPIRED else ""
            with transaction() as session:
                statement = f"UPDATE jobs SET state = '{state}'{finished} WHERE id = :id"  # noqa: S608 - of two constants
                session.execute(text(statement), {"id": job_id})
    return job_id


@pytest.mark.parametrize("state", list(State))
def test_async_result_agrees_with_the_api(app: Flask, client: KeyClient, state: State) -> None:
    job_id = run_to(app, client, state)

    shown = client.job(job_id)
    result = AsyncResult(job_id, app=app.extensions["celery"])

    assert shown["state"] == state
    assert result.state == shown["celery_state"] == CELERY_STATE[state]
    assert result.ready() is (state in {State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED})


def test_get_returns_the_result(app: Flask, client: KeyClient) -> None:
    job_id = run_to(app, client, State.SUCCEEDED)

    assert AsyncResult(job_id, app=app.extensions["celery"]).get(timeout=1) == {"answer": 42}


def test_get_raises_the_jobs_own_error(app: Flask, client: KeyClient) -> None:
    job_id = run_to(app, client, State.FAILED)

    with pytest.raises(JobError, match="it broke"):
        AsyncResult(job_id, app=app.extensions["celery"]).get(timeout=1)


def test_get_raises_for_a_cancelled_job(app: Flask, client: KeyClient) -> None:
    job_id = run_to(app, client, State.CANCELLED)

    with pytest.raises(TaskRevokedError):
        AsyncResult(job_id, app=app.extensions["celery"]).get(timeout=1)


@pytest.mark.parametrize("unknown", ["3f0d683a-2189-428d-8ccf-b346891d6349", "not-an-id"])
def test_an_unknown_id_is_pending_to_celery_and_404_to_the_api(app: Flask, client: KeyClient, unknown: str) -> None:
    assert AsyncResult(unknown, app=app.extensions["celery"]).state == "PENDING"
    assert client.get(f"/jobs/{unknown}").status_code == 404


def test_a_plain_python_shell_sees_the_same(app: Flask, client: KeyClient, config: dict[str, Any]) -> None:
    job_id = run_to(app, client, State.SUCCEEDED)
    program = (
        "from celery.result import AsyncResult; from service.app import create_app; create_app();"
        f"print(AsyncResult('{job_id}').state, AsyncResult('{job_id}').result)"
    )
    settings = {name: value for name, value in config.items() if name not in {"TESTING", "DEBUG"}}

    shell = subprocess.run(
        [sys.executable, "-c", program],
        env=environment_with({**settings, "OUTGOING_ALLOW_PRIVATE": "false"}),
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert shell.stdout.strip() == "SUCCESS {'answer': 42}"
