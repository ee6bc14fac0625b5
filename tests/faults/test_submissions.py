"""What clients are told while the API dies, loses its database or is asked everything at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.faults.one_job import post, submit, wait_for_end
from tests.faults.stack import Stack
from tests.faults.trial import SEEDS, trial
from tests.support.threads import at_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]


def test_a_hundred_parallel_requests_with_one_key_make_one_job(stack: Stack) -> None:
    barrier = threading.Barrier(100)

    def send(_: int) -> tuple[int, str]:
        barrier.wait(30)
        while True:
            response = post(stack, "/jobs", {"type": "fault.effect"}, key="the-one-key")
            if response.status != 503:
                return response.status, response.json().get("id", "")

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(send, range(100)))

    assert {status for status, _ in answers} == {202}
    assert len({job_id for _, job_id in answers}) == 1
    assert stack.execute("SELECT count(*) AS jobs FROM jobs")[0]["jobs"] == 1


@pytest.mark.slow
def test_nobody_in_a_crowd_before_a_locked_table_waits_for_more_than_one_lock_timeout(stack: Stack) -> None:
    # More than go into a statement together: the last must not wait for the timeouts of all before them.
    keys = [f"crowd-{number}" for number in range(150)]

    def send(key: str) -> tuple[int, float, str]:
        began = time.monotonic()
        response = post(stack, "/jobs", {"type": "fault.effect"}, key=key)
        return response.status, time.monotonic() - began, response.json().get("id", "")

    with psycopg.connect(stack.superuser_url) as connection:
        connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        refused = at_once([lambda key=key: send(key) for key in keys])  # type: ignore[misc]
        connection.rollback()
    accepted = at_once([lambda key=key: send(key) for key in keys])  # type: ignore[misc]

    assert {status for status, _, _ in refused} == {503}
    assert max(seconds for _, seconds, _ in refused) < 10
    assert {status for status, _, _ in accepted} == {202}
    assert len({job_id for _, _, job_id in accepted}) == len(keys)
    known = stack.execute("SELECT count(*) AS jobs FROM idempotency_keys WHERE key LIKE 'crowd-%%'")[0]
    assert known["jobs"] == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "failpoints",
    [
        pytest.param(
            "submit.before_commit=exit,p=0.04; submit.after_commit=exit,p=0.04; ring.before=exit,p=0.02;"
            "ring.after=exit,p=0.02; cancel.before_commit=exit,p=0.1; cancel.after_commit=exit,p=0.1",
            id="dies",
        ),
        pytest.param(
            "submit.before_commit=raise,p=0.1; submit.after_commit=raise,p=0.1; ring.before=raise,p=0.1;"
            "ring.after=raise,p=0.1; cancel.before_commit=raise,p=0.2; cancel.after_commit=raise,p=0.2",
            id="stumbles",
        ),
    ],
)
def test_a_failing_api_leaves_only_ambiguity_that_a_repeat_resolves(stack: Stack, seed: int, failpoints: str) -> None:
    stack.restart("api", FAILPOINTS=failpoints)
    stack.wait_until_ready()

    with trial(stack, seed) as running:
        running.nemesis.note("failpoints", points=failpoints)
        running.go_on(60, seconds=120)

    assert running.faults == ["failpoints"]
    unclear = [answer for answer in running.history.entries("answer") if answer["status"] in {None, 503}]
    assert unclear, "no failpoint fired"


@pytest.mark.slow
def test_a_job_is_rung_after_its_commit_however_long_that_takes(stack: Stack) -> None:
    stack.restart("api", FAILPOINTS="submit.before_commit=sleep:0.5")
    stack.wait_until_ready()
    waits = []
    for _ in range(5):
        job = wait_for_end(stack, submit(stack))
        waits.append((job["started_at"] - job["created_at"]).total_seconds())

    # A ring before the commit finds no job, and the next comes after two seconds.
    assert min(waits) < 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_api_processes_lose_nothing(stack: Stack, seed: int) -> None:
    with trial(stack, seed, per_second=40) as running:
        for _ in range(4):
            running.go_on(15)
            running.nemesis.kill_api_process()

    assert running.faults == ["kill_api_process"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_commit_whose_answer_is_lost_is_resolved_by_the_key(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        running.nemesis.note("lose_answers", role="api")
        stack.links["api"].lose_answers = 0.05
        running.go_on(60, seconds=120)
        stack.links["api"].lose_answers = 0

    assert running.faults == ["lose_answers"]
    assert stack.links["api"].lost_answers > 0


@pytest.mark.slow
def test_a_commit_that_no_standby_confirmed_is_never_answered_2xx(stack: Stack) -> None:
    submit(stack)  # its key's last use is stored now, so that the next request commits only the job

    def give_up_waiting() -> bool:
        rows = stack.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", superuser=True
        )
        return bool(rows)

    set_standby(stack, "nobody")
    try:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, stack, "/jobs", {"type": "fault.effect"}, key="unconfirmed")
            while not answer.done():
                give_up_waiting()
            first = answer.result()
            # The job is there, and unconfirmed still: its repeat must not say 2xx either.
            answer = pool.submit(post, stack, "/jobs", {"type": "fault.effect"}, key="unconfirmed")
            while not answer.done():
                give_up_waiting()
            second = answer.result()
    finally:
        set_standby(stack, "")
    third = post(stack, "/jobs", {"type": "fault.effect"}, key="unconfirmed")

    assert (first.status, first.headers["Retry-After"]) == (503, "2")
    assert second.status == 503
    assert third.status == 202
    wait_for_end(stack, third.json()["id"])
    assert stack.execute("SELECT count(*) AS jobs FROM jobs")[0]["jobs"] == 2


def set_standby(stack: Stack, name: str) -> None:
    """Make commits wait for a standby of that name, or for none."""
    stack.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'", superuser=True)
    stack.execute("SELECT pg_reload_conf()", superuser=True)


@pytest.mark.slow
def test_without_a_free_connection_the_answer_is_503_and_passes(stack: Stack) -> None:
    stack.execute("ALTER ROLE millrace CONNECTION LIMIT 0", superuser=True)
    try:
        stack.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'millrace-%%'",
            superuser=True,
        )
        refused = post(stack, "/jobs", {"type": "fault.effect"}, key="no-connection")
    finally:
        stack.execute("ALTER ROLE millrace CONNECTION LIMIT -1", superuser=True)

    assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
    wait_for_end(stack, submit(stack))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_locked_table_delays_answers_by_the_lock_timeout_and_no_more(stack: Stack, seed: int) -> None:
    with trial(stack, seed, clients=8) as running:
        running.go_on(20)
        before = len(running.history.entries("answer"))
        with running.nemesis.locked():
            threading.Event().wait(12)  # the fault's length: twice the lock timeout and more
        running.go_on(20)
        under_lock = running.history.entries("answer")[before:]

    assert running.faults == ["lock"]
    refused = [answer for answer in under_lock if answer["status"] == 503]
    assert refused
    # The lock timeout is 5 s; before it a request may have waited 2 s for a connection, or for its group's turn.
    assert max(answer["seconds"] for answer in refused) < 10
