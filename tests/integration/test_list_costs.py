"""What lists and reports read of a long history, in pages: as much as they tell, not as much as there is."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from service.jobs.activity import measure_activity
from service.transaction import snapshot
from tests.support.client import KeyClient
from tests.support.database import count_jobs, execute
from tests.support.history import store_history
from tests.support.plans import PlanReader

JOBS = 20_000
DAYS = 2_000
ENOUGH = 60
"""Pages. All of these jobs take some hundreds, with an index some more."""

LONG_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(days=DAYS / 2)


@pytest.fixture
def history(app: Flask, client: KeyClient) -> Flask:
    """The service where the client has long been a customer. One of its jobs failed, at the very beginning."""
    store_history(app, JOBS, days=DAYS)
    execute(app, "UPDATE jobs SET state = 'failed' WHERE id = (SELECT min(CAST(id AS text))::uuid FROM jobs)")
    assert count_jobs(app) == JOBS
    return app


def pages_read(app: Flask, act: Callable[[], Any]) -> int:
    reader = PlanReader()
    with app.app_context(), reader.watching():
        act()
    assert reader.pages, "nothing was asked of the database"
    return sum(reader.pages.values())


def moment(days: int) -> str:
    return (LONG_AGO + timedelta(days=days)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 50),
        ("state=failed", 1),
        ("state=failed&state=expired&state=cancelled", 1),
        ("state=queued&state=running", 0),
        ("schedule_id=0193d5a0-7c00-7000-8000-000000000000", 0),
        ("created_before={day}", 50),
        ("created_after={day}&created_before={two_days_later}", 20),
    ],
)
def test_a_list_reads_no_more_than_its_page(history: Flask, client: KeyClient, query: str, found: int) -> None:
    times = {"day": moment(0), "two_days_later": moment(2)}
    answers = []

    pages = pages_read(history, lambda: answers.append(client.get(f"/jobs?{query.format(**times)}")))

    assert len(answers[0].get_json()["items"]) == found
    assert pages < ENOUGH


def test_the_depth_of_queues_is_not_counted_over_history(history: Flask, client: KeyClient) -> None:
    assert pages_read(history, lambda: client.get("/queues")) < ENOUGH


def test_a_report_reads_its_period(history: Flask, client: KeyClient) -> None:
    measured = []

    def measure() -> None:
        with snapshot() as session:
            since, until = LONG_AGO, LONG_AGO + timedelta(days=2)
            measured.append(measure_activity(session, client.key.tenant_id, since=since, until=until))

    pages = pages_read(history, measure)

    assert measured[0].total.jobs == 20
    assert pages < 6 * ENOUGH  # it has as many statements
