"""What the paths that everything runs through ask of the servers, exactly: a change that asks for more fails here.

A figure that falls is a gain: write the new one down. One that grows wants a reason, and a benchmark.
"""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from service.ids import uuid7
from service.statements import Statement
from service.transaction import execute_alone, transaction
from tests.support.attempts import finish
from tests.support.client import KeyClient
from tests.support.costs import CostCounter, Costs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libpq writes protocol traces on Linux only")

WARM_CALLS = 8
"""psycopg prepares a statement on a connection once it was executed five times."""


Measure = Callable[[Callable[[], Any]], Costs]


@pytest.fixture
def app(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The service, watched from its first connection on."""
    app.extensions["costs"] = CostCounter(tmp_path / "trace")
    app.extensions["costs"].watch(app, monkeypatch)
    return app


@pytest.fixture
def costs_of(app: Flask) -> Measure:
    """What a call costs once everything is warm: connected, prepared, cached."""

    def measure(act: Callable[[], Any]) -> Costs:
        for _ in range(WARM_CALLS):
            act()
        counter: CostCounter = app.extensions["costs"]
        return counter.of(act)

    return measure


def test_submitting(client: KeyClient, costs_of: Measure) -> None:
    spent = costs_of(lambda: client.submit(args={"value": 1}))

    assert spent == Costs(statements=1, begins=0, database_round_trips=1, redis_round_trips=1)


def test_submitting_with_an_idempotency_key(client: KeyClient, costs_of: Measure) -> None:
    numbers = count()

    spent = costs_of(lambda: submit_with_key(client, f"key-{next(numbers)}"))

    assert spent == Costs(statements=1, begins=0, database_round_trips=1, redis_round_trips=1)


def test_repeating_a_submission(client: KeyClient, costs_of: Measure) -> None:
    spent = costs_of(lambda: submit_with_key(client, "always-the-same"))

    assert spent == Costs(statements=5, begins=1, database_round_trips=7, redis_round_trips=0)


def test_looking_at_a_queued_job(client: KeyClient, costs_of: Measure) -> None:
    job = client.submit()

    spent = costs_of(lambda: client.job(job["id"]))

    assert spent == Costs(statements=2, begins=0, database_round_trips=2, redis_round_trips=0)


def test_looking_at_a_job_that_has_ended(app: Flask, client: KeyClient, costs_of: Measure) -> None:
    job = client.submit()
    finish(app, job["id"])

    spent = costs_of(lambda: client.job(job["id"]))

    assert spent == Costs(statements=1, begins=0, database_round_trips=1, redis_round_trips=0)


@pytest.mark.parametrize("rows", [1, 50])
def test_listing_jobs_costs_the_same_however_many(client: KeyClient, costs_of: Measure, rows: int) -> None:
    for _ in range(rows):
        client.submit()

    spent = costs_of(lambda: page_of(client, rows))

    assert spent == Costs(statements=2, begins=0, database_round_trips=2, redis_round_trips=0)


def test_running_a_job(app: Flask, client: KeyClient, costs_of: Measure) -> None:
    jobs = iter([client.submit()["id"] for _ in range(WARM_CALLS + 1)])

    spent = costs_of(lambda: finish(app, next(jobs)))

    assert spent == Costs(statements=2, begins=0, database_round_trips=2, redis_round_trips=0)


def test_cancelling_a_queued_job(client: KeyClient, costs_of: Measure) -> None:
    jobs = iter([client.submit()["id"] for _ in range(WARM_CALLS + 1)])

    spent = costs_of(lambda: cancelled(client, next(jobs)))

    assert spent == Costs(statements=2, begins=1, database_round_trips=4, redis_round_trips=0)


def test_what_is_planned_while_tables_are_tiny_reads_no_table_whole(app: Flask, client: KeyClient) -> None:
    client.submit()
    with app.app_context(), transaction() as session:
        session.execute(text("ANALYZE jobs"))

    with app.app_context(), transaction() as session:
        plan = session.execute(text("EXPLAIN SELECT state FROM jobs WHERE id = :id"), {"id": uuid7()}).scalars().all()
    alone = [row["enable_seqscan"] for row in in_app(app, lambda: execute_alone(Statement("SHOW enable_seqscan"), {}))]

    assert plan[0].startswith("Index Scan")
    assert alone == ["off"]


def submit_with_key(client: KeyClient, key: str) -> None:
    response = client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": key})
    assert response.status_code == 202, response.text


def page_of(client: KeyClient, rows: int) -> None:
    response = client.get("/jobs?limit=50")
    assert len(response.get_json()["items"]) == rows


def cancelled(client: KeyClient, job_id: str) -> None:
    response = client.post(f"/jobs/{job_id}/cancel")
    assert response.status_code == 200, response.text


def in_app(app: Flask, act: Callable[[], Any]) -> Any:
    with app.app_context():
        return act()
