"""Job types and their registry: the contract that the API, the worker and the docs share. Pure: no Flask, no Celery."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from marshmallow import Schema

from service.queues import Queue

Handler = Callable[..., Any]


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is tried again: Celery's own options, by Celery's names. Times in seconds."""

    autoretry_for: tuple[type[Exception], ...] = (Exception,)
    dont_autoretry_for: tuple[type[Exception], ...] = ()
    retry_backoff: int = 1
    """First delay; it doubles with each attempt."""
    retry_backoff_max: int = 600
    retry_jitter: bool = True


@dataclass(frozen=True)
class JobType:
    """A kind of job: its name, the schema of its arguments, its policy and the handler that runs it."""

    name: str
    args: type[Schema]
    handler: Handler
    queue: Queue
    timeout_seconds: int
    max_attempts: int
    retry: RetryPolicy
    description: str
    max_running: int | None = None
    """Most jobs of this type that run at a time, over all workers; an operator's rule overrides it."""
    max_running_per_key: int = 1
    """Most jobs of one tenant and `concurrency_key` that run at a time."""
    rate: tuple[int, float] | None = None
    """At most so many starts per so many seconds; an operator's rule overrides it."""
    example: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def schema(self) -> Schema:
        """The schema of the arguments, made once: making one costs more than validating with it."""
        return self.args()

    @property
    def is_limited(self) -> bool:
        """Whether the type itself declares a limit, so that only the dispatcher, which counts, may ring its jobs."""
        return self.max_running is not None or self.rate is not None


class UnknownJobType(LookupError):
    """No job type of that name is registered."""


class JobTypeRegistry:
    """The job types of this process, by name. Two types of one name are a mistake, found at start."""

    def __init__(self) -> None:
        self._types: dict[str, JobType] = {}

    def add(self, job_type: JobType) -> None:
        """Register a type. Raises ValueError if another handler already has the name."""
        known = self._types.get(job_type.name)
        if known is not None and known.handler.__module__ != job_type.handler.__module__:
            raise ValueError(
                f"The job type {job_type.name!r} is defined twice: "
                f"in {known.handler.__module__} and in {job_type.handler.__module__}."
            )
        self._types[job_type.name] = job_type

    def get(self, name: str) -> JobType:
        """The type of that name. Raises UnknownJobType."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownJobType(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[JobType]:
        return iter(sorted(self._types.values(), key=lambda job_type: job_type.name))

    def __len__(self) -> int:
        return len(self._types)


registry = JobTypeRegistry()
"""Filled by importing the modules of `worker.tasks` and the entry points `millrace.job_types`."""
