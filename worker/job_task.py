"""`@job`: turns a plain function into a job type that Celery can run."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from marshmallow import Schema

from service.jobs.types import Handler, JobType, RetryPolicy, registry
from service.queues import Queue
from worker.context import PermanentFailure


def job(
    name: str,
    *,
    args: type[Schema],
    queue: Queue = Queue.DEFAULT,
    timeout: int = 60,
    max_attempts: int = 5,
    autoretry_for: tuple[type[Exception], ...] = (Exception,),
    retry_backoff: int = 1,
    retry_backoff_max: int = 600,
    retry_jitter: bool = True,
    example: Mapping[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of job type `name`, and return it unchanged."""

    def register(handler: Handler) -> Handler:
        registry.add(
            JobType(
                name=name,
                args=args,
                handler=handler,
                queue=queue,
                timeout_seconds=timeout,
                max_attempts=max_attempts,
                retry=RetryPolicy(
                    autoretry_for=autoretry_for,
                    dont_autoretry_for=(PermanentFailure,),
                    retry_backoff=retry_backoff,
                    retry_backoff_max=retry_backoff_max,
                    retry_jitter=retry_jitter,
                ),
                description=inspect.getdoc(handler) or "",
                example=example or {},
            )
        )
        return handler

    return register
