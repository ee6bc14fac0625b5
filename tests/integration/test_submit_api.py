"""Submitting over HTTP: the answer, the defaults, waiting for the end, and a broker that is away."""

import gzip
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from service.jobs import api
from service.jobs.schemas import JobSchema
from service.jobs.types import registry
from tests.support.apps import app_with
from tests.support.attempts import finish
from tests.support.client import KeyClient
from tests.support.database import count_jobs
from tests.support.ports import closed_port
from tests.support.threads import in_background


def test_a_submitted_job_can_be_fetched(client: KeyClient) -> None:
    response = client.post("/jobs", json={"type": "test.echo", "args": {"value": 1}})

    assert response.status_code == 202, response.text
    job = response.get_json()
    assert job["state"] == "queued"
    assert response.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert client.job(job["id"])["args"] == {"value": 1}


def test_the_answer_says_when_to_ask_again_and_what_was_seen(client: KeyClient) -> None:
    response = client.post("/jobs", json={"type": "test.echo"})

    assert int(response.headers["Retry-After"]) >= 1
    seen = client.get(f"/jobs/{response.get_json()['id']}", headers={"If-None-Match": response.headers["ETag"]})
    assert seen.status_code == 304


def test_what_is_left_out_comes_from_the_job_type(client: KeyClient) -> None:
    job_type = registry.get("test.sleep")

    job = client.submit("test.sleep")

    assert job["queue"] == job_type.queue.value
    assert job["timeout"] == job_type.timeout_seconds
    assert job["max_attempts"] == job_type.max_attempts
    assert (job["priority"], job["tags"], job["metadata"], job["args"]) == (0, [], {}, {})
    assert (job["attempt"], job["result"], job["error"], job["progress"]) == (0, None, None, None)


def test_what_is_given_is_kept(client: KeyClient) -> None:
    given: dict[str, Any] = {
        "queue": "bulk",
        "priority": -3,
        "timeout": 7,
        "max_attempts": 2,
        "tags": ["nightly", "é"],
        "metadata": {"any": ["json", None, 1.5]},
        "unique_key": "invoice-42",
    }

    job = client.job(client.submit(**given)["id"])

    assert {name: job[name] for name in given} == given


def test_a_job_with_a_later_start_is_scheduled(client: KeyClient) -> None:
    moment = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)

    at = client.submit(run_at=moment.isoformat())
    later = client.submit(delay=90.5)

    assert at["state"] == "scheduled"
    assert datetime.fromisoformat(at["run_at"]) == moment
    assert client.job(at["id"])["waiting_for"]["reason"] == "run_at"
    assert later["state"] == "scheduled"
    waits = datetime.fromisoformat(later["run_at"]) - datetime.fromisoformat(later["created_at"])
    assert waits == timedelta(seconds=90.5)


def test_a_start_in_the_past_is_now(client: KeyClient) -> None:
    assert client.submit(run_at="2020-01-01T00:00:00+02:00")["state"] == "queued"
    assert client.submit(delay=0)["state"] == "queued"


def test_the_end_of_a_job_that_may_expire_is_kept(client: KeyClient) -> None:
    job = client.submit(delay=60, expires_at="2999-12-31T23:00:00-01:00")

    assert client.job(job["id"])["expires_at"] == "3000-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(("delay", "state"), [(0, "queued"), (60, "scheduled")])
def test_validating_only_stores_nothing(app: Flask, client: KeyClient, delay: int, state: str) -> None:
    body = {"type": "test.echo", "args": {"value": 2}, "delay": delay}

    response = client.post("/jobs?validate_only=true", json=body, headers={"Idempotency-Key": "k"})

    assert response.status_code == 200
    shown = response.get_json()
    assert (shown["id"], shown["state"], shown["args"], shown["queue"]) == (None, state, {"value": 2}, "default")
    assert "Location" not in response.headers
    assert count_jobs(app) == 0


def test_validating_only_shows_the_job_that_a_submission_then_makes(client: KeyClient) -> None:
    body = {"type": "test.echo", "args": {"value": 2}, "priority": 5, "tags": ["a"], "timeout": 7, "unique_key": "u"}

    shown = client.post("/jobs?validate_only=true", json=body).get_json()
    made = client.post("/jobs", json=body).get_json()

    of_its_own = {"id", "created_at", "run_at"}
    assert shown.keys() == made.keys() - {"waiting_for", "links"}
    assert all(shown[name] == made[name] for name in shown.keys() - of_its_own)
    assert shown["run_at"] == shown["created_at"] < made["created_at"]


def test_validating_only_still_refuses(client: KeyClient) -> None:
    assert client.post("/jobs?validate_only=true", json={"type": "no.such"}).status_code == 422


