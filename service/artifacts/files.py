"""Artifacts as jobs use them: find one of the tenant's, write the rows of new ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from service.artifacts.models import Artifact
from service.artifacts.storage import ArtifactStorage, StoredFile
from service.jobs.queries import UNFINISHED_SQL
from service.transaction import reading, transaction


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
    wanted = (
        select(Artifact.id, Artifact.name, Artifact.content_type, Artifact.size, Artifact.storage_key)
        .where(Artifact.tenant_id == tenant_id)
        .where(Artifact.id == artifact_id)
    )
    with reading() as session:
        row = session.execute(wanted).one_or_none()
    if row is None or not storage.path(row.storage_key).is_file():
        return None
    return FoundArtifact(row.id, row.name, row.content_type, row.size, storage.path(row.storage_key))


def insert_artifacts(session: Session, artifacts: Sequence[NewArtifact]) -> None:
    """Write the rows inside the caller's transaction: from its commit on the files exist for everybody."""
    if artifacts:
        session.execute(
            insert(Artifact),
            [
                {
                    "id": artifact.id,
                    "tenant_id": artifact.tenant_id,
                    "job_id": artifact.job_id,
                    "name": artifact.name,
                    "content_type": artifact.content_type,
                    "size": artifact.stored.size,
                    "sha256": artifact.stored.sha256,
                    "storage_key": artifact.stored.key,
                }
                for artifact in artifacts
            ],
        )


class ArtifactNotFound(LookupError):
    """The tenant has no artifact of that id."""


class ArtifactInUse(Exception):
    """An unfinished job names the artifact in its arguments; `job_id` is one such."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"The job {job_id} names the artifact.")
        self.job_id = job_id


def get_artifact(tenant_id: UUID, artifact_id: UUID) -> Artifact:
    """The tenant's artifact. Raises ArtifactNotFound."""
    with reading() as session:
        found = session.scalars(
            select(Artifact).where(Artifact.tenant_id == tenant_id, Artifact.id == artifact_id)
        ).one_or_none()
        if found is None:
            raise ArtifactNotFound
        session.expunge(found)
    return found


def artifacts_of_job(tenant_id: UUID, job_id: UUID) -> list[Artifact]:
    """What a job made, in order."""
    wanted = select(Artifact).where(Artifact.tenant_id == tenant_id, Artifact.job_id == job_id).order_by(Artifact.id)
    with reading() as session:
        found = list(session.scalars(wanted))
        session.expunge_all()
    return found


def add_upload(storage: ArtifactStorage, artifact: NewArtifact) -> Artifact:
    """Write the row of an uploaded file: from here on the artifact exists. Without a row the file is not kept."""
    try:
        with transaction() as session:
            insert_artifacts(session, [artifact])
    except BaseException:
        # Also where the commit's answer was lost: the client never learns this id, so nobody can ask for the file.
        storage.delete(artifact.stored.key)
        raise
    return get_artifact(artifact.tenant_id, artifact.id)


# The guard stands in the statement: a job that was submitted a moment ago keeps its file. Arguments are stored as they
# were sent, so the id may stand under any name, at any depth, in either case and without its dashes.
_DELETE = text(
    f"""
    WITH users AS (SELECT id FROM jobs
                    WHERE tenant_id = :tenant_id AND state IN ({UNFINISHED_SQL})
                      AND CAST(args AS text) ~* replace(CAST(:id AS text), '-', '-?')
                    LIMIT 1),
         gone AS (DELETE FROM artifacts
                   WHERE id = :id AND tenant_id = :tenant_id AND NOT EXISTS (SELECT FROM users)
                  RETURNING storage_key)
    SELECT (SELECT storage_key FROM gone) AS storage_key, (SELECT id FROM users) AS job_id
    """  # noqa: S608 - only constants of ours are put in
)


def delete_artifact(storage: ArtifactStorage, tenant_id: UUID, artifact_id: UUID) -> None:
    """Delete row and file. Raises ArtifactNotFound, or ArtifactInUse while an unfinished job names it."""
    with transaction() as session:
        key, job_id = session.execute(_DELETE, {"id": artifact_id, "tenant_id": tenant_id}).one()
    if key is None:
        get_artifact(tenant_id, artifact_id)
        raise ArtifactInUse(job_id)
    storage.delete(key)
