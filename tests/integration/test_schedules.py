"""Schedules fire each slot once, whoever is the clock."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import RowMapping, text

from beat.timetable import TIMETABLE
from service.clock_lease import acquire_clock, release_clock
from service.ids import uuid7
from service.jobs.new_job import NewJob, check
from service.schedules import fire
from service.schedules.builtin import add_builtin_schedules
from service.schedules.fire import Firing
from service.transaction import reading, transaction
from tests.support.client import KeyClient


def add_schedule(client: KeyClient, *, next_slot_at: datetime, **values: Any) -> UUID:
    row = {
        "id": uuid7(),
        "tenant_id": client.key.tenant_id,
        "type": "test.echo",
        "args": "{}",
        "every_seconds": 60,
        "catch_up": "latest",
        "next_slot_at": next_slot_at,
        **values,
    }
    with client.app.app_context(), transaction() as session:
        session.execute(
            text(
                """
                INSERT INTO schedules (id, tenant_id, name, type, args, every_seconds, catch_up, next_slot_at)
                VALUES (:id, :tenant_id, CAST(:id AS text), :type, CAST(:args AS jsonb), :every_seconds, :catch_up,
                        :next_slot_at)
                """
            ),
            row,
        )
    assert isinstance(row["id"], UUID)
    return row["id"]


def ticks(app: Flask, schedule: UUID) -> list[RowMapping]:
    statement = text("SELECT slot, outcome, job_id FROM schedule_ticks WHERE schedule_id = :id ORDER BY slot")
    with app.app_context(), reading() as session:
        return list(session.execute(statement, {"id": schedule}).mappings())


def minutes_ago(minutes: int) -> datetime:
    """A slot of a 60 s schedule, so many minutes back."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return now - timedelta(minutes=minutes)


def test_a_due_schedule_makes_a_job_and_moves_on(app: Flask, client: KeyClient) -> None:
    schedule = add_schedule(client, next_slot_at=minutes_ago(0))

    with app.app_context():
        fired = Firing().fire_due()
        assert Firing().fire_due() == []

    job = client.job(str(fired[0].job_id))
    assert (job["type"], job["schedule_id"]) == ("test.echo", str(schedule))


def test_clocks_side_by_side_fire_each_slot_once(app: Flask, client: KeyClient) -> None:
    schedules = [add_schedule(client, next_slot_at=minutes_ago(3), catch_up="all") for _ in range(5)]

    def tick(_: int) -> None:
        with app.app_context():
            Firing().fire_due()

    with ThreadPoolExecutor(4) as clocks:
        list(clocks.map(tick, range(8)))

    for schedule in schedules:
        fired = ticks(app, schedule)
        assert [tick["outcome"] for tick in fired] == ["fired"] * 4
        assert len({tick["job_id"] for tick in fired}) == 4
    assert len(client.get("/jobs?limit=200").get_json()["items"]) == 20


@pytest.mark.parametrize(("catch_up", "outcomes"), [
    ("none", ["missed"] * 4 + ["fired"]),
    ("latest", ["missed"] * 4 + ["fired"]),
    ("all", ["fired"] * 5),
])  # fmt: skip
def test_slots_passed_while_no_clock_ran_follow_the_catch_up_rule(
    app: Flask, client: KeyClient, catch_up: str, outcomes: list[str]
) -> None:
    schedule = add_schedule(client, next_slot_at=minutes_ago(4), catch_up=catch_up)

    with app.app_context():
        Firing().fire_due()

    assert [tick["outcome"] for tick in ticks(app, schedule)] == outcomes


def test_without_catching_up_a_clock_that_was_down_past_the_last_slot_fires_nothing(
    app: Flask, client: KeyClient
) -> None:
    hourly = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    late = (datetime.now(UTC) - hourly) % timedelta(seconds=7200) > timedelta(seconds=70)
    schedule = add_schedule(client, next_slot_at=hourly, every_seconds=7200, catch_up="none")

    with app.app_context():
        fired = Firing().fire_due()

    assert bool(fired) is not late
    assert "missed" in [tick["outcome"] for tick in ticks(app, schedule)]


def test_a_slot_that_another_clock_fired_is_not_fired_again(app: Flask, client: KeyClient) -> None:
    slot = minutes_ago(0)
    schedule = add_schedule(client, next_slot_at=slot)
    with app.app_context():
        Firing().fire_due()
        with transaction() as session:  # as if the other clock's view of the schedule were stale
            session.execute(text("UPDATE schedules SET next_slot_at = :slot"), {"slot": slot})

        assert Firing().fire_due() == []

    assert len(ticks(app, schedule)) == 1


def test_a_schedule_whose_arguments_do_not_load_any_more_says_so(app: Flask, client: KeyClient) -> None:
    schedule = add_schedule(client, next_slot_at=minutes_ago(0), args='{"unknown": 1}')

    with app.app_context():
        assert Firing().fire_due() == []

    assert [tick["outcome"] for tick in ticks(app, schedule)] == ["failed"]


def test_a_schedule_that_cannot_be_fired_holds_up_no_other_and_is_told_once(
    app: Flask, client: KeyClient, caplog: pytest.LogCaptureFixture
) -> None:
    bad = add_schedule(client, next_slot_at=minutes_ago(2))
    good = add_schedule(client, next_slot_at=minutes_ago(0))
    damage = "UPDATE schedules SET timezone = 'Mars/Olympus', cron = '@daily', every_seconds = NULL WHERE id = :id"
    with app.app_context(), transaction() as session:
        session.execute(text(damage), {"id": bad})
    firing = Firing()

    with app.app_context():
        fired = [*firing.fire_due(), *firing.fire_due()]

    assert [job.schedule_id for job in fired] == [good]
    assert ticks(app, bad) == []
    assert len([record for record in caplog.records if str(bad) in record.getMessage()]) == 1


def test_a_schedule_that_is_far_behind_lets_the_others_have_their_turn(
    app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fire, "CATCH_UP_LIMIT", 2)
    behind = add_schedule(client, next_slot_at=minutes_ago(6), catch_up="all")
    other = add_schedule(client, next_slot_at=minutes_ago(0))

    with app.app_context():
        fired = [job.schedule_id for job in Firing().fire_due()]

    assert fired.index(other) == 2
    assert fired.count(behind) in {7, 8}  # a minute may pass meanwhile
    assert {tick["outcome"] for tick in ticks(app, behind)} == {"fired"}


@pytest.mark.parametrize("entry", TIMETABLE, ids=lambda entry: entry.name)
def test_every_built_in_schedule_names_a_job_type_whose_arguments_load(app: Flask, entry: Any) -> None:
    with app.app_context():
        assert check(NewJob(type=entry.type, args=dict(entry.args))).name == entry.type


def test_every_tenant_gets_the_built_in_schedules_once(app: Flask, client: KeyClient, other_client: KeyClient) -> None:
    with app.app_context():
        assert add_builtin_schedules(TIMETABLE) == 2 * len(TIMETABLE)
        assert add_builtin_schedules(TIMETABLE) == 0


def test_one_of_several_beats_is_the_clock(app: Flask) -> None:
    with app.app_context():
        assert acquire_clock("first", seconds=30)
        assert not acquire_clock("second", seconds=30)
        assert acquire_clock("first", seconds=30)
        release_clock("first")
        assert acquire_clock("second", seconds=30)
        assert not acquire_clock("first", seconds=30)


def test_a_clock_that_died_is_followed_when_its_lease_runs_out(app: Flask) -> None:
    with app.app_context():
        assert acquire_clock("dead", seconds=-1)

        assert acquire_clock("heir", seconds=30)
