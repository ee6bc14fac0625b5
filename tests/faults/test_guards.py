"""Guards that a fault alone seldom reaches, each met head on: without it something would be lost, doubled or untrue."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from service.failpoints import arm
from service.ids import uuid7
from service.jobs.execution import Claim, claim, claim_together, process_lost, renew
from service.jobs.limits import Limits
from service.jobs.rescue import rescue
from service.schedules.fire import Firing
from tests.support.attempts import finish
from tests.support.client import KeyClient
from tests.support.database import count_jobs, execute
from tests.support.threads import at_once

pytestmark = pytest.mark.faults

ERROR = {"type": "process_lost", "message": "gone"}


def take(job_id: str, **values: Any) -> Any:
    return claim(UUID(job_id), **{"worker": "host:1", "lease_seconds": 30, "grace_seconds": 10, **values})


def test_a_message_that_names_another_type_than_its_jobs_starts_nothing(app: Flask, client: KeyClient) -> None:
    job_id = client.submit("test.echo")["id"]
    with app.app_context():
        assert take(job_id, type_="test.sleep") is None
        assert take(job_id, type_="test.echo") is not None


def test_a_queued_job_is_not_claimed_before_its_time(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    execute(app, "UPDATE jobs SET run_at = clock_timestamp() + interval '1 hour'")
    with app.app_context():
        assert take(job_id) is None


def test_a_queued_job_whose_attempts_are_spent_is_not_claimed(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(max_attempts=1)["id"]
    execute(app, "UPDATE jobs SET attempt = 1")
    with app.app_context():
        assert take(job_id) is None


def test_only_first_attempts_that_are_not_the_last_are_claimed_together(app: Flask, client: KeyClient) -> None:
    fresh = [client.submit()["id"] for _ in range(3)]
    only_one_attempt = client.submit(max_attempts=1)["id"]
    limited = client.submit(concurrency_key="customer-7")["id"]
    another_type = client.submit("test.sleep")["id"]
    second_attempt = client.submit()["id"]
    execute(app, "UPDATE jobs SET attempt = 1 WHERE id = :id", id=second_attempt)
    taken_already = client.submit()["id"]
    with app.app_context():
        assert take(taken_already) is not None
        wanted = [*fresh, only_one_attempt, limited, another_type, second_attempt, taken_already]

        jobs = claim_together(
            [UUID(job_id) for job_id in wanted], worker="host:1", lease_seconds=30, grace_seconds=10, type_="test.echo"
        )

    assert {str(job["id"]) for job in jobs} == set(fresh)
    assert len({job["token"] for job in jobs}) > 1  # each its own
    assert {client.job(job_id)["state"] for job_id in fresh} == {"running"}


def test_a_lease_is_never_renewed_past_the_attempts_deadline(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(timeout=1)["id"]
    with app.app_context():
        job = take(job_id)
        assert job is not None
        renew(Claim(job["id"], job["token"]), lease_seconds=3600)

    assert execute(app, "SELECT lease_until <= attempt_deadline FROM jobs")[0][0]


def test_a_lost_attempt_of_a_job_that_is_to_be_cancelled_is_its_last(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        assert take(job_id) is not None
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
        execute(app, "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second'")

        assert [job["state"] for job in rescue()] == ["cancelled"]


def test_the_death_of_a_process_that_no_longer_holds_the_job_takes_nothing_from_its_heir(
    app: Flask, client: KeyClient
) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        assert take(job_id, worker="host:2") is not None

        assert process_lost(UUID(job_id), worker="host:1", error=ERROR) is None

    assert client.job(job_id)["state"] == "running"


def test_of_two_jobs_with_one_concurrency_key_that_are_claimed_at_once_one_starts(
    app: Flask, client: KeyClient
) -> None:
    jobs = [client.submit(concurrency_key="customer-7")["id"] for _ in range(2)]
    arm("claim.before_commit=sleep:0.2")  # long enough for the second claim to come before the first one's commit

    def claimed(job_id: str) -> bool:
        with app.app_context():
            return take(job_id, limits=Limits(None, 1)) is not None

    try:
        won = at_once([lambda job_id=job_id: claimed(job_id) for job_id in jobs])  # type: ignore[misc]
    finally:
        arm("")

    assert sorted(won) == [False, True]


def test_a_clock_with_a_stale_view_of_a_schedule_fires_no_slot_twice(app: Flask, client: KeyClient) -> None:
    slot = datetime.now(UTC).replace(second=0, microsecond=0)
    execute(
        app,
        "INSERT INTO schedules (id, tenant_id, name, type, args, every_seconds, catch_up, next_slot_at) "
        "VALUES (:id, :tenant_id, 'each minute', 'test.echo', '{}', 60, 'all', :slot)",
        id=uuid7(),
        tenant_id=client.key.tenant_id,
        slot=slot,
    )
    with app.app_context():
        assert len(Firing().fire_due()) >= 1
        before = count_jobs(app)
        execute(app, "UPDATE schedules SET next_slot_at = :slot", slot=slot)
        again = Firing().fire_due()

    assert slot not in [fired.slot for fired in again]
    assert count_jobs(app) == before + len(again)


def test_a_key_that_comes_back_with_another_request_is_refused(app: Flask, client: KeyClient) -> None:
    headers = {"Idempotency-Key": "order-1"}
    client.post("/jobs", json={"type": "test.echo", "args": {"value": 1}}, headers=headers)

    other = client.post("/jobs", json={"type": "test.echo", "args": {"value": 2}}, headers=headers)

    assert other.status_code == 422
    assert count_jobs(app) == 1


def test_a_submission_that_failed_is_one_job_however_often_it_is_repeated(app: Flask, client: KeyClient) -> None:
    request = {"json": {"type": "test.echo"}, "headers": {"Idempotency-Key": "order-1"}}
    arm("submit.before_commit=raise,times=1")

    answers = [client.post("/jobs", **request) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [503, 202, 202, 202]
    assert len({answer.get_json()["id"] for answer in answers[1:]}) == 1
    assert count_jobs(app) == 1


def test_a_unique_key_is_held_by_an_unfinished_job_and_by_no_other(app: Flask, client: KeyClient) -> None:
    job = {"type": "test.echo", "unique_key": "invoice-42", "on_conflict": "reject"}
    first = client.post("/jobs", json=job)
    meanwhile = client.post("/jobs", json=job)
    finish(app, first.get_json()["id"])

    afterwards = client.post("/jobs", json=job)

    assert [answer.status_code for answer in (first, meanwhile, afterwards)] == [202, 409, 202]
