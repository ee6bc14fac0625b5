"""What a handler is given, and the ways in which it may end other than by returning."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from service.artifacts.files import FoundArtifact, NewArtifact, find_artifact
from service.artifacts.storage import ArtifactStorage
from service.ids import uuid7
from service.jobs.new_job import InvalidJob, NewJob, check
from service.jobs.submit import store
from service.jobs.types import JobType


class PermanentFailure(Exception):
    """The attempt failed in a way that no retry can mend: the job ends in `failed`.

    `kind` is a short stable word for programs (`job.error.type`); the message is for people.
    """

    def __init__(self, message: str, *, kind: str = "permanent_failure") -> None:
        super().__init__(message)
        self.kind = kind


class RetryLater(Exception):
    """The attempt failed, and the far side said when to come back, in seconds (`Retry-After`, for one)."""

    def __init__(self, message: str, *, after_seconds: float, kind: str = "retry_later") -> None:
        super().__init__(message)
        self.after_seconds = after_seconds
        self.kind = kind


Effect = Callable[[Session], None]


def storable(text: str) -> str:
    """The text with what PostgreSQL cannot hold (NUL, lone surrogates) replaced."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


@dataclass
class JobContext:
    """One attempt, as its handler sees it.

    What a handler registers here (artifacts, effects) is committed in the same transaction as the job's
    result, and only if this attempt still holds the job: an attempt that was overtaken leaves nothing behind.
    """

    job_id: UUID
    tenant_id: UUID
    job_type: str
    attempt: int
    max_attempts: int
    config: Mapping[str, Any]
    make_scratch: Callable[[], Path]
    storage: ArtifactStorage
    report_progress: Callable[[float, str], None]
    log: logging.LoggerAdapter[logging.Logger]
    """Writes log lines that carry the job's id and attempt. Never log arguments: they are the customer's."""
    artifacts: list[NewArtifact] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    @cached_property
    def scratch(self) -> Path:
        """An empty folder of this attempt's own, made when it is first asked for, removed when the attempt ends."""
        return self.make_scratch()

    def progress(self, percent: float, message: str = "") -> None:
        """Say how far the job is: 0 to 100, and a few words for people. Cheap; call it as often as you like."""
        shown = 0.0 if math.isnan(percent) else min(max(float(percent), 0.0), 100.0)
        self.report_progress(shown, storable(message[:500]))

    def open_artifact(self, artifact_id: UUID | str) -> FoundArtifact:
        """The uploaded or earlier made file of this tenant: `path`, `name`, `content_type`, `size`.

        Raises PermanentFailure when the tenant has no such artifact.
        """
        found = find_artifact(self.storage, tenant_id=self.tenant_id, artifact_id=artifact_id)
        if found is None:
            raise PermanentFailure(f"There is no artifact {artifact_id}.", kind="artifact_not_found")
        return found

    def save_artifact(self, name: str, content_type: str, source: Path | bytes) -> UUID:
        """Keep a file that this job made. It appears when the job succeeds, and only then; returns its id."""
        if isinstance(source, bytes):
            stored = self.storage.write([source])
        else:
            with source.open("rb") as stream:
                stored = self.storage.write(iter(lambda: stream.read(1 << 20), b""))
        artifact = NewArtifact(
            id=uuid7(),
            tenant_id=self.tenant_id,
            job_id=self.job_id,
            name=name,
            content_type=content_type,
            stored=stored,
        )
        self.artifacts.append(artifact)
        return artifact.id

    def submit(self, type_: str, args: dict[str, Any], **options: Any) -> None:
        """Submit another job of this tenant when, and only when, this one succeeds: in the same transaction.

        Options are those of `service.jobs.new_job.NewJob` (`queue`, `priority`, `delay`, `unique_key`, …). Raises
        PermanentFailure when the job is not valid.
        """
        new = NewJob(type=type_, args=args, **options)
        try:
            job_type = check(new)
        except InvalidJob as error:
            raise PermanentFailure(f"The job to submit is not valid: {error.errors}", kind="invalid_job") from None
        self.add_effect(lambda session: _store(session, self.tenant_id, new, job_type))

    def add_effect(self, effect: Effect) -> None:
        """Register rows to write with the result: `effect(session)` runs inside the finishing transaction.

        It must only use the session; a network call in there would hold the transaction open.
        """
        self.effects.append(effect)


def _store(session: Session, tenant_id: UUID, new: NewJob, job_type: JobType) -> None:
    """The dispatcher rings it: within a moment after the commit, and never before."""
    store(session, tenant_id, new, job_type)
