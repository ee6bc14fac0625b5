"""Many jobs in one call."""

from functools import partial
from typing import Any

import pytest
import redis
from flask import Flask

from service.jobs import batch
from service.jobs.types import registry
from tests.support.attempts import finish
from tests.support.client import KeyClient
from tests.support.database import count_jobs, execute


def echo(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "test.echo", "args": {"value": number}, **more}


def test_a_batch_is_stored_in_order_and_rung(app: Flask, client: KeyClient, config: dict[str, Any]) -> None:
    response = client.post("/jobs/batch", json={"jobs": [echo(number) for number in range(5)]})

    assert response.status_code == 202, response.text
    items = response.get_json()["items"]
    assert [(item["status"], item["state"]) for item in items] == [(202, "queued")] * 5
    assert [client.job(item["id"])["args"]["value"] for item in items] == list(range(5))
    events = client.get(f"/jobs/{items[0]['id']}/events").get_json()["items"]
    assert [event["name"] for event in events] == ["queued"]
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        assert broker.llen("default") == 5


def test_every_field_of_a_single_job_works_in_a_batch(client: KeyClient) -> None:
    job = echo(
        1,
        queue="bulk",
        priority=7,
        delay=60,
        expires_at="2100-01-01T00:00:00Z",
        timeout=9,
        max_attempts=2,
        unique_key="u",
        concurrency_key="c",
        tags=["a", "b"],
        metadata={"m": [1]},
    )

    item = client.post("/jobs/batch", json={"jobs": [job]}).get_json()["items"][0]

    stored = client.job(item["id"])
    del job["delay"]
    stored["expires_at"] = stored["expires_at"].replace(".000000", "")
    assert stored["state"] == "scheduled"
    assert {name: stored[name] for name in job} == job


def test_an_atomic_batch_with_a_fault_stores_nothing_and_says_where(app: Flask, client: KeyClient) -> None:
    jobs = [echo(1), {"type": "no.such"}, echo(3, priority="high"), {"type": "test.echo", "args": {"wrong": 1}}, 7]

    response = client.post("/jobs/batch", json={"jobs": jobs})

    assert response.status_code == 422
    places = [fault["pointer"] for fault in response.get_json()["errors"]]
    assert places == ["/jobs/1/type", "/jobs/2/priority", "/jobs/3/args/wrong", "/jobs/4"]
    assert count_jobs(app) == 0


def test_a_batch_that_is_not_atomic_stores_the_valid_jobs(app: Flask, client: KeyClient) -> None:
    response = client.post("/jobs/batch", json={"atomic": False, "jobs": [echo(1), {"type": "no.such"}, echo(3)]})

    assert response.status_code == 207
    items = response.get_json()["items"]
    assert [item["status"] for item in items] == [202, 422, 202]
    assert items[1]["errors"][0]["pointer"] == "/jobs/1/type"
    assert client.job(items[2]["id"])["args"] == {"value": 3}
    assert count_jobs(app) == 2


@pytest.mark.parametrize("atomic", [True, False])
def test_a_repeat_with_the_same_key_is_answered_with_the_same_jobs(
    app: Flask, client: KeyClient, *, atomic: bool
) -> None:
    body = {"atomic": atomic, "jobs": [echo(1), echo(2), *([] if atomic else [{"type": "no.such"}]), echo(3)]}
    headers = {"Idempotency-Key": "batch-1"}

    first = client.post("/jobs/batch", json=body, headers=headers)
    second = client.post("/jobs/batch", json=body, headers=headers)

    assert second.status_code == first.status_code
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.get_json() == first.get_json()
    assert count_jobs(app) == 3


@pytest.mark.parametrize("atomic", [True, False])
def test_a_repeat_is_answered_although_its_jobs_would_not_be_valid_any_more(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch, *, atomic: bool
) -> None:
    body = {"atomic": atomic, "jobs": [echo(1), {"type": "test.sleep"}, echo(2)]}
    send = partial(client.post, "/jobs/batch", json=body, headers={"Idempotency-Key": "batch-1"})
    first = send()
    for gone in ("test.echo", "test.sleep"):
        monkeypatch.delitem(registry._types, gone)
        again = send()

        assert (again.status_code, again.get_json()) == (202, first.get_json())
        assert again.headers["Idempotent-Replayed"] == "true"
    assert count_jobs(app) == 3


def test_a_repeat_stores_no_job_that_was_refused_at_first(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"atomic": False, "jobs": [{"type": "test.sleep"}, echo(1)]}
    send = partial(client.post, "/jobs/batch", json=body, headers={"Idempotency-Key": "batch-1"})
    with monkeypatch.context() as release:
        release.delitem(registry._types, "test.sleep")
        first = send()

    again = send()

    assert [item["status"] for item in first.get_json()["items"]] == [422, 202]
    assert again.status_code == 207
    assert [item["status"] for item in again.get_json()["items"]] == [409, 202]
    assert again.get_json()["items"][1] == first.get_json()["items"][1]
    assert count_jobs(app) == 1


