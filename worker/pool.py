"""Celery's prefork pool, noticing within half a second that one of its processes died.

With celery 5.7.0 it takes up to 5 s: the pool is told by the process' closing pipe, looks a moment too early (the
kernel closes files before the process can be waited for), and then looks again only with its 5 s timer.
"""

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as PreforkPool

LOOK_SECONDS = 0.5


class PromptPool(AsynPool):  # type: ignore[misc] # celery ships no types
    """A pool that looks after its processes more often; one look is a `waitpid` per process."""

    @property
    def timers(self) -> dict[object, float]:
        """What the event loop calls, and how often in seconds."""
        return {self.maintain_pool: LOOK_SECONDS}


class TaskPool(PreforkPool):  # type: ignore[misc] # celery ships no types
    """The worker's pool."""

    Pool = PromptPool
