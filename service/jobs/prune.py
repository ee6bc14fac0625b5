"""Prune: delete what is past its time, in small batches that hold no lock for long."""

from itertools import islice

from sqlalchemy import text

from service.artifacts.storage import ArtifactStorage
from service.jobs.queries import FINAL_SQL
from service.transaction import reading, transaction

# Ids are UUIDv7, so the primary key finds the oldest jobs: no index on a time is needed. Attempts and events go along.
_PRUNE_JOBS = text(
    f"""
    DELETE FROM jobs
     WHERE id IN (SELECT id FROM jobs
                   WHERE state IN ({FINAL_SQL}) AND finished_at < clock_timestamp() - make_interval(days => :days)
                     AND created_at < clock_timestamp() - make_interval(days => :days)
                   ORDER BY id LIMIT :at_most FOR UPDATE SKIP LOCKED)
    """  # noqa: S608 - only constants of ours are put in
)

_PRUNE_KEYS = text(
    """
    DELETE FROM idempotency_keys
     WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys
                                 WHERE created_at < statement_timestamp() - make_interval(hours => :hours)
                                 ORDER BY created_at LIMIT :at_most FOR UPDATE SKIP LOCKED)
       AND created_at < clock_timestamp() - make_interval(hours => :hours)
    """
)

# An upload, or a file whose job is gone, that no unfinished job names in its arguments.
_PRUNE_ARTIFACTS = text(
    """
    DELETE FROM artifacts
     WHERE id IN (SELECT id FROM artifacts
                   WHERE created_at < clock_timestamp() - make_interval(days => :days)
                     AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = artifacts.job_id)
                     AND NOT EXISTS (SELECT FROM jobs
                                      WHERE jobs.tenant_id = artifacts.tenant_id
                                        AND jobs.state IN ('scheduled', 'queued', 'waiting', 'running', 'retrying')
                                        AND jobs.args @> jsonb_build_object('artifact_id', artifacts.id))
                   ORDER BY id LIMIT :at_most FOR UPDATE SKIP LOCKED)
    RETURNING storage_key
    """
)

_PRUNE_NODES = text("DELETE FROM worker_nodes WHERE seen_at < clock_timestamp() - make_interval(days => 1)")


def prune(storage: ArtifactStorage, *, days: int, idempotency_hours: int, at_most: int = 1000) -> int:
    """Delete one batch of each kind; returns how many rows went. Call again while that is not zero."""
    with transaction() as session:
        jobs = session.execute(_PRUNE_JOBS, {"days": days, "at_most": at_most})
        deleted = int(jobs.rowcount)  # type: ignore[attr-defined] # a DELETE's result has it
    with transaction() as session:
        keys = session.execute(_PRUNE_KEYS, {"hours": idempotency_hours, "at_most": at_most})
        deleted += int(keys.rowcount)  # type: ignore[attr-defined]
        session.execute(_PRUNE_NODES)
    with transaction() as session:
        files = session.execute(_PRUNE_ARTIFACTS, {"days": days, "at_most": at_most}).scalars().all()
    for key in files:  # after the commit: a file without a row is waste, a row without a file would be a lie
        storage.delete(key)
    return deleted + len(files)


ORPHAN_SECONDS = 24 * 3600.0
"""A file that has no row after so long never gets one: the attempt that wrote it is over."""

_KNOWN_KEYS = text("SELECT storage_key FROM artifacts WHERE storage_key = ANY(CAST(:keys AS text[]))")


def prune_orphans(storage: ArtifactStorage, *, batch: int = 500) -> int:
    """Delete files of attempts that died between writing a file and committing its row; returns how many."""
    deleted = 0
    old = storage.older_than(ORPHAN_SECONDS)
    while keys := list(islice(old, batch)):
        with reading() as session:
            known = set(session.execute(_KNOWN_KEYS, {"keys": keys}).scalars())
        for key in keys:
            if key not in known:
                storage.delete(key)
                deleted += 1
    return deleted
