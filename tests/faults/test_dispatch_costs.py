"""What one round of the clock reads, with few jobs waiting and with very many: the same, and on an index."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from flask import Flask
from psycopg.rows import tuple_row
from sqlalchemy import event

from service.extensions import db
from service.jobs.dispatch import Dispatched, Dispatcher, promote
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


class PlanReader:
    """Explains every statement, with what it really read, just before it is executed."""

    def __init__(self) -> None:
        self.pages: Counter[str] = Counter()
        """Pages read or found in memory, by statement."""
        self.whole_scans: list[str] = []
        """Statements that read all of `jobs`."""

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
        if any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "jobs" for node in nodes(plan)):
            self.whole_scans.append(statement)


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


@pytest.mark.parametrize("many", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_ring_costs_no_more_however_many_jobs_are_queued(app: Flask, many: int) -> None:
    for number in range(TENANTS):
        KeyClient(app, f"tenant-{number}")

    with_few, _ = pages_per_ring(app, FEW)
    with_many, whole_scans = pages_per_ring(app, many)

    assert not whole_scans
    assert with_many < ALLOWED * with_few
