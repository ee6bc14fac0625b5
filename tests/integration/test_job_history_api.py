"""What became of a job, over HTTP: its result, its attempts and its events, also as a live stream."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from service.accounts.keys import revoke_key
from service.accounts.scopes import Scope
from service.jobs.execution import Claim, renew
from tests.support.apps import app_with
from tests.support.attempts import break_down, finish, finish_attempt, start
from tests.support.client import KeyClient
from tests.support.threads import in_background

STREAM = {"Accept": "text/event-stream"}


@pytest.mark.parametrize("result", [{"a": [1, None]}, None, 0, "", False, [], {}, "text", 1.5])
def test_the_bare_result_is_what_the_handler_returned(app: Flask, client: KeyClient, result: Any) -> None:
    job = client.submit()
    finish(app, job["id"], result)

    response = client.get(f"/jobs/{job['id']}/result")

    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert json.loads(response.text) == result
    assert type(json.loads(response.text)) is type(result)


def test_a_job_that_has_not_ended_has_no_result_yet(app: Flask, client: KeyClient) -> None:
    scheduled, queued, running = client.submit(delay=45), client.submit(), client.submit()
    start(app, running["id"])

    answers = [client.get(f"/jobs/{job['id']}/result") for job in (scheduled, queued, running)]

    assert [answer.status_code for answer in answers] == [409, 409, 409]
    assert {answer.get_json()["type"] for answer in answers} == {"urn:millrace:problem:not-finished"}
    waits = [int(answer.headers["Retry-After"]) for answer in answers]
    assert 30 <= waits[0] <= 45
    assert waits[1:] == [1, 1]


def test_a_failed_job_answers_with_its_error(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    break_down(app, job["id"], "no such table")

    response = client.get(f"/jobs/{job['id']}/result")

    assert response.status_code == 409
    assert response.get_json()["error"] == {"type": "broken", "message": "no such table", "attempt": 1}
    assert response.get_json()["state"] == "failed"
    assert "Retry-After" not in response.headers
    assert "Traceback" not in response.text


def test_a_cancelled_job_has_no_result(client: KeyClient) -> None:
    job = client.submit()
    client.post(f"/jobs/{job['id']}/cancel")

    response = client.get(f"/jobs/{job['id']}/result")

    assert (response.status_code, response.get_json()["state"]) == (409, "cancelled")


def test_tracebacks_are_for_admins(app: Flask, client: KeyClient) -> None:
    reader = KeyClient(app, "acme", (Scope.JOBS_READ,))
    job = client.submit()
    break_down(app, job["id"])

    (for_admin,) = client.get(f"/jobs/{job['id']}/attempts").get_json()["items"]
    (for_reader,) = reader.get(f"/jobs/{job['id']}/attempts").get_json()["items"]

    assert for_admin["traceback"] == "Traceback: line 1"
    assert "traceback" not in for_reader
    assert (for_reader["attempt"], for_reader["outcome"]) == (1, "failed")
    assert for_reader["error"] == {"type": "broken", "message": "no such table", "attempt": 1}


def test_events_are_numbered_and_can_be_read_on(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    finish(app, job["id"])

    everything = client.get(f"/jobs/{job['id']}/events").get_json()["items"]
    rest = client.get(f"/jobs/{job['id']}/events?after=2").get_json()["items"]

    assert [(event["seq"], event["name"], event["state"]) for event in everything] == [
        (1, "queued", "queued"),
        (2, "started", "running"),
        (3, "succeeded", "succeeded"),
    ]
    assert rest == everything[2:]


def parse(stream: str) -> list[dict[str, str]]:
    """The events of a stream (WHATWG HTML, 9.2.6), comments left out."""
    blocks = [block.splitlines() for block in stream.split("\n\n")]
    parsed = [dict(line.split(": ", 1) for line in lines if not line.startswith(":")) for lines in blocks]
    return [event for event in parsed if event]


def test_the_stream_of_an_ended_job_tells_its_life_and_closes(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    finish(app, job["id"])

    response = client.get(f"/jobs/{job['id']}/events", headers=STREAM)

    events = parse(response.text)
    assert response.mimetype == "text/event-stream"
    assert [(event["id"], event["event"]) for event in events] == [
        ("1", "queued"),
        ("2", "started"),
        ("3", "succeeded"),
    ]
    listed = client.get(f"/jobs/{job['id']}/events").get_json()["items"]
    assert [json.loads(event["data"]) for event in events] == listed


@pytest.mark.parametrize("sent", ["2", "02"])
def test_the_stream_goes_on_from_the_last_event_that_was_seen(app: Flask, client: KeyClient, sent: str) -> None:
    job = client.submit()
    finish(app, job["id"])

    response = client.get(f"/jobs/{job['id']}/events", headers={**STREAM, "Last-Event-ID": sent})

    assert [event["id"] for event in parse(response.text)] == ["3"]


@pytest.mark.parametrize("sent", ["", "x", "-1", "²", "9" * 30])
def test_an_odd_last_event_id_replays_everything(app: Flask, client: KeyClient, sent: str) -> None:
    job = client.submit()
    finish(app, job["id"])

    response = client.get(f"/jobs/{job['id']}/events", headers={**STREAM, "Last-Event-ID": sent})

    assert [event["id"] for event in parse(response.text)] == ["1", "2", "3"]


@pytest.mark.parametrize("sent", ["3", "999"])
def test_who_has_seen_the_end_is_told_not_to_come_again(app: Flask, client: KeyClient, sent: str) -> None:
    job = client.submit()
    finish(app, job["id"])

    response = client.get(f"/jobs/{job['id']}/events", headers={**STREAM, "Last-Event-ID": sent})

    assert (response.status_code, response.data) == (204, b"")


def test_the_stream_follows_a_job_to_its_end(app: Flask, client: KeyClient) -> None:
    job = client.submit()

    with in_background(lambda: finish(app, job["id"], "done")):
        response = client.get(f"/jobs/{job['id']}/events", headers=STREAM)

    assert [event["id"] for event in parse(response.text)] == ["1", "2", "3"]


def test_the_stream_of_who_claims_to_have_seen_more_than_there_is_closes_at_the_end(
    app: Flask, client: KeyClient
) -> None:
    job = client.submit()

    with in_background(lambda: finish(app, job["id"])):
        response = client.get(f"/jobs/{job['id']}/events", headers={**STREAM, "Last-Event-ID": "999"})

    assert parse(response.text) == []


def test_the_stream_tells_of_progress(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    claimed = start(app, job["id"])
    with app.app_context():
        renew(Claim(claimed.job_id, claimed.token), lease_seconds=30, percent=40, message="page 4 of 10\nand more")

    response = client.get(f"/jobs/{job['id']}/events", headers=STREAM, buffered=False)
    stream: Iterator[Any] = iter(response.response)
    seen = ""
    while "event: progress" not in seen:
        chunk = next(stream)
        seen += chunk if isinstance(chunk, str) else chunk.decode()
    finish_attempt(app, claimed)
    response.close()

    progress = next(event for event in parse(seen) if event["event"] == "progress")
    assert json.loads(progress["data"]) == {"percent": 40, "message": "page 4 of 10\nand more"}
    assert "id" not in progress  # it is no event of the history: a replay starts from the last numbered one


def test_one_tenant_cannot_hold_all_of_a_process_requests(config: dict[str, Any]) -> None:
    with app_with(config, HELD_REQUESTS_PER_TENANT=1) as app:
        client, other = KeyClient(app, "acme"), KeyClient(app, "other")
        job = client.submit()["id"]
        stream = client.get(f"/jobs/{job}/events", headers=STREAM, buffered=False)

        second = client.get(f"/jobs/{job}/events", headers=STREAM)
        waiting = client.get(f"/jobs/{job}?wait=9")
        submitted = client.post("/jobs", json={"type": "test.echo"}, headers={"Prefer": "wait=9"})
        theirs = other.get(f"/jobs/{other.submit()['id']}?wait=1")
        stream.close()
        again = client.get(f"/jobs/{job}?wait=1")

    assert (second.status_code, waiting.status_code) == (429, 429)
    assert int(second.headers["Retry-After"]) > 0
    assert (submitted.status_code, "Preference-Applied" in submitted.headers) == (202, False)
    assert (theirs.status_code, again.status_code) == (200, 200)


def test_all_tenants_together_leave_a_process_room_for_other_requests(config: dict[str, Any]) -> None:
    with app_with(config, HELD_REQUESTS=1) as app:
        client, other = KeyClient(app, "acme"), KeyClient(app, "other")
        stream = client.get(f"/jobs/{client.submit()['id']}/events", headers=STREAM, buffered=False)

        theirs = other.submit()["id"]
        assert other.get(f"/jobs/{theirs}?wait=1").status_code == 429
        assert other.get(f"/jobs/{theirs}").status_code == 200
        stream.close()


def test_a_stream_ends_after_a_while_for_its_client_to_connect_again(config: dict[str, Any]) -> None:
    with app_with(config, STREAM_SECONDS=0.01) as app:
        client = KeyClient(app, "acme")
        job = client.submit()["id"]

        events = parse(client.get(f"/jobs/{job}/events", headers=STREAM).text)

    assert [event["event"] for event in events] in ([], ["queued"])


def test_a_stream_ends_once_its_key_is_revoked(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    response = client.get(f"/jobs/{job['id']}/events", headers=STREAM, buffered=False)
    stream: Iterator[Any] = iter(response.response)
    seen = [next(stream), next(stream)]
    with app.app_context():
        assert revoke_key(client.key.key.split("_")[1])
    finish(app, job["id"])

    seen += list(stream)

    events = parse("".join(part if isinstance(part, str) else part.decode() for part in seen))
    assert [event["event"] for event in events] == ["queued"]
