"""Repeating a submission, and submitting what is there already: one job, however often and however concurrently."""

from functools import partial
from typing import Any

import psycopg
import pytest
from flask import Flask

from service.accounts.keys import revoke_key
from service.jobs.types import registry
from tests.support.apps import app_with
from tests.support.attempts import finish, start
from tests.support.client import KeyClient
from tests.support.database import count_jobs, execute
from tests.support.threads import at_once

BODY = {"type": "test.echo", "args": {"value": 1}}


def send(client: KeyClient, key: str, body: Any = None) -> Any:
    return client.post("/jobs", json=BODY if body is None else body, headers={"Idempotency-Key": key})


def test_a_repeat_is_answered_with_the_same_job(app: Flask, client: KeyClient) -> None:
    first = send(client, "order-1")
    again = send(client, "order-1")

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.get_json()["id"] == first.get_json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert count_jobs(app) == 1


def test_the_order_of_names_and_the_spaces_make_no_other_request(client: KeyClient) -> None:
    first = send(client, "order-1")

    sent = b'{ "args": {"value": 1},\n "type": "test.echo" }'
    headers = {"Idempotency-Key": "order-1"}
    again = client.post("/jobs", data=sent, content_type="application/json", headers=headers)

    assert again.get_json()["id"] == first.get_json()["id"]


def test_a_repeat_after_the_end_is_answered_with_the_ended_job(app: Flask, client: KeyClient) -> None:
    job = send(client, "order-1").get_json()
    finish(app, job["id"], "done")

    again = send(client, "order-1")

    assert (again.get_json()["id"], again.get_json()["state"]) == (job["id"], "succeeded")


@pytest.mark.parametrize(
    "other", [{"type": "test.echo", "args": {"value": 2}}, {**BODY, "priority": 0}, {"type": "test.sleep"}]
)
def test_a_key_used_for_another_request_is_refused(app: Flask, client: KeyClient, other: dict[str, Any]) -> None:
    send(client, "order-1")

    response = send(client, "order-1", other)

    assert response.status_code == 422
    assert response.get_json()["type"] == "urn:millrace:problem:idempotency-key-reused"
    assert count_jobs(app) == 1


@pytest.mark.parametrize("key", ["", " ", "two words", "é", "x" * 256, "tab\tin it"])
def test_a_malformed_key_is_refused(app: Flask, client: KeyClient, key: str) -> None:
    response = send(client, key)

    assert response.status_code == 400
    assert count_jobs(app) == 0


@pytest.mark.parametrize("key", ["x", "!~", "x" * 255])
def test_any_visible_characters_make_a_key(client: KeyClient, key: str) -> None:
    assert send(client, key).status_code == 202


def test_a_refused_request_leaves_its_key_unused(client: KeyClient) -> None:
    refused = send(client, "order-1", {"type": "no.such"})
    accepted = send(client, "order-1")

    assert (refused.status_code, accepted.status_code) == (422, 202)
    assert "Idempotent-Replayed" not in accepted.headers


def test_a_key_belongs_to_its_tenant(client: KeyClient, other_client: KeyClient) -> None:
    ours = send(client, "order-1")
    theirs = send(other_client, "order-1", {"type": "test.sleep"})

    assert theirs.status_code == 202
    assert theirs.get_json()["id"] != ours.get_json()["id"]


def test_a_key_whose_time_is_over_can_be_used_anew(app: Flask, client: KeyClient) -> None:
    first = send(client, "order-1")
    execute(app, "UPDATE idempotency_keys SET created_at = created_at - make_interval(hours => 71)")
    kept = send(client, "order-1")
    execute(app, "UPDATE idempotency_keys SET created_at = created_at - make_interval(hours => 2)")

    anew = send(client, "order-1", {"type": "test.sleep"})
    again = send(client, "order-1", {"type": "test.sleep"})

    assert kept.get_json()["id"] == first.get_json()["id"]
    assert anew.status_code == 202
    assert anew.get_json()["id"] != first.get_json()["id"]
    assert again.get_json()["id"] == anew.get_json()["id"]


def test_a_key_whose_job_is_deleted_gives_no_second_one(app: Flask, client: KeyClient) -> None:
    job = send(client, "order-1").get_json()
    execute(app, "DELETE FROM jobs WHERE id = :id", id=job["id"])

    response = send(client, "order-1")

    assert response.status_code == 410
    assert response.get_json()["type"] == "urn:millrace:problem:gone"
    assert count_jobs(app) == 0


