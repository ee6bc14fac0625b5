"""What a client asks for, and whether it makes sense."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from marshmallow import ValidationError

from service.jobs.types import JobType, UnknownJobType, registry
from service.queues import Queue

_QUEUES = frozenset(map(str, Queue))
OnConflict = Literal["use_existing", "reject", "replace"]


@dataclass(frozen=True)
class NewJob:
    """What a client asks for; None means: as the job type says. Times in seconds."""

    type: str
    args: dict[str, Any]
    queue: str | None = None
    priority: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    expires_at: datetime | None = None
    timeout: int | None = None
    max_attempts: int | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    on_conflict: OnConflict = "use_existing"
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    origin_id: UUID | None = None
    schedule_id: UUID | None = None


@dataclass(frozen=True)
class Idempotency:
    """A client's key, the fingerprint of the request that it came with, and how long keys are kept, in hours."""

    key: str
    fingerprint: bytes
    kept_hours: int


class InvalidJob(Exception):
    """The request names what does not exist or breaks the job type's schema. `errors` are shaped like the body."""

    def __init__(self, errors: dict[str, Any]) -> None:
        super().__init__("The job is not valid.")
        self.errors = errors


def check(new: NewJob) -> JobType:
    """The job's type, once the request is found valid. Raises InvalidJob."""
    try:
        job_type = registry.get(new.type)
    except UnknownJobType:
        known = ", ".join(known.name for known in registry)
        raise InvalidJob({"type": [f"There is no job type {new.type!r}. There are: {known}."]}) from None
    if new.queue is not None and new.queue not in _QUEUES:
        raise InvalidJob({"queue": [f"There is no queue {new.queue!r}. There are: {', '.join(Queue)}."]})
    try:
        job_type.schema.load(new.args)
    except ValidationError as error:
        raise InvalidJob({"args": error.normalized_messages()}) from None
    return job_type


def fingerprint(*parts: Any) -> bytes:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of what makes two requests the same."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()