def test_waiting_for_a_job_that_does_not_end_is_answered_202(client: KeyClient) -> None:
    response = client.post("/jobs", json={"type": "test.echo"}, headers={"Prefer": "respond-async, wait=1"})

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"
    assert response.get_json()["state"] == "queued"


def test_waiting_for_a_job_that_ends_is_answered_with_its_result(app: Flask, client: KeyClient) -> None:
    key = {"Idempotency-Key": "wait-for-me"}
    job = client.post("/jobs", json={"type": "test.echo"}, headers=key).get_json()

    with in_background(lambda: finish(app, job["id"], {"answer": 42})):
        response = client.post("/jobs", json={"type": "test.echo"}, headers={**key, "Prefer": "wait=50"})

    assert response.status_code == 200
    assert response.get_json()["result"] == {"answer": 42}
    assert "Retry-After" not in response.headers


def test_a_wait_is_cut_to_the_longest_allowed(config: dict[str, Any]) -> None:
    with app_with(config, WAIT_MAX_SECONDS=1) as app:
        client = KeyClient(app, "acme")

        began = time.monotonic()
        response = client.post("/jobs", json={"type": "test.echo"}, headers={"Prefer": "wait=9999"})
        held = client.get(f"/jobs/{response.get_json()['id']}?wait=60")

    assert response.headers["Preference-Applied"] == "wait=1"
    assert held.status_code == 200
    assert time.monotonic() - began < 30


def test_jobs_are_accepted_while_the_broker_is_away(config: dict[str, Any]) -> None:
    with closed_port() as port, app_with(config, BROKER_URL=f"redis://127.0.0.1:{port}/0") as app:
        client = KeyClient(app, "acme")

        jobs = [client.submit(args={"value": number}) for number in range(3)]

        assert [client.job(job["id"])["state"] for job in jobs] == ["queued"] * 3
        assert app.extensions["bell"].failures >= 1


def test_nobody_has_heard_of_a_job_that_was_refused(app: Flask, client: KeyClient) -> None:
    response = client.post("/jobs", json={"type": "test.echo", "run_at": "2030-01-01T00:00:00Z", "delay": 1})

    assert response.status_code == 422
    assert response.get_json()["errors"] == [{"pointer": "/delay", "message": "Give run_at or delay, not both."}]
    assert count_jobs(app) == 0


def test_the_answer_to_a_submission_is_what_a_look_at_the_job_shows(client: KeyClient) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    submitted = client.submit(
        args={"value": {"b": 1.5, "a": [None, True, "é"], "large": 2**62}},
        tags=["x", "y"],
        metadata={"any": {"b": 1, "a": 2}},
        run_at=soon.isoformat(),
        expires_at=(soon + timedelta(days=1)).isoformat(),
        concurrency_key="one",
    )

    looked_at = client.job(submitted["id"])

    assert submitted | {"waiting_for": None} == looked_at | {"waiting_for": None}


def test_answers_are_what_their_schema_would_make_of_them(app: Flask, client: KeyClient) -> None:
    ended = client.submit(args={"value": 1})["id"]
    finish(app, ended)
    waiting = client.submit(delay=3600)["id"]

    for shown in (client.job(ended), client.job(waiting)):
        assert JobSchema().dump(JobSchema().load(shown) | {"timeout_seconds": shown["timeout"]}) == shown
        assert shown.keys() == JobSchema().fields.keys()


def test_a_job_that_was_stored_is_answered_202_although_its_end_cannot_be_waited_for(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_connection(*_: object) -> None:
        raise OperationalError("SELECT 1", None, ConnectionResetError("gone"))

    monkeypatch.setattr(api, "look_at_job", lose_connection)

    response = client.post("/jobs", json={"type": "test.echo"}, headers={"Prefer": "wait=1"})

    assert response.status_code == 202
    assert response.headers["Location"].endswith(response.get_json()["id"])
    assert "Preference-Applied" not in response.headers
    assert count_jobs(app) == 1


def test_a_job_that_should_have_started_long_ago_does_not_overtake_those_that_wait(client: KeyClient) -> None:
    job = client.submit(run_at="2001-01-01T00:00:00Z")

    assert job["state"] == "queued"
    assert job["run_at"] == job["created_at"]


def test_a_compressed_body_is_refused(app: Flask, client: KeyClient) -> None:
    body = gzip.compress(b'{"type": "test.echo"}')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}

    response = client.post("/jobs", data=body, headers=headers)

    assert response.status_code == 415
    assert "Content-Encoding: gzip" in response.get_json()["detail"]
    assert count_jobs(app) == 0
