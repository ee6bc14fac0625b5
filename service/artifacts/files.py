"""Artifacts as jobs use them: find one of the tenant's, describe a new one."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from service.artifacts.storage import ArtifactStorage, StoredFile


@dataclass(frozen=True)
class FoundArtifact:
    """A file that a job may read."""

    id: UUID
    name: str
    content_type: str
    size: int
    path: Path


@dataclass(frozen=True)
class NewArtifact:
    """A file in storage whose row is still to be written."""

    id: UUID
    tenant_id: UUID
    job_id: UUID | None
    name: str
    content_type: str
    stored: StoredFile


def find_artifact(storage: ArtifactStorage, *, tenant_id: UUID, artifact_id: UUID | str) -> FoundArtifact | None:
    """The tenant's artifact, or None where it has none of that id (or its file is gone)."""
    raise LookupError
