"""A ring's message equals the one that Celery sends."""

import json
from typing import Any

import pytest
import redis
from flask import Flask

from service.ids import uuid7
from service.jobs.message import MessageWriter
from service.jobs.ring import Bell
from service.jobs.types import JobType, registry


def plain(raw: bytes | str) -> dict[str, Any]:
    """The message without what differs from one message to the next."""
    message: dict[str, Any] = json.loads(raw)
    del message["properties"]["delivery_tag"]
    return message


@pytest.mark.parametrize("job_type", list(registry), ids=lambda job_type: job_type.name)
def test_the_template_equals_celerys_own_message(app: Flask, config: dict[str, Any], job_type: JobType) -> None:
    celery = app.extensions["celery"]
    writer = MessageWriter(celery, hard_timeout_grace=10.0)
    job = {"id": uuid7(), "type": job_type.name, "queue": job_type.queue.value, "timeout_seconds": 77}

    celery.send_task(**writer.options(job))
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        celerys_own = broker.lpop(job["queue"])
        Bell(celery, hard_timeout_grace=10.0).ring(job)
        ours = broker.lpop(job["queue"])

    assert celerys_own is not None
    assert ours is not None
    assert plain(ours) == plain(celerys_own)
    assert plain(writer.write(job)) == plain(celerys_own)


def test_every_message_has_a_delivery_tag_of_its_own(app: Flask) -> None:
    writer = MessageWriter(app.extensions["celery"], hard_timeout_grace=10.0)
    job = {"id": uuid7(), "type": "test.echo", "queue": "default", "timeout_seconds": 60}

    tags = {json.loads(writer.write(job))["properties"]["delivery_tag"] for _ in range(50)}

    assert len(tags) == 50


def test_many_are_rung_in_order_and_in_few_round_trips(app: Flask, config: dict[str, Any]) -> None:
    bell = Bell(app.extensions["celery"], hard_timeout_grace=10.0)
    jobs = [{"id": uuid7(), "type": "test.echo", "queue": "default", "timeout_seconds": 60} for _ in range(1200)]
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        broker.config_resetstat()

        assert bell.ring_all(jobs) == 1200

        pushes = broker.info("commandstats")["cmdstat_lpush"]["calls"]
        first_out = broker.brpop(["default"])
    assert pushes == 3
    assert json.loads(first_out[1])["headers"]["id"] == str(jobs[0]["id"])


def test_a_broker_that_is_away_is_left_alone_for_a_moment(app: Flask) -> None:
    celery = app.extensions["celery"]
    celery.conf.broker_url = "redis://127.0.0.1:1/0"
    bell = Bell(celery, hard_timeout_grace=10.0, rest_seconds=3600)
    job = {"id": uuid7(), "type": "test.echo", "queue": "default", "timeout_seconds": 60}

    assert [bell.is_worth_trying, bell.ring(job), bell.is_worth_trying] == [True, False, False]
    assert bell.ring_all([job] * 3) == 0
    assert bell.failures == 1
