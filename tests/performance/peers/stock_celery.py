"""Stock Celery, storing nothing: late acknowledgement, prefetch 1, no results, no events."""

import os
import time

import redis
from celery import Celery

app = Celery("peer", broker=os.environ["PEER_REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

MOMENTS = "moments"
STAGING = "staging"

_redis = redis.Redis.from_url(os.environ["PEER_REDIS_URL"])


@app.task
def noop(job_id: str) -> None:
    """Does nothing."""


@app.task
def moment(number: int) -> None:
    """Notes the nanosecond, on the machine's monotonic clock, at which it began."""
    began = time.monotonic_ns()
    _redis.hset(MOMENTS, str(number), str(began))


def stage(jobs: int) -> None:
    """Publish so many no-op tasks to a queue that nobody consumes."""
    for number in range(jobs):
        noop.apply_async((str(number),), queue=STAGING)


def print_runs() -> None:
    """How many no-op tasks the worker says that it has run."""
    (stats,) = app.control.inspect(timeout=10, limit=1).stats().values()
    print(stats["total"].get(noop.name, 0))


def print_sent(count: int, apart_seconds: float) -> None:
    """Send so many tasks, one at a time, and print when each was sent, in nanoseconds of the monotonic clock."""
    noop.delay("")  # the first one connects
    sent = []
    for number in range(count):
        sent.append(time.monotonic_ns())
        moment.delay(number)
        time.sleep(apart_seconds)
    print(sent)
