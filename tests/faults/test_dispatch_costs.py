"""What one round of the clock reads, with few jobs waiting and with very many: the same, and on an index."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from psycopg.rows import tuple_row
from sqlalchemy import event

from service.artifacts.storage import ArtifactStorage
from service.extensions import db
from service.jobs.dispatch import Dispatched, Dispatcher, promote
from service.jobs.prune import prune
from service.jobs.rescue import expire, rescue
from service.jobs.ring import Bell
from service.queues import Queue
from service.transaction import reading
from tests.support.client import KeyClient
from tests.support.database import execute

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

WINDOW = 100
TENANTS = 5
FEW = 1_000
AT_A_TIME = 100_000
"""Most jobs put in with one statement, whose time is bounded."""
ROUNDS = 5
"""Each leaves dead rows behind, which the next has to get past."""
ALLOWED = 1.5
"""A larger index is deeper by a page or two."""
DEEPER = 4
"""The same in pages, for two indexes that are looked into once."""


class PlanReader:
    """Explains every statement, with what it really read, just before it is executed."""

    def __init__(self) -> None:
        self.pages: Counter[str] = Counter()
        """Pages read or found in memory, by statement."""
        self.whole_scans: list[str] = []
        """Statements that read all of `jobs` or `artifacts`."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For the length of the block, which must be inside an app context."""
        engine = db.engine
        event.listen(engine, "before_cursor_execute", self._explain)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", self._explain)

    def _explain(self, _connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        driver: psycopg.Connection[Any] = cursor.connection
        with driver.transaction(force_rollback=True), driver.cursor(row_factory=tuple_row) as own:
            own.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            found = own.fetchone()
        assert found is not None
        plan = found[0][0]["Plan"]
        self.pages[statement.strip()] += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        if any(is_whole_scan(node) for node in nodes(plan)):
            self.whole_scans.append(statement)


def is_whole_scan(node: dict[str, Any]) -> bool:
    """Whether this node of a plan has read all of a table that grows."""
    if node["Node Type"] != "Seq Scan" or not node["Actual Loops"]:
        return False
    return node["Relation Name"] in {"jobs", "artifacts"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes, from the top."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


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


def store_young(app: Flask, count: int) -> None:
    """Finished jobs and uploads of the last week, their ids as old as they are. As a vacuum leaves them."""
    milliseconds = "CAST(EXTRACT(epoch FROM at) * 1000 AS bigint)"
    made = f"""
        (SELECT CAST(lpad(to_hex({milliseconds}), 12, '0') || lpad(to_hex(n), 20, '0') AS uuid) AS id,
                tenants.id AS tenant_id, n, at
           FROM (SELECT n, clock_timestamp() - n * interval '7 days' / :count AS at
                   FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n) AS moment,
                (SELECT id FROM tenants LIMIT 1) AS tenants) AS made
    """  # noqa: S608 - only our own text is put in
    for first in range(1, count + 1, AT_A_TIME):
        bounds = {"count": count, "first": first, "last": min(first + AT_A_TIME - 1, count)}
        execute(
            app,
            f"""
            INSERT INTO jobs (id, tenant_id, type, queue, state, args, max_attempts, timeout_seconds, created_at,
                              finished_at)
            SELECT id, tenant_id, 'test.echo', 'default', 'succeeded', '{{}}', 3, 60, at, at FROM {made}
            """,  # noqa: S608
            **bounds,
        )
        execute(
            app,
            f"""
            INSERT INTO artifacts (id, tenant_id, name, content_type, size, sha256, storage_key, created_at)
            SELECT id, tenant_id, 'table.csv', 'text/csv', 1, '', CAST(n AS text), at FROM {made}
            """,  # noqa: S608
            **bounds,
        )
    with app.app_context(), reading() as session:
        session.connection().exec_driver_sql("VACUUM (ANALYZE) jobs, artifacts")


def pages_per_pruning(app: Flask, count: int) -> tuple[int, list[str]]:
    """What it reads to find that nothing is due; and who read a whole table."""
    execute(app, "TRUNCATE jobs, artifacts CASCADE")
    store_young(app, count)
    reader = PlanReader()
    with app.app_context(), reader.watching():
        deleted = prune(ArtifactStorage(Path(app.config["ARTIFACT_DIR"])), days=30, idempotency_hours=72)
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
