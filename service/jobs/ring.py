"""Ring: publish a job's id through Celery. Best effort: a lost or doubled ring is harmless, a slow one is not."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.failpoints import failpoint

log = logging.getLogger(__name__)

RING_ERRORS = (OperationalError, RedisError, OSError)
"""What a publish raises when the broker is away, frozen, full or refusing."""


class Bell:
    """Rings through one Celery app, and stops trying for a moment after a failure (a circuit breaker).

    While the circuit is open jobs are stored as not rung, and the dispatcher rings them when the broker is back.
    """

    def __init__(self, celery: Celery, *, hard_timeout_grace: float, rest_seconds: float = 1.0) -> None:
        self._celery = celery
        self._grace = hard_timeout_grace
        self._rest_seconds = rest_seconds
        self._resting_until = 0.0
        self.failures = 0

    @property
    def is_worth_trying(self) -> bool:
        """Whether the last failure lies far enough back."""
        return time.monotonic() >= self._resting_until

    def ring(self, job: Mapping[Any, Any]) -> bool:
        """Publish the id of one job (`id`, `type`, `queue`, `timeout_seconds`). False when the broker did not take it.

        Nothing of the job's arguments travels. The hard time limit does, because Celery's parent process enforces it
        even where the handler blocks every thread of its own.
        """
        if not self.is_worth_trying:
            return False
        try:
            failpoint("ring", "before", error=ConnectionResetError)
            self._celery.send_task(
                job["type"],
                task_id=str(job["id"]),
                queue=job["queue"],
                time_limit=job["timeout_seconds"] + self._grace,
                soft_time_limit=job["timeout_seconds"],
                ignore_result=True,
                retry=False,
            )
            failpoint("ring", "after", error=ConnectionResetError)
        except RING_ERRORS as error:
            self._resting_until = time.monotonic() + self._rest_seconds
            self.failures += 1
            log.warning("could not ring job %s: %s; the dispatcher rings it later", job["id"], type(error).__name__)
            return False
        return True
