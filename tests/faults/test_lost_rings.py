"""Rings that got lost are found, wherever they lie in line: by comparing what was rung with what the broker holds."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import redis
from flask import Flask

from service.jobs.dispatch import Dispatcher
from service.jobs.execution import claim
from service.jobs.rescue import rescue
from service.jobs.ring import Bell
from tests.support.attempts import start
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.threads import at_once

pytestmark = pytest.mark.faults

WINDOW = 1000


@pytest.fixture
def broker(config: dict[str, Any]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(config["BROKER_URL"]) as client:
        yield client


def dispatch(app: Flask, *, window: int = WINDOW) -> None:
    """One round of a dispatcher with the default settings."""
    with app.app_context():
        bell = Bell(app.extensions["celery"], hard_timeout_grace=10)
        Dispatcher(bell, window=window, ring_again_seconds=app.config["RING_AGAIN_SECONDS"]).round()


def in_broker(broker: redis.Redis) -> list[str]:
    """The jobs whose ids lie in the queue."""
    return [json.loads(message)["headers"]["id"] for message in broker.lrange("default", 0, -1)]


def submit_batch(client: KeyClient, count: int) -> list[str]:
    response = client.post("/jobs/batch", json={"jobs": [{"type": "test.echo"}] * count})
    assert response.status_code == 202, response.text
    return [item["id"] for item in response.get_json()["items"]]


def let_pass(app: Flask, jobs: list[str], seconds: float, *, rings: int = 1) -> None:
    """As if the jobs had been rung so long ago, for the so many-th time."""
    execute(
        app,
        "UPDATE jobs SET rung_at = rung_at - make_interval(secs => :seconds), ring_count = :rings "
        "WHERE id = ANY(CAST(:jobs AS uuid[]))",
        seconds=seconds,
        rings=rings,
        jobs=jobs,
    )


def test_rings_that_got_lost_are_found_although_younger_ones_keep_the_queue_full(
    app: Flask, client: KeyClient, broker: redis.Redis
) -> None:
    lost = submit_batch(client, 10)
    let_pass(app, lost, 8)
    broker.flushall()
    younger = submit_batch(client, 400)

    dispatch(app)

    assert sorted(in_broker(broker)) == sorted(lost + younger)


@pytest.mark.parametrize("rings", [7, 5000])
def test_a_job_that_was_rung_many_times_does_not_wait_longer_than_promised(
    app: Flask, client: KeyClient, broker: redis.Redis, rings: int
) -> None:
    lost = submit_batch(client, 3)
    let_pass(app, lost, 12, rings=rings)
    broker.flushall()

    dispatch(app)

    assert sorted(in_broker(broker)) == sorted(lost)


def test_what_is_in_the_broker_is_not_rung_again(app: Flask, client: KeyClient, broker: redis.Redis) -> None:
    waiting = submit_batch(client, 50)
    let_pass(app, waiting, 20)

    dispatch(app)

    assert sorted(in_broker(broker)) == sorted(waiting)


def test_after_a_wipe_a_whole_window_is_rung_again_in_one_round(
    app: Flask, client: KeyClient, broker: redis.Redis
) -> None:
    submit_batch(client, 3 * WINDOW)
    dispatch(app)
    rung = in_broker(broker)
    let_pass(app, rung, 3)
    broker.flushall()

    dispatch(app)

    assert len(rung) == WINDOW
    assert sorted(in_broker(broker)) == sorted(rung)


def test_dispatchers_and_rescuers_side_by_side_ring_everything_and_start_nothing_twice(
    app: Flask, client: KeyClient, broker: redis.Redis
) -> None:
    jobs = submit_batch(client, 200)
    held = jobs[:20]
    for job_id in held:
        start(app, job_id)
    execute(app, "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE state = 'running'")
    broker.flushall()
    execute(app, "UPDATE jobs SET rung_at = NULL")

    def rescue_once() -> None:
        with app.app_context():
            rescue()

    at_once([partial(dispatch, app, window=100)] * 3 + [rescue_once] * 2)

    rung = in_broker(broker)
    claims = at_once([partial(claim_all, app, rung)] * 3)
    started = [job_id for each in claims for job_id in each]
    assert len(set(rung)) >= 100
    assert sorted(started) == sorted(set(rung))
    assert execute(app, "SELECT count(*) FROM job_attempts WHERE outcome = 'lost'")[0][0] == len(held)


def claim_all(app: Flask, jobs: list[str]) -> list[str]:
    """The jobs that could be claimed, as by a worker that finds these messages."""
    with app.app_context():
        return [
            job_id
            for job_id in jobs
            if claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10) is not None
        ]
