"""Claims that a pool process took ahead: each is run or given back, never both, and giving back costs no attempt."""

import pytest
from flask import Flask

from service.jobs.execution import Claim, claim_together
from service.statements import Row
from tests.support.attempts import WORKER
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.waiting import wait_for
from worker.ahead import ClaimedAhead
from worker.lease import LeaseKeeper


@pytest.fixture
def claimed(app: Flask, client: KeyClient) -> list[Row]:
    """Three running jobs."""
    for _ in range(3):
        client.submit()
    with app.app_context():
        ids = [row.id for row in execute(app, "SELECT id FROM jobs ORDER BY id")]
        jobs = claim_together(ids, worker=WORKER, lease_seconds=30, grace_seconds=10, type_="test.echo")
    return sorted(jobs, key=lambda job: str(job["id"]))


def attempts(app: Flask) -> list[tuple[str, int]]:
    return [(row.state, row.attempt) for row in execute(app, "SELECT state, attempt FROM jobs ORDER BY id")]


def test_a_claim_is_taken_once(claimed: list[Row]) -> None:
    ahead = ClaimedAhead()
    ahead.put(claimed)

    assert ahead.take(claimed[0]["id"]) is claimed[0]
    assert ahead.take(claimed[0]["id"]) is None


def test_what_is_given_back_is_queued_again_without_an_attempt(app: Flask, claimed: list[Row]) -> None:
    ahead = ClaimedAhead()
    ahead.put(claimed)
    ahead.take(claimed[0]["id"])

    with app.app_context():
        ahead.give_back(older_than=60)
        young = attempts(app)
        ahead.give_back()

    assert young == [("running", 1)] * 3
    assert attempts(app) == [("running", 1), ("queued", 0), ("queued", 0)]
    assert ahead.take(claimed[1]["id"]) is None


def test_a_claim_that_was_overtaken_is_not_given_back(app: Flask, claimed: list[Row]) -> None:
    ahead = ClaimedAhead()
    ahead.put(claimed)
    execute(app, "UPDATE jobs SET token = token + 1 WHERE id = :id", id=claimed[1]["id"])

    with app.app_context():
        ahead.give_back()

    assert attempts(app) == [("queued", 0), ("running", 1), ("queued", 0)]


def test_the_lease_keeper_gives_back_what_waits_behind_a_long_job(app: Flask, claimed: list[Row]) -> None:
    ahead = ClaimedAhead()
    keeper = LeaseKeeper(app, ahead)
    ahead.put(claimed[1:])

    with keeper.watching(Claim(claimed[0]["id"], claimed[0]["token"]), timeout_seconds=60):
        wait_for(lambda: attempts(app) == [("running", 1), ("queued", 0), ("queued", 0)], what="two jobs given back")
