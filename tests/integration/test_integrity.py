"""The integrity report finds what is wrong, and nothing else."""

from typing import Any
from uuid import UUID

import pytest
import redis
from click.testing import CliRunner
from flask import Flask
from sqlalchemy import text

from service.accounts.scopes import Scope
from service.cli import cli
from service.clock_lease import acquire_clock
from service.jobs.execution import claim
from service.jobs.integrity import Line, check_integrity
from service.jobs.rescue import rescue
from service.transaction import transaction
from tests.support.client import KeyClient


def report(app: Flask) -> dict[str, Line]:
    with app.app_context():
        return {line.name: line for line in check_integrity(app.extensions["celery"])}


def change(app: Flask, statement: str, **values: Any) -> None:
    with app.app_context(), transaction() as session:
        session.execute(text(statement), values)


def running_job(client: KeyClient) -> str:
    job_id: str = client.submit()["id"]
    with client.app.app_context():
        assert claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10)
    return job_id


ZEROES = [
    "leases overdue",
    "due but not queued",
    "past their expiry",
    "rung long ago",
    "final jobs with open attempts",
    "events with gaps",
]


def test_a_sound_installation_has_nothing_broken_but_the_missing_workers(app: Flask, client: KeyClient) -> None:
    with app.app_context():
        acquire_clock("test", seconds=30)
    running_job(client)

    lines = report(app)

    assert {name: lines[name].verdict for name in [*ZEROES, "clock", "maxmemory-policy"]} == dict.fromkeys(
        [*ZEROES, "clock", "maxmemory-policy"], "ok"
    )


DAMAGE = {
    "leases overdue": "lease_until = now() - interval '1 minute'",
    "due but not queued": "state = 'retrying', lease_until = NULL, run_at = now() - interval '1 hour'",
    "past their expiry": "state = 'queued', lease_until = NULL, expires_at = now() - interval '1 hour'",
    "rung long ago": "state = 'queued', lease_until = NULL, ring_count = 9, rung_at = now() - interval '1 hour'",
    "final jobs with open attempts": "state = 'failed', lease_until = NULL, finished_at = now()",
    "events with gaps": "event_seq = event_seq + 1",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_found(app: Flask, client: KeyClient, name: str) -> None:
    running_job(client)
    assert report(app)[name].verdict == "ok"

    change(app, f"UPDATE jobs SET {DAMAGE[name]}")  # noqa: S608 - our own constants

    found = report(app)[name]
    assert (found.verdict, found.found) == ("broken", "1")


def test_a_missing_clock_and_missing_workers_are_found(app: Flask, client: KeyClient) -> None:
    client.submit()

    lines = report(app)

    assert lines["clock"].verdict == "broken"
    assert lines["workers of default"].verdict == "broken"  # a job waits for one
    assert lines["workers of bulk"].verdict == "warning"


def test_repairs_are_counted(app: Flask, client: KeyClient) -> None:
    running_job(client)
    change(app, "UPDATE jobs SET lease_until = now() - interval '1 minute'")
    with app.app_context():
        rescue()

    assert report(app)["rescued in the last day"].found == "1"


def test_foreign_messages_and_a_forgetful_broker_are_warned_of(app: Flask, config: dict[str, Any]) -> None:
    with redis.Redis.from_url(config["BROKER_URL"]) as broker:
        broker.rpush("default", "garbage", '{"headers": {"id": "00000000-0000-0000-0000-000000000000"}}')
        broker.config_set("maxmemory-policy", "allkeys-lru")
        try:
            lines = report(app)
        finally:
            broker.config_set("maxmemory-policy", "noeviction")

    assert (lines["messages without a job"].verdict, lines["messages without a job"].found) == ("warning", "2")
    assert lines["maxmemory-policy"].verdict == "warning"


def test_the_report_is_for_operators(app: Flask) -> None:
    operator = KeyClient(app, "operations", scopes=(Scope.OPERATOR,))

    tenant = KeyClient(app, "acme", scopes=tuple(scope for scope in Scope if scope is not Scope.OPERATOR))
    assert tenant.get("/admin/integrity").status_code == 403
    answer = operator.get("/admin/integrity").get_json()
    assert answer["sound"] is False  # there is no clock here
    assert {"name", "verdict", "found", "meaning", "to_do"} == set(answer["lines"][0])


def test_the_doctors_exit_code_tells(app: Flask, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in config.items():
        monkeypatch.setenv(f"MILLRACE_{name}", str(value).lower() if isinstance(value, bool) else str(value))

    result = CliRunner().invoke(cli, ["doctor"])

    assert result.exit_code == 1
    assert "no beat acts" in result.output