def test_a_key_whose_jobs_are_deleted_gives_no_others(app: Flask, client: KeyClient) -> None:
    send = partial(
        client.post, "/jobs/batch", json={"jobs": [echo(1), echo(2)]}, headers={"Idempotency-Key": "batch-1"}
    )
    first = send().get_json()["items"][0]["id"]
    execute(app, "DELETE FROM jobs WHERE id = :id", id=first)

    assert send().status_code == 410
    assert count_jobs(app) == 1


def test_a_key_that_stands_for_another_request_is_refused(app: Flask, client: KeyClient) -> None:
    headers = {"Idempotency-Key": "taken"}
    client.post("/jobs", json=echo(1), headers=headers)

    response = client.post("/jobs/batch", json={"jobs": [echo(1)]}, headers=headers)

    assert response.status_code == 422
    assert count_jobs(app) == 1


def test_unique_keys_hold_inside_and_outside_of_a_batch(app: Flask, client: KeyClient) -> None:
    before = client.submit(unique_key="one")["id"]

    body = {"jobs": [echo(1, unique_key="one"), echo(2, unique_key="two"), echo(3, unique_key="two")]}
    response, again = (client.post("/jobs/batch", json=body, headers={"Idempotency-Key": "batch-1"}) for _ in range(2))

    items = response.get_json()["items"]
    assert again.get_json()["items"] == items
    assert [item["status"] for item in items] == [200, 202, 200]
    assert items[0]["id"] == before
    assert items[1]["id"] == items[2]["id"]
    assert count_jobs(app) == 2


def test_a_job_that_chose_to_be_refused_takes_an_atomic_batch_with_it(app: Flask, client: KeyClient) -> None:
    holder = client.submit(unique_key="one")["id"]

    response = client.post("/jobs/batch", json={"jobs": [echo(1), echo(2, unique_key="one", on_conflict="reject")]})

    assert response.status_code == 409
    assert response.get_json()["job_id"] == holder
    assert response.get_json()["errors"][0]["pointer"] == "/jobs/1/unique_key"
    assert count_jobs(app) == 1


def test_a_refusal_names_no_job_that_is_not_stored(app: Flask, client: KeyClient) -> None:
    twice = [echo(number, unique_key="one", on_conflict="reject") for number in range(2)]

    response = client.post("/jobs/batch", json={"jobs": twice})

    assert response.status_code == 409
    assert "job_id" not in response.get_json()
    assert "of this batch" in response.get_json()["detail"]
    assert count_jobs(app) == 0


def test_a_job_that_chose_to_be_refused_is_alone_refused_where_the_batch_is_not_atomic(
    app: Flask, client: KeyClient
) -> None:
    holder = client.submit(unique_key="one")["id"]
    refused = echo(2, unique_key="one", on_conflict="reject")
    body = {"atomic": False, "jobs": [echo(1), refused, echo(3, unique_key="two"), {"type": "no.such"}]}
    first, again = (client.post("/jobs/batch", json=body, headers={"Idempotency-Key": "batch-1"}) for _ in range(2))

    items = first.get_json()["items"]
    assert first.status_code == 207
    assert [item["status"] for item in items] == [202, 409, 202, 422]
    assert (items[1]["job_id"], items[1]["errors"][0]["pointer"]) == (holder, "/jobs/1/unique_key")
    assert [item["status"] for item in again.get_json()["items"]] == [202, 409, 202, 422]
    assert count_jobs(app) == 3


def test_a_unique_key_whose_holder_ends_meanwhile_is_taken(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = client.submit(unique_key="one")["id"]
    look = batch._store_the_rest

    def end_the_holder_first(*args: Any) -> Any:
        finish(app, holder)
        return look(*args)

    monkeypatch.setattr(batch, "_store_the_rest", end_the_holder_first)

    response = client.post("/jobs/batch", json={"jobs": [echo(1), echo(2, unique_key="one", on_conflict="reject")]})

    assert response.status_code == 202
    assert [item["status"] for item in response.get_json()["items"]] == [202, 202]
    assert count_jobs(app) == 3


@pytest.mark.parametrize(("body", "pointer"), [
    ({}, "/jobs"),
    ({"jobs": []}, "/jobs"),
    ({"jobs": "many"}, "/jobs"),
    ({"jobs": [{}], "more": 1}, "/more"),
    ({"jobs": [echo(1, on_conflict="replace", unique_key="u")]}, "/jobs/0/on_conflict"),
])  # fmt: skip
def test_bad_batches_are_refused_with_a_pointer(client: KeyClient, body: dict[str, Any], pointer: str) -> None:
    response = client.post("/jobs/batch", json=body)

    assert response.status_code == 422
    assert pointer in [fault["pointer"] for fault in response.get_json()["errors"]]


def test_ten_thousand_are_taken_and_one_more_is_not(app: Flask, client: KeyClient, config: dict[str, Any]) -> None:
    job = {"type": "test.echo", "args": {}}

    assert client.post("/jobs/batch", json={"jobs": [job] * 10_001}).status_code == 422
    assert client.post("/jobs/batch", json={"jobs": [job] * 10_000}).status_code == 202
    assert count_jobs(app) == 10_000
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        assert 0 < broker.llen("default") <= 1000  # the rest waits for the dispatcher
