"""Job types and their registry: the contract that the API, the worker and the docs share. Pure: no Flask, no Celery."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from marshmallow import Schema

from service.queues import Queue

Handler = Callable[..., Any]

NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
MAX_NAME_LENGTH = 100
MAX_TIMEOUT_SECONDS = 6 * 3600
MAX_ATTEMPTS = 100
"""What a client may ask for as well."""


class BadJobType(ValueError):
    """A job type is declared wrongly. The message names the type and says what is wrong and what would be right."""


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

    def __post_init__(self) -> None:
        """Raises BadJobType: a mistake in a declaration is found at start, not by the first client."""
        if fault := _fault(self):
            raise BadJobType(f"The job type {self.name!r} in {self.handler.__module__}: {fault}")

    @cached_property
    def schema(self) -> Schema:
        """The schema of the arguments, made once: making one costs more than validating with it."""
        return self.args()

    @property
    def is_limited(self) -> bool:
        """Whether the type itself declares a limit, so that only the dispatcher, which counts, may ring its jobs."""
        return self.max_running is not None or self.rate is not None


def _fault(declared: Any) -> str | None:
    """What is wrong with a JobType. Taken for anything at all: not everybody who declares one checks its types."""
    if not isinstance(declared.name, str) or len(declared.name) > MAX_NAME_LENGTH or not NAME.fullmatch(declared.name):
        return f"its name must be like text.count: a-z, 0-9, inner . _ -, at most {MAX_NAME_LENGTH} characters."
    if not isinstance(declared.args, type) or not issubclass(declared.args, Schema):
        return "args must be a class derived from marshmallow.Schema."
    if not isinstance(declared.queue, Queue):
        return f"queue must be one of {', '.join(Queue)}, not {declared.queue!r}."
    if not _is_whole(declared.timeout_seconds, 1, MAX_TIMEOUT_SECONDS):
        return f"timeout must be whole seconds from 1 to {MAX_TIMEOUT_SECONDS}, not {declared.timeout_seconds!r}."
    if not _is_whole(declared.max_attempts, 1, MAX_ATTEMPTS):
        return f"max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}, not {declared.max_attempts!r}."
    return _fault_of_retry(declared) or _fault_of_limits(declared) or _fault_of_example(declared)


def _fault_of_retry(declared: Any) -> str | None:
    retried = declared.retry.autoretry_for
    if not isinstance(retried, tuple) or not all(isinstance(kind, type) for kind in retried):
        return f"autoretry_for must be a tuple of exception classes, not {retried!r}."
    for option in ("retry_backoff", "retry_backoff_max"):
        if not _is_whole(value := getattr(declared.retry, option), 1):
            return f"{option} must be whole seconds from 1 on, not {value!r}."
    return None


def _fault_of_limits(declared: Any) -> str | None:
    if declared.max_running is not None and not _is_whole(declared.max_running, 1):
        return f"max_running must be a whole number from 1 on, or None, not {declared.max_running!r}."
    if not _is_whole(declared.max_running_per_key, 1):
        return f"max_running_per_key must be a whole number from 1 on, not {declared.max_running_per_key!r}."
    match declared.rate:
        case None:
            return None
        case (count, int() | float() as seconds) if _is_whole(count, 1) and seconds > 0:
            return None
    return f"rate must be (count, seconds), such as (10, 60.0), not {declared.rate!r}."


def _fault_of_example(declared: Any) -> str | None:
    faults = declared.schema.validate(dict(declared.example)) if declared.example else {}
    return f"its example does not fit its args: {faults}" if faults else None


def _is_whole(value: object, least: int, most: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


class UnknownJobType(LookupError):
    """No job type of that name is registered."""


class JobTypeRegistry:
    """The job types of this process, by name. Two types of one name are a mistake, found at start."""

    def __init__(self) -> None:
        self._types: dict[str, JobType] = {}

    def add(self, job_type: JobType) -> None:
        """Register a type. Raises BadJobType if another handler already has the name."""
        known = self._types.get(job_type.name)
        if known is not None and known.handler.__module__ != job_type.handler.__module__:
            raise BadJobType(
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