def test_a_repeat_is_answered_although_its_job_would_not_be_valid_any_more(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = send(client, "order-1")
    with monkeypatch.context() as release:
        release.delitem(registry._types, "test.echo")
        again, other = send(client, "order-1"), send(client, "order-1", {**BODY, "priority": 1})
        unknown = send(client, "order-2")
        execute(app, "UPDATE idempotency_keys SET created_at = created_at - make_interval(hours => 73)")
        too_late = send(client, "order-1")

    assert (again.status_code, again.get_json()) == (202, first.get_json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert other.get_json()["type"] == "urn:millrace:problem:idempotency-key-reused"
    assert unknown.get_json()["errors"][0]["pointer"] == "/type"
    assert too_late.get_json()["errors"][0]["pointer"] == "/type"
    assert count_jobs(app) == 1


def test_a_revoked_key_is_told_nothing_of_what_was_answered_before(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(client, "order-1")
    monkeypatch.delitem(registry._types, "test.echo")
    with app.app_context():
        assert revoke_key(client.key.key.split("_")[1])

    assert send(client, "order-1").status_code == 401


def test_a_repeat_while_the_first_is_still_under_way_is_asked_to_come_back(config: dict[str, Any]) -> None:
    with app_with(config, DATABASE_LOCK_TIMEOUT=0.3) as app:
        client = KeyClient(app, "acme")
        with psycopg.connect(config["DATABASE_URL"].replace("+psycopg", "")) as first:
            first.execute(
                "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, job_id)"
                " SELECT id, 'order-1', 'f', gen_random_uuid() FROM tenants WHERE name = 'acme'"
            )
            response = send(client, "order-1")
            first.rollback()

        assert response.status_code == 409
        assert response.get_json()["type"] == "urn:millrace:problem:request-in-progress"
        assert int(response.headers["Retry-After"]) > 0
        assert send(client, "order-1").status_code == 202


def test_thirty_repeats_at_once_make_one_job(config: dict[str, Any]) -> None:
    with app_with(config, DATABASE_POOL_SIZE=30, DATABASE_POOL_TIMEOUT=30.0) as app:
        key = KeyClient(app, "acme").key.key
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "order-1"}

        def repeat() -> Any:
            return app.test_client().post("/api/v1/jobs", json=BODY, headers=headers)

        answers = at_once([repeat] * 30)

        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.get_json()["id"] for answer in answers}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        assert count_jobs(app) == 1


def test_a_retry_by_hand_is_idempotent_too(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    finish(app, job["id"])
    retry = partial(client.post, f"/jobs/{job['id']}/retry", headers={"Idempotency-Key": "again"})

    first, again, other = retry(), retry(), retry(json={"args": {"value": 5}})

    assert first.get_json()["id"] == again.get_json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert other.status_code == 422
    assert count_jobs(app) == 2


def test_a_repeated_retry_is_answered_although_the_job_that_it_retried_is_deleted(
    app: Flask, client: KeyClient
) -> None:
    job = client.submit()
    finish(app, job["id"])
    retry = partial(client.post, f"/jobs/{job['id']}/retry", headers={"Idempotency-Key": "again"})
    first = retry()
    execute(app, "DELETE FROM jobs WHERE id = :id", id=job["id"])

    again = retry()

    assert (again.status_code, again.get_json()["id"]) == (202, first.get_json()["id"])
    assert retry(headers={"Idempotency-Key": "another"}).status_code == 404


def unique(client: KeyClient, on_conflict: str | None = None, **job: Any) -> Any:
    body = {"type": "test.echo", "unique_key": "invoice-42", **job}
    return client.post("/jobs", json=body | ({"on_conflict": on_conflict} if on_conflict else {}))


@pytest.mark.parametrize("on_conflict", [None, "use_existing"])
def test_a_held_unique_key_leads_to_the_existing_job(app: Flask, client: KeyClient, on_conflict: str | None) -> None:
    first = unique(client)

    second = unique(client, on_conflict, args={"value": "other"})

    assert (first.status_code, second.status_code) == (202, 200)
    assert second.get_json()["id"] == first.get_json()["id"]
    assert second.headers["Location"] == first.headers["Location"]
    assert count_jobs(app) == 1


def test_a_repeat_of_what_led_to_an_existing_job_is_answered_as_the_first_was(app: Flask, client: KeyClient) -> None:
    unique(client)
    body = {"type": "test.echo", "unique_key": "invoice-42"}

    first, again = send(client, "order-1", body), send(client, "order-1", body)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.get_json() == first.get_json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert count_jobs(app) == 1


def test_a_held_unique_key_can_be_a_refusal(app: Flask, client: KeyClient) -> None:
    first = unique(client)

    second = unique(client, "reject")

    assert second.status_code == 409
    assert second.get_json()["job_id"] == first.get_json()["id"]
    assert count_jobs(app) == 1


def test_a_held_unique_key_can_be_taken_over(client: KeyClient) -> None:
    first = unique(client)

    second = unique(client, "replace")

    assert second.status_code == 202
    assert second.get_json()["id"] != first.get_json()["id"]
    assert client.job(first.get_json()["id"])["state"] == "cancelled"
    assert client.job(second.get_json()["id"])["state"] == "queued"


def test_a_running_job_is_not_replaced(app: Flask, client: KeyClient) -> None:
    first = unique(client).get_json()
    start(app, first["id"])

    second = unique(client, "replace")

    assert second.status_code == 409
    assert client.job(first["id"])["state"] == "running"


def test_a_unique_key_is_free_once_its_job_has_ended(app: Flask, client: KeyClient) -> None:
    first = unique(client).get_json()
    finish(app, first["id"])

    second = unique(client, "reject")

    assert second.status_code == 202
    assert second.get_json()["id"] != first["id"]


def test_a_unique_key_counts_per_type_and_tenant(client: KeyClient, other_client: KeyClient) -> None:
    unique(client)

    assert unique(client, "reject", type="test.sleep").status_code == 202
    assert unique(other_client, "reject").status_code == 202


def test_many_submissions_of_one_unique_key_at_once_make_one_job(config: dict[str, Any]) -> None:
    with app_with(config, DATABASE_POOL_SIZE=12, DATABASE_POOL_TIMEOUT=30.0) as app:
        headers = {"Authorization": f"Bearer {KeyClient(app, 'acme').key.key}"}
        body = {"type": "test.echo", "unique_key": "invoice-42"}

        def submit() -> Any:
            return app.test_client().post("/api/v1/jobs", json=body, headers=headers)

        answers = at_once([submit] * 12)

        assert sorted({answer.status_code for answer in answers}) == [200, 202]
        assert len({answer.get_json()["id"] for answer in answers}) == 1
        assert count_jobs(app) == 1
