"""Submissions that come at the same moment share a statement, and nothing else."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from service.extensions import db
from service.failpoints import arm
from service.jobs.new_job import Idempotency, NewJob
from service.jobs.submit import Intake, Submitted
from service.transaction import transaction
from tests.support.client import KeyClient
from tests.support.database import count_jobs
from tests.support.threads import at_once

Submit = Callable[..., Submitted]


@pytest.fixture
def submit(app: Flask, client: KeyClient) -> Submit:
    """Submit a job as the client's tenant, from any thread."""
    intake: Intake = app.extensions["intake"]

    def act(key: str | None = None, **values: Any) -> Submitted:
        idempotency = Idempotency(key, b"the same", 72) if key else None
        with app.app_context():
            return intake.submit(
                client.key.tenant_id, NewJob("test.echo", **{"args": {}, **values}), idempotency=idempotency
            )

    return act


@pytest.fixture
def slow_start() -> Any:
    """The first submission takes its time, so that the others find it under way."""
    arm("submit.before_commit=sleep:0.5,times=1")
    yield
    arm("")


@pytest.mark.usefixtures("slow_start")
def test_what_comes_during_a_commit_is_committed_together(app: Flask, submit: Submit) -> None:
    with app.app_context():
        commits = Counter[str]()
        event.listen(db.engine, "checkout", lambda *_: commits.update(["connection"]))

    submitted = at_once([partial(submit, args={"value": number}) for number in range(16)])

    assert {one.job["args"]["value"] for one in submitted} == set(range(16))
    assert len({one.job["id"] for one in submitted}) == count_jobs(app) == 16
    assert commits["connection"] <= 4  # the first, those who came during it, perhaps late ones


@pytest.mark.usefixtures("slow_start")
def test_repeats_in_one_group_are_one_job(app: Flask, submit: Submit) -> None:
    submitted = at_once([partial(submit, key=f"key-{number % 3}") for number in range(12)])

    assert count_jobs(app) == 3
    assert Counter(one.is_replay for one in submitted) == {False: 3, True: 9}
    assert len({one.job["id"] for one in submitted}) == 3


@pytest.mark.usefixtures("slow_start")
def test_a_job_that_cannot_be_stored_harms_no_neighbour(app: Flask, submit: Submit) -> None:
    def refused() -> str:
        with pytest.raises(DBAPIError):
            submit(metadata={"what jsonb cannot hold": "\0"})
        return "refused"

    def stored() -> str:
        return submit().outcome

    outcomes = at_once([stored, stored, refused, stored, refused, stored])

    assert Counter(outcomes) == {"created": 4, "refused": 2}
    assert count_jobs(app) == 4


@pytest.mark.usefixtures("slow_start")
def test_a_commit_that_nobody_knows_of_is_known_to_nobody_of_its_group(app: Flask, submit: Submit) -> None:
    arm("submit.before_commit=sleep:0.5,times=1; submit.after_commit=raise")

    def lost() -> str:
        with pytest.raises(DBAPIError):
            submit()
        return "unsure"

    assert at_once([lost] * 6) == ["unsure"] * 6
    assert count_jobs(app) == 6


def test_a_key_that_another_transaction_holds_delays_its_own_submission_only(
    app: Flask, client: KeyClient, submit: Submit
) -> None:
    held = Idempotency("held", b"the same", 72)
    with ThreadPoolExecutor() as threads:
        with app.app_context(), transaction() as session:
            session.execute(
                text(
                    "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, job_id)"
                    " VALUES (:tenant_id, :key, :fingerprint, gen_random_uuid())"
                ),
                {"tenant_id": client.key.tenant_id, "key": held.key, "fingerprint": held.fingerprint},
            )
            repeat = threads.submit(submit, held.key)
            others = [threads.submit(submit, f"another-{number}") for number in range(6)]
            outcomes = [other.result().outcome for other in others]
            was_waiting = not repeat.done()
            session.rollback()
        outcome = repeat.result().outcome

    assert was_waiting
    assert outcomes == ["created"] * 6
    assert outcome == "created"
    assert count_jobs(app) == 7


def test_two_groups_with_the_same_keys_do_not_wait_for_each_other_in_a_circle(app: Flask, client: KeyClient) -> None:
    intakes = [Intake(app.extensions["bell"]) for _ in range(2)]

    def act(intake: Intake, key: str) -> bool:
        with app.app_context():
            idempotency = Idempotency(key, b"the same", 72)
            return intake.submit(client.key.tenant_id, NewJob("test.echo", {}), idempotency=idempotency).is_replay

    keys = [f"key-{number}" for number in range(6)]
    replays = at_once(
        [partial(act, intakes[0], key) for key in keys] + [partial(act, intakes[1], key) for key in reversed(keys)]
    )

    assert Counter(replays) == {False: 6, True: 6}
    with app.app_context(), transaction() as session:
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 6


def test_looks_of_one_moment_share_a_statement_and_no_tenant_sees_anothers_job(app: Flask, client: KeyClient) -> None:
    neighbour = KeyClient(app, "the neighbour")
    ours = [client.submit(args={"value": number})["id"] for number in range(3)]
    theirs = [neighbour.submit(args={"value": 100 + number})["id"] for number in range(3)]
    asked = [(who, job_id) for who in (client, neighbour) for job_id in (*ours, *theirs, ours[0])]
    arm("look.before_commit=sleep:0.5,times=1")
    try:
        answers = at_once([partial(who.get, f"/jobs/{job_id}") for who, job_id in asked])
    finally:
        arm("")

    for (who, job_id), answer in zip(asked, answers, strict=True):
        belongs = job_id in (ours if who is client else theirs)
        assert answer.status_code == (200 if belongs else 404), answer.text
        assert not belongs or answer.get_json()["id"] == job_id
