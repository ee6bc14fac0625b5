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

# What reads as a UUID in a text, with dashes or without.
UUID_PATTERN = "-?".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12))

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

# An upload, or a file whose job is gone, that no unfinished job names in its arguments: wherever in them, for they are
# kept as they were sent, with capitals or without dashes. Unfinished jobs are read once, and only if something is due.
_PRUNE_ARTIFACTS = text(
    f"""
    WITH named AS MATERIALIZED (
        SELECT tenant_id, CAST(found[1] AS uuid) AS id
          FROM jobs, regexp_matches(lower(CAST(args AS text)), '{UUID_PATTERN}', 'g') AS found
         WHERE state IN ({UNFINISHED_SQL})
    )
    DELETE FROM artifacts
     WHERE id IN (SELECT artifacts.id FROM artifacts LEFT JOIN named USING (tenant_id, id)
                   WHERE artifacts.{_MADE_BEFORE} AND created_at < clock_timestamp() - make_interval(days => :days)
                     AND named.id IS NULL AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = artifacts.job_id)
                   ORDER BY artifacts.id LIMIT :at_most FOR UPDATE OF artifacts SKIP LOCKED)
    RETURNING storage_key
    """  # noqa: S608
)

_PRUNE_TICKS = text(
    """
    DELETE FROM schedule_ticks USING schedules
     WHERE schedule_id = schedules.id AND slot < clock_timestamp() - make_interval(days => :days)
    """
)
_PRUNE_REPAIRS = text("DELETE FROM repairs WHERE hour < clock_timestamp() - make_interval(days => :days)")
_PRUNE_NODES = text("DELETE FROM worker_nodes WHERE seen_at < clock_timestamp() - make_interval(days => 1)")


def prune(*, days: int, idempotency_hours: int, at_most: int = 1000) -> int:
    """Delete a batch of jobs and one of idempotency keys; returns how many went. Call again while that is not zero."""
    with transaction() as session:
        jobs = session.execute(_PRUNE_JOBS, {"days": days, "at_most": at_most})
        deleted = int(jobs.rowcount)  # type: ignore[attr-defined] # a DELETE's result has it
    with transaction() as session:
        keys = session.execute(_PRUNE_KEYS, {"hours": idempotency_hours, "at_most": at_most})
        deleted += int(keys.rowcount)  # type: ignore[attr-defined]
    return deleted


def prune_artifacts(storage: ArtifactStorage, *, days: int, at_most: int = 50_000) -> int:
    """Delete uploads and dead jobs' files that are old enough, rows and bytes; returns how many.

    Where any is, it reads the arguments of all unfinished jobs, some ten seconds for a million: not for every minute.
    """
    with transaction() as session:
        files = session.execute(_PRUNE_ARTIFACTS, {"days": days, "at_most": at_most}).scalars().all()
    storage.delete_all(files)  # after the commit: a file without a row is waste, a row without a file would be a lie
    return len(files)


def prune_records(*, days: int) -> None:
    """Delete what schedules, repairs and workers that are gone have left behind."""
    with transaction() as session:
        session.execute(_PRUNE_TICKS, {"days": days})
        session.execute(_PRUNE_REPAIRS, {"days": days})
        session.execute(_PRUNE_NODES)


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
        orphans = [key for key in keys if key not in known]
        storage.delete_all(orphans)
        deleted += len(orphans)
    return deleted
