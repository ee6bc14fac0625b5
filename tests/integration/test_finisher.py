"""Successes that a pool process hands over are written together, each under its own token."""

import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import text

from service.direct_connection import DirectConnection
from service.extensions import db
from service.failpoints import arm
from service.jobs.execution import Claim
from service.transaction import transaction
from tests.support.attempts import finish_attempt, start
from tests.support.client import KeyClient
from tests.support.database import execute
from worker.finisher import MOST_AT_ONCE, Finisher


@pytest.fixture
def finisher(app: Flask) -> Iterator[Finisher]:
    with app.app_context():
        connection = DirectConnection(db.engine, prepare=True)
        finisher = Finisher(connection)
        yield finisher
        arm("")
        finisher.settle()
        connection.close()


@pytest.fixture
def claims(app: Flask, client: KeyClient) -> list[Claim]:
    """The claims of seventeen running jobs."""
    return [start(app, client.submit()["id"]) for _ in range(17)]


def hand_over(finisher: Finisher, claim: Claim) -> bool:
    return finisher.hand_over(claim, '"done"', {})


def states(client: KeyClient, claims: list[Claim]) -> set[str]:
    return {client.job(str(claim.job_id))["state"] for claim in claims}


def test_what_was_handed_over_is_written_once_settling_returns(
    client: KeyClient, finisher: Finisher, claims: list[Claim]
) -> None:
    arm("succeed.before_commit=sleep:0.5")

    assert all(hand_over(finisher, claim) for claim in claims)
    before = states(client, claims)
    finisher.settle()

    assert before == {"running"}
    assert states(client, claims) == {"succeeded"}
    assert client.job(str(claims[0].job_id))["result"] == "done"


def test_what_comes_during_a_commit_is_written_in_the_next(app: Flask, finisher: Finisher, claims: list[Claim]) -> None:
    arm("succeed.before_commit=sleep:0.5,times=1")

    assert all(hand_over(finisher, claim) for claim in claims)
    finisher.settle()

    with app.app_context(), transaction() as session:
        commits = session.execute(text("SELECT count(DISTINCT CAST(xmin AS text)) FROM jobs")).scalar_one()
    assert commits <= 2


def test_an_attempt_that_was_overtaken_is_left_out_and_its_neighbours_end(
    app: Flask, client: KeyClient, finisher: Finisher, claims: list[Claim]
) -> None:
    finish_attempt(app, claims[3], "by another")

    for claim in claims:
        hand_over(finisher, claim)
    finisher.settle()

    assert states(client, claims) == {"succeeded"}
    assert client.job(str(claims[3].job_id))["result"] == "by another"
    assert {client.job(str(claim.job_id))["result"] for claim in claims if claim is not claims[3]} == {"done"}


def test_a_connection_that_was_cut_costs_nothing_but_another_try(
    app: Flask, client: KeyClient, finisher: Finisher, claims: list[Claim]
) -> None:
    hand_over(finisher, claims[0])
    finisher.settle()
    execute(
        app,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()",
    )

    for claim in claims[1:]:
        hand_over(finisher, claim)
    finisher.settle()

    assert states(client, claims) == {"succeeded"}


def test_nothing_is_taken_that_no_thread_would_write(
    client: KeyClient, finisher: Finisher, claims: list[Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert not hand_over(finisher, claims[0])

    assert hand_over(finisher, claims[1])
    finisher.settle()
    assert states(client, [claims[0]]) == {"running"}
    assert states(client, [claims[1]]) == {"succeeded"}


def test_no_more_is_taken_than_one_commit_may_carry(finisher: Finisher, claims: list[Claim]) -> None:
    arm("succeed.before_commit=sleep:2,times=1")
    hand_over(finisher, claims[0])
    made_up = [Claim(claims[0].job_id, -number) for number in range(2 * MOST_AT_ONCE)]

    taken = [hand_over(finisher, claim) for claim in made_up]

    assert MOST_AT_ONCE - 1 <= sum(taken) <= MOST_AT_ONCE + 1
    assert not taken[-1]
