"""What one round of the clock reads, with few jobs waiting and with very many: the same, and on an index."""

from pathlib import Path

import pytest
from flask import Flask

from service.artifacts.storage import ArtifactStorage
from service.jobs.dispatch import Dispatched, Dispatcher, promote
from service.jobs.prune import prune, prune_artifacts
from service.jobs.rescue import expire, rescue
from service.jobs.ring import Bell
from service.queues import Queue
from service.transaction import reading
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.history import AT_A_TIME, store_history
from tests.support.plans import PlanReader

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

WINDOW = 100
TENANTS = 5
FEW = 1_000
ROUNDS = 5
"""Each leaves dead rows behind, which the next has to get past."""
ALLOWED = 1.5
"""A larger index is deeper by a page or two."""
DEEPER = 4
"""The same in pages, for two indexes that are looked into once."""


def queue_jobs(app: Flask, count: int) -> None:
    """A backlog of several tenants; some are to start later, some may expire. As a vacuum leaves it."""
    for first in range(1, count + 1, AT_A_TIME):
        execute(
            app,
            """
            INSERT INTO jobs (id, tenant_id, type, queue, state, priority, args, max_attempts, timeout_seconds, run_at,
                              expires_at)
            SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), tenants.ids[1 + n % :tenants], 'test.echo', 'default',
                   CASE WHEN n % 10 = 0 THEN 'scheduled' ELSE 'queued' END, n % 3, '{}', 3, 60,
                   clock_timestamp() + CASE WHEN n % 10 = 0 THEN interval '1 hour' ELSE interval '0' END,
                   CASE WHEN n % 10 = 1 THEN clock_timestamp() + interval '1 hour' END
              FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n,
                   (SELECT array_agg(id ORDER BY id) AS ids FROM tenants) AS tenants
            """,
            first=first,
            last=min(first + AT_A_TIME - 1, count),
            tenants=TENANTS,
        )
    with app.app_context(), reading() as session:
        session.connection().exec_driver_sql("VACUUM (ANALYZE) jobs")


def pages_per_ring(app: Flask, queued: int) -> tuple[float, list[str]]:
    """What a round reads for each job that it rings, once some rounds have gone by; and who read the whole table."""
    execute(app, "TRUNCATE jobs CASCADE")
    queue_jobs(app, queued)
    reader = PlanReader()
    done: dict[Queue, Dispatched] = {}
    with app.app_context():
        dispatcher = Dispatcher(
            Bell(app.extensions["celery"], hard_timeout_grace=10), window=WINDOW, ring_again_seconds=30
        )
        for number in range(ROUNDS):
            if number:
                execute(
                    app,
                    "UPDATE jobs SET state = 'succeeded', finished_at = clock_timestamp() "
                    "WHERE state = 'queued' AND rung_at IS NOT NULL",
                )
            reader.pages.clear()
            with reader.watching():
                expire()
                rescue()
                promote()
                done = dispatcher.round()
    rung = sum(one.rung for one in done.values())
    assert rung == WINDOW
    print(f"{queued} queued: {sum(reader.pages.values()) / rung:.1f} pages per ring")  # noqa: T201 - its measurement
    return sum(reader.pages.values()) / rung, reader.whole_scans


def pages_per_pruning(app: Flask, count: int) -> tuple[int, list[str]]:
    """What it reads to find that nothing is due; and who read a whole table."""
    execute(app, "TRUNCATE jobs, artifacts CASCADE")
    store_history(app, count, days=7)
    storage = ArtifactStorage(Path(app.config["ARTIFACT_DIR"]))
    reader = PlanReader()
    with app.app_context(), reader.watching():
        deleted = prune(days=30, idempotency_hours=72) + prune_artifacts(storage, days=30)
    assert not deleted
    print(f"{count} young: {sum(reader.pages.values())} pages")  # noqa: T201 - its measurement
    return sum(reader.pages.values()), reader.whole_scans


@pytest.mark.parametrize("many", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_to_prune_costs_no_more_however_much_is_kept(app: Flask, many: int) -> None:
    KeyClient(app, "acme")

    with_few, _ = pages_per_pruning(app, FEW)
    with_many, whole_scans = pages_per_pruning(app, many)

    assert not whole_scans
    assert with_many <= with_few + DEEPER


@pytest.mark.parametrize("many", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_ring_costs_no_more_however_many_jobs_are_queued(app: Flask, many: int) -> None:
    for number in range(TENANTS):
        KeyClient(app, f"tenant-{number}")

    with_few, _ = pages_per_ring(app, FEW)
    with_many, whole_scans = pages_per_ring(app, many)

    assert not whole_scans
    assert with_many < ALLOWED * with_few
