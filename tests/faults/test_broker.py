"""Redis wiped, killed, frozen, full and lied to: it is only the doorbell."""

import statistics
import threading
from datetime import datetime

import pytest

from tests.faults.nemesis import PICKLE_MARK
from tests.faults.one_job import outcomes, post, submit, wait_for_end
from tests.faults.stack import Stack
from tests.faults.trial import SEEDS, trial
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]

ON_ITS_WAY_SECONDS = 15.0
"""After a wipe, every queued job is in Redis again, or taken, within this."""


def test_a_storm_of_faults_loses_nothing_and_doubles_nothing(stack: Stack) -> None:
    with trial(stack, seed=1, per_second=40) as running:
        for fault in (
            running.nemesis.kill_api_process,
            running.nemesis.kill_pool_process,
            running.nemesis.flush_redis,
            running.nemesis.terminate_connections,
            running.nemesis.double_rings,
            running.nemesis.forge_messages,
        ):
            running.go_on(6)
            fault()
        running.go_on(6)

    assert running.faults == [
        *("kill_api_process", "kill_pool_process", "flush_redis"),
        *("terminate_connections", "double_rings", "forge_messages"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_flushall_at_random_moments_loses_nothing(stack: Stack, seed: int) -> None:
    with trial(stack, seed, per_second=40) as running:
        for _ in range(6):
            running.go_on(running.nemesis.random.randint(3, 20))
            running.nemesis.flush_redis()

    assert running.faults == ["flush_redis"] * 6


@pytest.mark.slow
def test_after_a_wipe_every_queued_job_is_on_its_way_within_the_promised_time(stack: Stack) -> None:
    stack.end("worker-1")
    jobs = [submit(stack) for _ in range(200)]
    with stack.broker() as broker:
        wait_for(lambda: broker.llen("default") >= 200, what="the rings")

        broker.flushall()
        wait_for(lambda: broker.llen("default") >= 200, seconds=ON_ITS_WAY_SECONDS, what="the rings, again")

    stack.start("worker-1")
    assert {wait_for_end(stack, job_id)["state"] for job_id in jobs} == {"succeeded"}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_after_a_wipe_under_load_with_5000_queued_all_that_was_rung_is_rung_again_within_the_promised_time(
    stack: Stack,
) -> None:
    with trial(stack, seed=1) as running, stack.broker() as broker:
        batch = post(stack, "/jobs/batch", {"jobs": [{"type": "fault.effect"}] * 5000})
        assert batch.status == 202
        running.go_on(5)
        wait_for(lambda: broker.llen("default") > 700, what="a window of rings")

        before = now(stack)
        running.nemesis.flush_redis()
        after = now(stack)
        lost = [
            one["id"] for one in stack.execute("SELECT id FROM jobs WHERE state = 'queued' AND rung_at < %s", before)
        ]

        def seconds_until_all_were_rung_again() -> float | None:
            found = stack.execute(
                "SELECT count(*) FILTER (WHERE state = 'queued' AND (rung_at > %s) IS NOT TRUE) AS left_over, "
                "EXTRACT(epoch FROM clock_timestamp() - %s)::float8 AS seconds FROM jobs WHERE id = ANY(%s)",
                *(after, after, lost),
            )[0]
            return None if found["left_over"] else float(found["seconds"])

        took = wait_for(seconds_until_all_were_rung_again, seconds=3 * ON_ITS_WAY_SECONDS, what="every ring, again")
        wait_for(lambda: stack.unfinished() < 200, seconds=300, what="the end of nearly all jobs")

    assert running.faults == ["flush_redis"]
    assert len(lost) > 500
    assert took < ON_ITS_WAY_SECONDS
    assert {
        row["state"] for row in stack.execute("SELECT state FROM jobs WHERE metadata = '{}' AND origin_id IS NULL")
    } == {"succeeded"}


def now(stack: Stack) -> datetime:
    """The database's clock."""
    moment: datetime = stack.execute("SELECT clock_timestamp() AS now")[0]["now"]
    return moment


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_redis_killed_and_back_without_its_data_loses_nothing(stack: Stack, seed: int) -> None:
    worker = stack.processes["worker-1"]
    with trial(stack, seed) as running:
        running.go_on(20)
        running.nemesis.kill_redis()
        running.go_on(20)  # accepted without it
        stack.start_redis()
        running.go_on(20)

    assert running.faults == ["kill_redis"]
    assert stack.processes["worker-1"] is worker  # `heal` found no reason to start another


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_while_redis_is_frozen_submissions_go_on_quickly(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        running.go_on(10)
        before = len(running.history.entries("answer"))
        with running.nemesis.stopped("redis"):
            threading.Event().wait(10)  # the fault's length
        during = running.history.entries("answer")[before:]
        running.go_on(10)

    assert running.faults == ["stop", "continue"]
    assert {answer["status"] for answer in during if answer["key"]} <= {200, 202, 404, 409}
    assert len(during) > 20
    assert statistics.quantiles((answer["seconds"] for answer in during), n=100)[98] < 3


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_redis_that_refuses_or_throws_away_loses_nothing(stack: Stack, policy: str) -> None:
    with trial(stack, seed=1) as running:
        running.go_on(10)
        waiting = [submit(stack, args={"seconds": 0.2}) for _ in range(20)]  # in Redis, while the pool is busy
        running.nemesis.limit_redis(policy)
        running.go_on(60)
        # What a worker takes from a full Redis it runs; what is not there any more waits in PostgreSQL.
        first = wait_for_end(stack, waiting[0])

    assert running.faults == ["limit_redis"]
    assert first["state"] == "succeeded"


@pytest.mark.slow
def test_doubled_and_reordered_rings_are_one_claim_each(stack: Stack) -> None:
    stack.end("worker-1")
    jobs = [submit(stack) for _ in range(50)]
    with stack.broker() as broker:
        # What could not be rung at its submission the dispatcher rings some seconds later.
        wait_for(lambda: broker.llen("default") >= len(jobs), what="a ring of every job")
    with trial(stack, seed=1, per_second=5) as running:
        assert running.nemesis.double_rings() >= 500
        stack.start("worker-1")
        for job_id in jobs:
            wait_for_end(stack, job_id)
        assert all(outcomes(stack, job_id) == ["succeeded"] for job_id in jobs)

    assert running.faults == ["double_rings"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_forged_and_corrupt_messages_are_refused_and_the_consumer_lives(stack: Stack, seed: int) -> None:
    worker, pool = stack.processes["worker-1"], set(stack.processes["worker-1"].children())
    with trial(stack, seed) as running:
        for _ in range(3):
            running.go_on(10)
            running.nemesis.forge_messages()
        running.go_on(10)
        with stack.broker() as broker:
            wait_for(lambda: broker.llen("default") + broker.llen("bulk") == 0, what="every message to be taken")
        still_there = {pid for pid in worker.children() if pid in pool}

    assert running.faults == ["forge_messages"] * 3
    assert worker.is_running
    assert stack.processes["worker-1"] is worker
    assert not (stack.folder / PICKLE_MARK).exists()
    # A quarter of a percent of the load kills its process on purpose; no message does.
    assert still_there or stack.execute("SELECT 1 FROM job_attempts WHERE outcome = 'lost'")
