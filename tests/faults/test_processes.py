"""Workers and beats killed, stopped and restarted, at every point and at any moment."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import redis

from tests.faults.checker import recoveries
from tests.faults.one_job import effects, outcomes, row, submit, wait_for_end, wait_for_state
from tests.faults.stack import POOL_PROCESSES, RESCUE_SECONDS, Stack
from tests.faults.trial import SEEDS, trial
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]

PROMISED_SECONDS = 40.0
"""A vanished host's jobs run again within this, in the default times."""
WORKER_POINTS = [
    f"{place}.{moment}"
    for place in ("claim", "renew", "succeed", "fail")
    for moment in ("before_commit", "after_commit")
]
CLOCK_POINTS = [
    *(
        f"{place}.{moment}"
        for place in ("promote", "dispatch", "mark_rung")
        for moment in ("before_commit", "after_commit")
    ),
    *("rescue.before_commit", "rescue.after_commit", "ring.before", "ring.after"),
]


def once_each(points: list[str], folder: Path) -> tuple[str, list[Path]]:
    """Failpoints that each kill one process, and the files that are gone once they did."""
    tokens = [folder / point for point in points]
    for token in tokens:
        token.touch()
    return ";".join(f"{point}=exit,token={folder / point}" for point in points), tokens


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_dies_around_any_commit_leaves_one_effect(stack: Stack, seed: int, tmp_path: Path) -> None:
    failpoints, tokens = once_each(WORKER_POINTS, tmp_path)
    stack.restart("worker-1", FAILPOINTS=failpoints)
    stack.wait_until_ready()

    with trial(stack, seed) as running:
        running.nemesis.note("failpoints", points=WORKER_POINTS)
        running.go_on(40)
        submit(stack, args={"seconds": 3, "failures": 1})  # one that is renewed, and one that fails
        wait_for(lambda: not any(map(Path.exists, tokens)), seconds=90, what="a death at every point")

    assert running.faults == ["failpoints"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_clock_that_dies_around_any_commit_or_ring_leaves_the_rest_to_the_next(
    stack: Stack, seed: int, tmp_path: Path
) -> None:
    failpoints, tokens = once_each(CLOCK_POINTS, tmp_path)
    for name in ("beat-1", "beat-2"):
        stack.restart(name, FAILPOINTS=failpoints)

    def all_reached() -> bool:
        for name in ("beat-1", "beat-2"):
            if not stack.processes[name].is_running:
                stack.restart(name, FAILPOINTS=failpoints)
        return not any(map(Path.exists, tokens))

    with trial(stack, seed, clients=2, per_second=6) as running:
        running.nemesis.note("failpoints", points=CLOCK_POINTS)
        running.go_on(5)
        with running.nemesis.stopped("worker-1"):  # leaves leases to run out, and rings that nobody claims
            wait_for(all_reached, seconds=150, what="a death at every point")

    assert running.faults == ["failpoints", "stop", "continue"]


@pytest.mark.slow
def test_a_job_whose_finish_was_committed_is_not_run_again_though_its_message_was_not_acknowledged(
    stack: Stack, tmp_path: Path
) -> None:
    failpoints, (token,) = once_each(["succeed.after_commit"], tmp_path)
    stack.restart("worker-1", FAILPOINTS=failpoints)

    job = wait_for_end(stack, submit(stack))
    wait_for(lambda: not token.exists(), what="the death after the commit")
    following = wait_for_end(stack, submit(stack))  # the worker went on

    assert (job["state"], following["state"]) == ("succeeded", "succeeded")
    assert outcomes(stack, job["id"]) == ["succeeded"]
    assert effects(stack, job["id"]) == 1


@pytest.mark.slow
def test_a_job_taken_by_a_stopped_idle_worker_that_is_then_killed_runs(stack: Stack) -> None:
    with stack.broker() as broker:
        job_id = wait_for(partial(submit_to_stopped_worker, stack, broker), what="a message to be gone from Redis")
        stack.end("worker-1")

        wait_for(lambda: broker.llen("default") > 0, seconds=15, what="another ring")
    stack.start("worker-1")

    job = wait_for_end(stack, job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 1)


def submit_to_stopped_worker(stack: Stack, broker: redis.Redis) -> str | None:
    """Submit a job whose message Redis hands to the stopped worker: it is in no list, and nobody has it.

    None if the worker happened to be stopped between two of its pops; it goes on then.
    """
    worker = stack.processes["worker-1"]
    worker.send(signal.SIGSTOP)
    job_id = submit(stack)
    try:
        wait_for(lambda: broker.llen("default") == 0, seconds=1, what="the message to be gone from Redis")
    except TimeoutError:
        worker.send(signal.SIGCONT)
        wait_for_end(stack, job_id)
        return None
    return job_id


@pytest.mark.slow
def test_the_jobs_of_a_worker_whose_parent_is_killed_run_again_within_the_promised_time(stack: Stack) -> None:
    default_times = {"LEASE_SECONDS": 30.0, "LEASE_RENEW_SECONDS": 5.0}
    stack.restart("worker-1", **default_times)
    stack.start("worker-2", **default_times)
    try:
        stack.wait_until_ready()
        jobs = [submit(stack, args={"seconds": 4}) for _ in range(4)]
        for job_id in jobs:
            wait_for_state(stack, job_id, "running")

        killed = time.monotonic()
        stack.send("worker-1", signal.SIGKILL)
        for job_id in jobs:
            wait_for_end(stack, job_id, seconds=PROMISED_SECONDS + 20)
        took = time.monotonic() - killed - 4  # the job's own time

        assert took < PROMISED_SECONDS
        assert [effects(stack, job_id) for job_id in jobs] == [1] * 4
        assert sorted(len(outcomes(stack, job_id)) for job_id in jobs) == [1, 1, 2, 2]
    finally:
        stack.end("worker-2")
        del stack.processes["worker-2"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_stopped_past_its_leases_is_fenced_when_it_goes_on(stack: Stack, seed: int) -> None:
    stack.start("worker-2")
    try:
        stack.wait_until_ready()
        with trial(stack, seed) as running:
            jobs = [submit(stack, args={"seconds": 3}) for _ in range(4)]
            for job_id in jobs:
                wait_for_state(stack, job_id, "running")
            with running.nemesis.stopped("worker-1"):
                for job_id in jobs:
                    wait_for_end(stack, job_id, seconds=RESCUE_SECONDS + 30)
            running.go_on(20)
        assert running.faults == ["stop", "continue"]
        assert any("lost" in outcomes(stack, job_id) for job_id in jobs)
        assert [effects(stack, job_id) for job_id in jobs] == [1] * 4
    finally:
        stack.end("worker-2")
        del stack.processes["worker-2"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_pool_processes_cost_two_seconds_each(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        for _ in range(5):
            running.go_on(10)
            running.nemesis.kill_pool_process()
    waits = [recovery.wait_seconds for recovery in recoveries(stack.database_url)]

    assert running.faults == ["kill_pool_process"] * 5
    # The whole load waits behind the two pool processes as well, so this bounds more than the promise does.
    assert max(waits, default=0.0) < 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_rolling_restart_under_load_loses_nothing_and_counts_no_attempt(stack: Stack, seed: int) -> None:
    stack.start("worker-2")
    try:
        stack.wait_until_ready()
        with trial(stack, seed, mix={"submit": 90, "look": 10}) as running:
            long_jobs = [submit(stack, args={"seconds": 6}) for _ in range(2)]
            for name in ("worker-1", "worker-2", "beat-1", "beat-2", "api"):
                running.nemesis.note("restart", process=name)
                stack.send(name, signal.SIGTERM)
                stack.start(name)
                running.go_on(5)
        assert running.faults == ["restart"] * 5
        assert [row(stack, job_id)["attempt"] for job_id in long_jobs] == [1, 1]
    finally:
        stack.end("worker-2")
        del stack.processes["worker-2"]


@pytest.mark.slow
def test_jobs_that_a_process_was_just_handed_are_given_back_when_the_worker_stops(stack: Stack) -> None:
    worker = stack.processes["worker-1"]
    frozen = worker.children()
    for pid in frozen:  # so that the jobs are on their way to a process, and none says that it has them
        os.kill(pid, signal.SIGSTOP)
    jobs = [submit(stack, args={"seconds": 20}) for _ in range(POOL_PROCESSES)]
    with stack.broker() as broker:
        wait_for(lambda: broker.llen("default") == 0, what="the messages to be taken")

    said = len(worker.log.read_text())
    worker.send(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in worker.log.read_text()[said:], what="the beginning of the shutdown")
    threading.Event().wait(0.7)  # the fault's length: shorter than the grace
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    worker.wait(15)

    assert [(row(stack, job_id)["state"], row(stack, job_id)["attempt"]) for job_id in jobs] == [("queued", 0)] * 2


@pytest.mark.slow
def test_when_the_clock_is_killed_another_takes_over_within_the_promised_time_and_no_slot_is_doubled(
    stack: Stack,
) -> None:
    for name in ("beat-1", "beat-2"):
        stack.restart(name, CLOCK_LEASE_SECONDS=10.0)
    stack.wait_until_ready()
    stack.execute(
        "INSERT INTO schedules (id, tenant_id, name, type, args, every_seconds, catch_up, next_slot_at) "
        "SELECT gen_random_uuid(), id, 'every second', 'fault.effect', '{}', 1, 'all', date_trunc('second', now()) "
        "FROM tenants WHERE name = 'acme'"
    )
    ticks = "SELECT count(*) AS ticks FROM schedule_ticks"
    wait_for(lambda: stack.execute(ticks)[0]["ticks"] >= 3, what="the first ticks")

    leader = stack.leader()
    assert leader is not None
    stack.end(leader)
    killed = time.monotonic()
    fired = stack.execute(ticks)[0]["ticks"]
    wait_for(lambda: stack.execute(ticks)[0]["ticks"] > fired, seconds=15, what="a tick of the other beat's")
    took = time.monotonic() - killed
    stack.start(leader, CLOCK_LEASE_SECONDS=10.0)
    wait_for(lambda: stack.execute(ticks)[0]["ticks"] > fired + took + 3, what="the slots that were missed, and some")
    stack.execute("UPDATE schedules SET enabled = false")
    wait_for(lambda: stack.unfinished() == 0, what="the end of the jobs that were fired")

    slots = stack.execute(
        "SELECT slot, job_id, (SELECT count(*) FROM jobs WHERE jobs.id = job_id AND state = 'succeeded') AS jobs, "
        "slot - lag(slot) OVER (ORDER BY slot) AS gap FROM schedule_ticks ORDER BY slot"
    )
    assert all(slot["jobs"] == 1 for slot in slots)
    assert {slot["gap"].total_seconds() for slot in slots[1:]} == {1.0}
    assert stack.execute("SELECT count(*) AS jobs FROM jobs")[0]["jobs"] == len(slots)
