"""The messages that ring: made once per job type by Celery itself, then filled in.

Building a message through Celery costs more than all the rest of a ring; of a million messages of one type only the
ids differ. A test holds that a filled-in message equals Celery's own, for every job type.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

from celery import Celery
from kombu.connection import Connection
from kombu.utils.json import dumps

_ID = "f0000000-0000-4000-8000-00000000f00d"
_TAG = "f0000000-0000-4000-8000-00000000cafe"
"""They stand in the template where a message's own id and delivery tag go."""


class MessageWriter:
    """Writes messages as Celery would send them to Redis."""

    def __init__(self, celery: Celery, *, hard_timeout_grace: float) -> None:
        self._celery = celery
        self._grace = hard_timeout_grace
        self._template = lru_cache(maxsize=1000)(self._make_template)

    def options(self, job: Mapping[Any, Any]) -> dict[str, Any]:
        """What `send_task` is to be called with for the job (`id`, `type`, `queue`, `timeout_seconds`).

        Nothing of the job's arguments travels. The hard time limit does, because Celery's parent process enforces it
        even where the handler blocks every thread of its own; the timeout itself is the pool process' to keep, which
        knows when the attempt began.
        """
        return {
            "name": job["type"],
            "task_id": str(job["id"]),
            "queue": job["queue"],
            "time_limit": job["timeout_seconds"] + self._grace,
            "ignore_result": True,
            "retry": False,
        }

    def write(self, job: Mapping[Any, Any]) -> str:
        """The message as it lies in Redis. Every message has a delivery tag of its own, or prefetch limits fail."""
        template = self._template(job["type"], job["queue"], job["timeout_seconds"])
        return template.replace(_ID, str(job["id"])).replace(_TAG, str(uuid4()))

    def _make_template(self, type_: str, queue: str, timeout_seconds: int) -> str:
        """One message sent by Celery over kombu's in-memory transport, which frames messages as Redis' does."""
        job = {"id": UUID(_ID), "type": type_, "queue": queue, "timeout_seconds": timeout_seconds}
        with Connection("memory://") as connection:
            with connection.Producer(auto_declare=False) as producer:
                self._celery.send_task(**self.options(job), producer=producer)
            message = connection.default_channel._get(queue)  # noqa: SLF001 - what lies in the queue, undecoded
        message["properties"]["delivery_tag"] = _TAG
        return str(dumps(message))
