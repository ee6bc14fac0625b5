"""Prune: delete what is past its time, in small batches that hold no lock for long."""

from itertools import islice

from sqlalchemy import text

from service.artifacts.storage import ArtifactStorage
from service.jobs.queries import FINAL_SQL, UNFINISHED_SQL
from service.transaction import reading, transaction

# A UUIDv7 begins with the milliseconds at which it was made. What ended or was stored before the cut-off has an id from
# before it, so the primary key finds all that can be due, and what is young is not read: no index on a time is needed.
# The id never decides, the database's times beside it do: where an API's clock is fast, its jobs stay as much longer.
# A retention that reaches back past 1970 keeps everything.
_MADE_BEFORE = """id < CAST(rpad(lpad(to_hex(CAST(GREATEST(EXTRACT(epoch FROM statement_timestamp()
                              - make_interval(days => :days)), 0) * 1000 AS bigint)), 12, '0'), 32, '0') AS uuid)"""

# Attempts and events go along.
_PRUNE_JOBS = text(
    f"""
    DELETE FROM jobs
     WHERE id IN (SELECT id FROM jobs
                   WHERE {_MADE_BEFORE}
                     AND state IN ({FINAL_SQL}) AND finished_at < clock_timestamp() - make_interval(days => :days)
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

# Arguments are kept as they were sent, and a UUID can be written with capitals, in braces, as a URN or without dashes.
_HEX_OF_ARTIFACT = "right(regexp_replace(lower(args ->> 'artifact_id'), '[^0-9a-f]', '', 'g'), 32)"

# An upload, or a file whose job is gone, that no unfinished job names in its arguments. `NOT IN` reads the unfinished
# jobs once, and only when something is due; a join would be planned for as many files as the statistics tell of.
_PRUNE_ARTIFACTS = text(
    f"""
    DELETE FROM artifacts
     WHERE id IN (SELECT id FROM artifacts
                   WHERE {_MADE_BEFORE} AND created_at < clock_timestamp() - make_interval(days => :days)
                     AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = artifacts.job_id)
                     AND (tenant_id, replace(CAST(id AS text), '-', '')) NOT IN
                         (SELECT tenant_id, {_HEX_OF_ARTIFACT} FROM jobs
                           WHERE state IN ({UNFINISHED_SQL}) AND jsonb_typeof(args -> 'artifact_id') = 'string')
                   ORDER BY id LIMIT :at_most FOR UPDATE SKIP LOCKED)
    RETURNING storage_key
    """  # noqa: S608
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
