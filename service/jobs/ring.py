"""Ring: publish jobs' ids. Best effort: a lost or doubled ring is harmless, a slow one is not."""

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.failpoints import failpoint
from service.jobs.message import MessageWriter

log = logging.getLogger(__name__)

RING_ERRORS = (OperationalError, RedisError, OSError)
"""What a publish raises when the broker is away, frozen, full or refusing."""

PUSH_AT_A_TIME = 500
SOCKET_SECONDS = 0.25


class Bell:
    """Rings through one Celery app, and stops trying for a moment after a failure (a circuit breaker).

    While the circuit is open jobs are stored as not rung, and the dispatcher rings them when the broker is back.
    """

    def __init__(self, celery: Celery, *, hard_timeout_grace: float, rest_seconds: float = 1.0) -> None:
        self._celery = celery
        self._messages = MessageWriter(celery, hard_timeout_grace=hard_timeout_grace)
        self._rest_seconds = rest_seconds
        self._resting_until = 0.0
        self._redis = _plain_redis(str(celery.conf.broker_url))
        self.failures = 0

    @property
    def is_worth_trying(self) -> bool:
        """Whether the last failure lies far enough back."""
        return time.monotonic() >= self._resting_until

    def ring(self, job: Mapping[Any, Any]) -> bool:
        """Publish the id of one job (`id`, `type`, `queue`, `timeout_seconds`). False: the broker did not take it."""
        return self.ring_all([job]) == 1

    def ring_all(self, jobs: Sequence[Mapping[Any, Any]]) -> int:
        """Publish the ids of many jobs, in order; returns how many the broker took before it stopped answering."""
        rung = 0
        for queue, group in groupby(jobs, key=lambda job: job["queue"]):
            waiting = list(group)
            while waiting:
                if not self.is_worth_trying:
                    return rung
                batch, waiting = waiting[:PUSH_AT_A_TIME], waiting[PUSH_AT_A_TIME:]
                try:
                    failpoint("ring", "before", error=OperationalError)
                    self._push(queue, batch)
                    failpoint("ring", "after", error=OperationalError)
                except RING_ERRORS as error:
                    self._resting_until = time.monotonic() + self._rest_seconds
                    self.failures += 1
                    log.warning(
                        "could not ring %d jobs: %s; the dispatcher rings later", len(batch), type(error).__name__
                    )
                    return rung
                rung += len(batch)
        return rung

    def depth(self, queue: str) -> int:
        """How many messages the broker holds ready in the queue. Raises one of RING_ERRORS."""
        if self._redis is not None:
            return int(self._redis.llen(queue))
        try:
            with self._celery.connection_for_write() as connection:
                return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
        except ChannelError:  # the broker does not know the queue: nothing was ever put into it
            return 0

    def _push(self, queue: str, batch: Sequence[Mapping[Any, Any]]) -> None:
        if self._redis is not None:
            self._redis.lpush(queue, *(self._messages.write(job) for job in batch))
            return
        for job in batch:
            self._celery.send_task(**self._messages.options(job))


def _plain_redis(url: str) -> Redis | None:
    """A client for a plain Redis, where a ring is one LPUSH; None for other brokers, which get Celery's own messages.

    One retry, at once, is for a connection that died since it was last used.
    """
    if not url.startswith("redis://"):
        return None
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
    )
