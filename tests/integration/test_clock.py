"""One round of the clock: what one step cannot do keeps no other from its work."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from beat import scheduler
from beat.scheduler import ClockScheduler
from service.jobs.prune import prune
from tests.support.client import KeyClient
from tests.support.database import execute

STEPS = ("expire", "rescue", "promote", "prune", "prune_artifacts", "prune_records", "prune_orphans")


@pytest.fixture
def clock(app: Flask) -> Iterator[ClockScheduler]:
    clock = ClockScheduler(app.extensions["celery"], lazy=True)
    yield clock
    clock.close()


def fail(*_: Any, **__: Any) -> None:
    raise ValueError("a step that cannot be taken")


@pytest.mark.parametrize("step", [*STEPS, "add_builtin_schedules"])
def test_a_step_that_fails_keeps_no_other_from_its_work(
    app: Flask, client: KeyClient, clock: ClockScheduler, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    client.submit(delay=0.001)
    monkeypatch.setattr(scheduler, step, fail)
    taken: list[str] = []
    for other in {*STEPS} - {step}:
        monkeypatch.setattr(scheduler, other, lambda *_, other=other, **__: taken.append(other))
    monkeypatch.setattr(clock._dispatcher, "round", lambda: taken.append("round"))

    clock.tick()

    assert sorted(taken) == sorted({*STEPS, "round"} - {step})


def test_a_step_that_fails_round_after_round_is_told_once_a_minute(
    clock: ClockScheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler, "rescue", fail)

    for _ in range(5):
        clock.tick()

    assert len([record for record in caplog.records if "could not rescue jobs" in record.getMessage()]) == 1


def test_a_round_ends_where_the_database_cannot_be_reached(
    clock: ClockScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_connection() -> None:
        raise OperationalError("SELECT 1", None, ConnectionResetError("gone"))

    taken: list[str] = []
    monkeypatch.setattr(scheduler, "expire", lose_connection)
    monkeypatch.setattr(scheduler, "rescue", lambda: taken.append("rescue"))

    assert clock.tick() == 1.0
    assert not taken


def test_what_is_due_goes_in_as_many_rounds_as_it_takes(
    app: Flask, client: KeyClient, clock: ClockScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": str(number)})
    execute(app, "UPDATE idempotency_keys SET created_at = created_at - interval '40 days'")
    monkeypatch.setattr(scheduler, "prune", lambda **values: prune(**values, at_most=1))
    monkeypatch.setattr(scheduler, "PRUNING_SECONDS", 0.0001)

    for _ in range(10):
        clock.tick()

    assert execute(app, "SELECT count(*) FROM idempotency_keys")[0][0] == 0
