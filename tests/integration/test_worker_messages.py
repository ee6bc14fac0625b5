"""What a worker does with the messages that it holds: many while jobs are short, none that somebody else could run."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from celery import Celery
from redis import Redis
from sqlalchemy import text

from service.transaction import reading
from tests.support.client import KeyClient
from tests.support.processes import BEAT, WORKER, running
from tests.support.waiting import wait_for
from worker.consumer import is_ring

pytestmark = pytest.mark.xdist_group("execution")

ONE_PROCESS = (*WORKER, "--concurrency", "1")
TWO_PROCESSES = (*WORKER, "--concurrency", "2")


def test_short_jobs_behind_a_long_one_go_to_an_idle_worker(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    submit_echoes(client, 600)
    long_job = client.submit("test.sleep", args={"seconds": 50, "path": str(notes)})
    behind = submit_echoes(client, 30)

    with running(ONE_PROCESS, config, tmp_path / "busy.log") as busy:
        wait_for(notes.exists, what="the long job's start")
        wait_for(lambda: "gave back" in busy.log.read_text(), what="messages given back")
        with running(ONE_PROCESS, config, tmp_path / "idle.log"):
            wait_for(lambda: succeeded(client, behind) == 30, what="the end of the short jobs")

        assert client.job(long_job["id"])["state"] == "running"


def test_jobs_behind_one_that_turns_out_long_go_to_an_idle_worker_and_lose_no_attempt(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    short: dict[str, Any] = {"type": "test.sleep", "args": {"seconds": 0}}
    long_one: dict[str, Any] = {"type": "test.sleep", "args": {"seconds": 50}}
    response = client.post("/jobs/batch", json={"jobs": [*[short] * 400, long_one, *[short] * 100]})
    jobs = [item["id"] for item in response.get_json()["items"]]

    with (
        running(BEAT, config, tmp_path / "beat.log"),
        running(ONE_PROCESS, config, tmp_path / "busy.log"),
    ):
        wait_for(lambda: client.job(jobs[400])["state"] == "running", what="the long job's start")
        with running(ONE_PROCESS, config, tmp_path / "idle.log"):
            wait_for(lambda: succeeded(client, jobs) == 500, what="the end of the short jobs")

        assert client.job(jobs[400])["state"] == "running"
    assert most_attempts(client, jobs) == 1


def test_a_process_that_becomes_free_among_long_jobs_takes_the_next_one(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    with running((*WORKER, "--concurrency", "3"), config, tmp_path / "worker.log"):
        long_jobs = [client.submit("test.sleep", args={"seconds": 50})["id"] for _ in range(2)]
        client.submit("test.sleep", args={"seconds": 1.5})
        wait_for(lambda: count(client, RUNNING, long_jobs) == 2, what="two long jobs")
        last = client.submit("test.sleep", args={"seconds": 50})["id"]

        wait_for(lambda: count(client, RUNNING, [*long_jobs, last]) == 3, seconds=10, what="a third beside them")


def test_nothing_is_left_behind_when_pool_processes_are_replaced(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    jobs = submit_echoes(client, 300)

    with running((*TWO_PROCESSES, "--max-tasks-per-child", "40"), config, tmp_path / "worker.log"):
        wait_for(lambda: succeeded(client, jobs) == 300, seconds=90, what="the end of all jobs")

    assert most_attempts(client, jobs) == 1


def test_what_a_killed_process_had_in_its_pipe_runs_elsewhere(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    jobs = submit_echoes(client, 600)

    with (
        running(BEAT, config, tmp_path / "beat.log"),
        running(TWO_PROCESSES, config, tmp_path / "worker.log") as worker,
    ):
        wait_for(lambda: succeeded(client, jobs) >= 100, what="a hundred jobs")
        os.kill(worker.children()[0], signal.SIGKILL)
        wait_for(lambda: succeeded(client, jobs) == 600, seconds=60, what="the end of all jobs")


def test_whoever_watches_is_told_of_every_job_those_before_a_shutdown_included(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    with events_of(config) as seen, running(TWO_PROCESSES, config, tmp_path / "worker.log") as worker:
        jobs = submit_echoes(client, 200)
        wait_for(lambda: succeeded(client, jobs) == 200, what="the end of all jobs")
        worker.send(signal.SIGTERM)
        worker.wait(20)

        kinds = ("task-received", "task-started", "task-succeeded")
        expected = Counter((kind, job) for kind in kinds for job in jobs)
        wait_for(lambda: seen >= expected, what="an event of each kind for each job")


def test_what_is_no_ring_takes_no_process_its_share_of_messages(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    with running(ONE_PROCESS, config, tmp_path / "worker.log"), Redis.from_url(config["BROKER_URL"]) as redis:
        for headers in NO_RINGS.values():
            redis.lpush("default", *[forged(headers)] * 4)
        job = client.submit("test.echo")["id"]

        wait_for(lambda: succeeded(client, [job]) == 1, what="the job behind what is no ring")


def test_a_job_that_a_celery_client_revoked_runs_all_the_same(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    with running(ONE_PROCESS, config, tmp_path / "worker.log"):
        long_job = client.submit("test.sleep", args={"seconds": 3})["id"]
        wait_for(lambda: client.job(long_job)["state"] == "running", what="the long job's start")
        behind = client.submit("test.echo")["id"]
        with Celery(broker=config["BROKER_URL"], set_as_current=False) as celery:
            assert celery.control.revoke(behind, reply=True, timeout=10, limit=1)

        wait_for(lambda: succeeded(client, [behind]) == 1, what="the end of the job that was revoked")


def test_events_are_sent_together(config: dict[str, Any], client: KeyClient, tmp_path: Path) -> None:
    jobs = submit_echoes(client, 200)

    with Redis.from_url(config["BROKER_URL"]) as redis:
        redis.config_resetstat()
        with running(TWO_PROCESSES, config, tmp_path / "worker.log"):
            wait_for(lambda: succeeded(client, jobs) == 200, what="the end of all jobs")
        published = redis.info("commandstats")["cmdstat_publish"]["calls"]

    assert published < 100  # of six hundred events


RING: dict[str, Any] = {"lang": "py", "task": "test.echo", "id": "f0000000-0000-4000-8000-00000000f00d"}
NO_RINGS: dict[str, dict[str, Any]] = {
    "no id": {"id": None},
    "an id that is none": {"id": "f00d"},
    "an id in other letters": {"id": RING["id"].upper()},
    "ids in a list": {"id": [RING["id"]]},
    "types in a list": {"task": ["test.echo"]},
    "a time limit in words": {"timelimit": "long"},
    "time limits in words": {"timelimit": ["long", "longer"]},
    "three time limits": {"timelimit": [1, 2, 3]},
    "a time to start": {"eta": "2126-01-01T00:00:00+00:00"},
    "a time to start by": {"expires": "2126-01-01T00:00:00+00:00"},
    "another name": {"shadow": "test.sleep"},
}


def forged(headers: dict[str, Any]) -> bytes:
    """A message as it would lie in Redis, with these headers changed."""
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "default"},
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    message = {"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json"}
    return orjson.dumps({**message, "headers": {**RING, **headers}, "properties": properties})


@pytest.mark.parametrize("headers", NO_RINGS.values(), ids=NO_RINGS)
def test_only_a_ring_is_taken_for_one(headers: dict[str, Any]) -> None:
    assert is_ring(RING)
    assert not is_ring({**RING, **headers})


def submit_echoes(client: KeyClient, count: int) -> list[str]:
    response = client.post("/jobs/batch", json={"jobs": [{"type": "test.echo", "args": {"value": 1}}] * count})
    assert response.status_code == 202, response.text
    return [item["id"] for item in response.get_json()["items"]]


RUNNING = "SELECT count(*) FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'running'"


def succeeded(client: KeyClient, jobs: list[str]) -> int:
    """How many of these jobs have."""
    return count(client, "SELECT count(*) FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'succeeded'", jobs)


def most_attempts(client: KeyClient, jobs: list[str]) -> int:
    return count(client, "SELECT max(attempt) FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))", jobs)


def count(client: KeyClient, statement: str, jobs: list[str]) -> int:
    with client.app.app_context(), reading() as session:
        return int(session.execute(text(statement), {"ids": jobs}).scalar_one())


@contextmanager
def events_of(config: dict[str, Any]) -> Iterator[Counter[tuple[str, str]]]:
    """Listens as Flower does; how often each kind of event came for each job."""
    seen: Counter[tuple[str, str]] = Counter()
    stopped, listening = threading.Event(), threading.Event()

    def listen() -> None:
        handlers = {"*": lambda event: seen.update([(event["type"], event.get("uuid", ""))])}
        with Celery(broker=config["BROKER_URL"], set_as_current=False) as app, app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers)
            with receiver.consumer_context() as (listener, _, _):
                listening.set()
                while not stopped.is_set():
                    with suppress(TimeoutError):
                        listener.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen)
    thread.start()
    listening.wait(10)
    try:
        yield seen
    finally:
        stopped.set()
        thread.join(10)
