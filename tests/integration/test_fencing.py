"""Leases and tokens: only the holder of the current claim can write."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.jobs.execution import (
    Claim,
    ClaimLost,
    Execute,
    all_lost,
    claim,
    fail,
    give_back,
    process_lost,
    renew,
    succeed,
    succeed_all,
    timed_out,
)
from service.jobs.rescue import expire, rescue
from service.statements import Row, Statement
from service.transaction import reading, transaction
from tests.support.client import KeyClient


def take(job_id: str, worker: str = "host:1", lease: float = 30) -> Claim | None:
    job = claim(UUID(job_id), worker=worker, lease_seconds=lease, grace_seconds=10)
    return Claim(job["id"], job["token"]) if job is not None else None


def must_take(job_id: str, worker: str = "host:1") -> Claim:
    taken = take(job_id, worker)
    assert taken is not None
    return taken


def let_lease_run_out(job_id: str) -> None:
    with transaction() as session:
        session.execute(
            text("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE id = :id"), {"id": job_id}
        )


def queue_now(job_id: str) -> None:
    with transaction() as session:
        session.execute(
            text("UPDATE jobs SET state = 'queued', run_at = clock_timestamp() WHERE id = :id"), {"id": job_id}
        )


def in_session(session: Session) -> Execute:
    """Runs statements in a transaction that the test looks into before it ends."""

    def execute(statement: Statement, parameters: Mapping[str, Any], *, name: str) -> list[Row]:
        return list(session.execute(statement.text, parameters).mappings().all())

    return execute


def value(statement: str, job_id: str) -> Any:
    with reading() as session:
        return session.execute(text(statement), {"id": job_id}).scalar_one()


def test_a_doubled_ring_claims_nothing(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        must_take(job_id)

        assert take(job_id) is None


def test_a_job_is_not_claimed_before_its_time_nor_after_its_expiry(app: Flask, client: KeyClient) -> None:
    early = client.submit(delay=60)["id"]
    late = client.submit(expires_at="2001-01-01T00:00:00Z")["id"]
    with app.app_context():
        assert take(early) is None
        assert take(late) is None
        assert expire() == 1
    assert client.job(late)["state"] == "expired"


def test_of_many_finished_together_the_overtaken_one_is_left_out(app: Flask, client: KeyClient) -> None:
    job_ids = [client.submit()["id"] for _ in range(3)]
    with app.app_context():
        first, overtaken, last = (must_take(job_id) for job_id in job_ids)
        stale = Claim(overtaken.job_id, overtaken.token - 1)

        ended = succeed_all({last: "3", stale: "2", first: '{"one": 1}'})

    assert {str(row["id"]) for row in ended} == {job_ids[0], job_ids[2]}
    jobs = [client.job(job_id) for job_id in job_ids]
    assert [(job["state"], job["result"]) for job in jobs] == [
        ("succeeded", {"one": 1}),
        ("running", None),
        ("succeeded", 3),
    ]
    events = client.get(f"/jobs/{job_ids[0]}/events").get_json()["items"]
    assert [event["name"] for event in events] == ["queued", "started", "succeeded"]
    attempts = client.get(f"/jobs/{job_ids[0]}/attempts").get_json()["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["succeeded"]


def test_all_that_a_lost_process_had_is_given_back_and_nothing_else(app: Flask, client: KeyClient) -> None:
    its_own = [client.submit()["id"], client.submit(max_attempts=1)["id"]]
    another = client.submit()["id"]
    with app.app_context():
        for job_id in its_own:
            must_take(job_id, "host:1")
        must_take(another, "host:2")

        given_back = all_lost(worker="host:1", error={"type": "process_lost", "message": "gone"})

    assert {str(job["id"]) for job in given_back} == set(its_own)
    states = [client.job(job_id)["state"] for job_id in (*its_own, another)]
    assert states == ["queued", "failed", "running"]


def test_a_rescued_job_refuses_everything_from_the_attempt_that_lost_it(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        zombie = must_take(job_id)
        let_lease_run_out(job_id)
        assert [job["state"] for job in rescue()] == ["queued"]
        heir = must_take(job_id, "host:2")
        assert heir.token > zombie.token

        with pytest.raises(ClaimLost):
            renew(zombie, lease_seconds=30)
        with pytest.raises(ClaimLost):
            succeed(zombie, "stale")
        with pytest.raises(ClaimLost):
            fail(zombie, {"type": "x", "message": "stale"}, traceback=None, retry_after=None)
        with pytest.raises(ClaimLost):
            give_back(zombie)
        succeed(heir, "fresh")

    job = client.job(job_id)
    assert (job["result"], job["attempt"]) == ("fresh", 2)
    outcomes = [item["outcome"] for item in client.get(f"/jobs/{job_id}/attempts").get_json()["items"]]
    assert outcomes == ["lost", "succeeded"]


def test_a_refused_finish_leaves_no_effect(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]

    def effect(session: Session) -> None:
        session.execute(text("INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'made by a zombie')"))

    with app.app_context():
        zombie = must_take(job_id)
        let_lease_run_out(job_id)
        rescue()
        with pytest.raises(ClaimLost):
            succeed(zombie, None, effects=[effect])

        assert value("SELECT count(*) FROM tenants WHERE name LIKE 'made by%' OR id = :id", job_id) == 0


def test_an_effect_that_fails_takes_the_result_with_it(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]

    def effect(session: Session) -> None:
        session.execute(text("SELECT 1 / 0"))

    with app.app_context():
        held = must_take(job_id)
        with pytest.raises(Exception, match="division by zero"):
            succeed(held, "never", effects=[effect])

    assert client.job(job_id)["state"] == "running"


def test_a_renewed_lease_is_not_rescued(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        held = must_take(job_id)
        renew(held, lease_seconds=30)

        assert rescue() == []


def test_renewal_never_passes_the_attempts_deadline(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(timeout=1)["id"]
    with app.app_context():
        held = must_take(job_id)
        renew(held, lease_seconds=3600)

        assert value("SELECT lease_until = attempt_deadline FROM jobs WHERE id = :id", job_id) is True


def test_a_lease_that_ran_out_cannot_be_renewed(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        held = must_take(job_id)
        let_lease_run_out(job_id)

        with pytest.raises(ClaimLost):
            renew(held, lease_seconds=30)


def test_attempts_lost_in_a_row_end_as_failed(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(max_attempts=2)["id"]
    with app.app_context():
        for _ in range(2):
            must_take(job_id)
            let_lease_run_out(job_id)
            rescue()

        assert take(job_id) is None
    job = client.job(job_id)
    assert (job["state"], job["attempt"], job["error"]["type"]) == ("failed", 2, "lease_lost")


def test_only_the_holders_process_can_be_reported_as_lost(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    error = {"type": "process_lost", "message": "gone"}
    with app.app_context():
        must_take(job_id, "host:1")

        assert process_lost(UUID(job_id), worker="host:2", error=error) is None
        lost = process_lost(UUID(job_id), worker="host:1", error=error)

    assert lost is not None
    assert lost["state"] == "queued"


def test_an_attempt_that_was_killed_at_its_hard_limit_waits_longer_each_time(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(max_attempts=3)["id"]
    error = {"type": "timeout", "message": "killed"}
    waits = []
    with app.app_context():
        for _ in range(2):
            must_take(job_id)
            assert timed_out(UUID(job_id), worker="host:2", error=error, backoff=float) is None
            job = timed_out(UUID(job_id), worker="host:1", error=error, backoff=lambda attempt: 100.0 * attempt)
            assert job is not None
            assert job["state"] == "retrying"
            waits.append(
                round(
                    value("SELECT extract(epoch FROM run_at - clock_timestamp()) FROM jobs WHERE id = :id", job_id), -2
                )
            )
            queue_now(job_id)

    assert waits == [100, 200]


def test_only_the_claim_of_a_last_attempt_waits_for_the_disk(app: Flask, client: KeyClient) -> None:
    commits = []
    for allowed in (1, 2):
        job_id = client.submit(max_attempts=allowed)["id"]
        with app.app_context(), transaction() as session:
            execute = in_session(session)
            session.execute(text("SET LOCAL synchronous_commit = on"))  # off by default in the tests' database
            assert claim(UUID(job_id), worker="host:1", lease_seconds=30, grace_seconds=10, execute=execute)
            commits.append(session.execute(text("SHOW synchronous_commit")).scalar_one())

    assert commits == ["on", "off"]


def test_an_attempt_given_back_does_not_count(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(max_attempts=1)["id"]
    with app.app_context():
        give_back(must_take(job_id))
        succeed(must_take(job_id), "second go")

    assert client.job(job_id)["attempt"] == 1


def test_a_cancel_that_was_asked_for_wins_over_another_attempt(app: Flask, client: KeyClient) -> None:
    job_id = client.submit()["id"]
    with app.app_context():
        held = must_take(job_id)
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
        assert renew(held, lease_seconds=30) is True
        fail(held, {"type": "x", "message": "may mend"}, traceback=None, retry_after=1)

    assert client.job(job_id)["state"] == "cancelled"


def test_events_are_numbered_without_gaps_through_a_jobs_life(app: Flask, client: KeyClient) -> None:
    job_id = client.submit(max_attempts=5)["id"]
    with app.app_context():
        give_back(must_take(job_id))
        must_take(job_id)
        let_lease_run_out(job_id)
        rescue()
        client.post(f"/jobs/{job_id}/cancel")

    events = client.get(f"/jobs/{job_id}/events").get_json()["items"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["name"] for event in events] == ["queued", "started", "given_back", "started", "lost", "cancelled"]
