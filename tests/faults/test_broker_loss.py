"""Redis wiped, stopped and started again: every accepted job still runs, once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

from deploy.local.servers import RedisServer
from tests.support.apps import app_with
from tests.support.client import KeyClient
from tests.support.folders import server_folder
from tests.support.processes import BEAT, WORKER, Process, running
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture
def redis_folder() -> Iterator[Path]:
    with server_folder() as folder:
        yield folder


@contextmanager
def stack(config: dict[str, Any], folder: Path) -> Iterator[Process]:
    """A worker and a beat; yields the worker."""
    with (
        running((*WORKER, "--concurrency", "2"), config, folder / "worker.log") as worker,
        running(BEAT, config, folder / "beat.log"),
    ):
        yield worker


def count(app: Flask, client: KeyClient, state: str) -> int:
    """How many of the tenant's jobs are in the state, at most 200."""
    return len(client.get("/jobs", query_string={"state": state, "limit": 200}).get_json()["items"])


def test_after_flushall_every_queued_job_runs(
    app: Flask, client: KeyClient, config: dict[str, Any], tmp_path: Path
) -> None:
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        jobs = [client.submit("test.echo", args={"value": number})["id"] for number in range(100)]
        assert broker.llen("default") == 100
        broker.flushall()
        with stack(config, tmp_path):
            wait_for(lambda: count(app, client, "succeeded") >= 20, seconds=60, what="the first jobs after the wipe")
            broker.flushall()  # and once more in the middle of it

            wait_for(lambda: count(app, client, "succeeded") == 100, seconds=60, what="all jobs' success")

    assert sorted(client.job(job)["result"] for job in jobs) == list(range(100))
    assert all(client.job(job)["attempt"] == 1 for job in jobs)


def test_while_redis_is_away_jobs_are_accepted_and_the_worker_lives(
    config: dict[str, Any], redis_folder: Path, tmp_path: Path
) -> None:
    with RedisServer.start(redis_folder) as first, app_with(config, BROKER_URL=first.url) as app:
        client = KeyClient(app, "acme")
        with stack({**config, "BROKER_URL": first.url}, tmp_path) as worker:
            running_job = client.submit("test.sleep", args={"seconds": 4})["id"]
            wait_for(lambda: client.job(running_job)["state"] == "running")

            first.kill()
            started = time.monotonic()
            accepted = [client.submit("test.echo", args={"value": number})["id"] for number in range(10)]
            took = time.monotonic() - started

            wait_for(
                lambda: client.job(running_job)["state"] == "succeeded", what="the end of the job that was running"
            )
            with RedisServer.start(redis_folder, port=first.port):
                wait_for(
                    lambda: all(client.job(job)["state"] == "succeeded" for job in accepted),
                    seconds=90,
                    what="the jobs that were accepted while Redis was away",
                )
                assert worker.is_running
                assert client.job(running_job)["attempt"] == 1

    # Ten submissions in less than ten seconds: each was answered in under one, with a dead broker.
    assert took < 10
