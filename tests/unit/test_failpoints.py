"""Failpoints do what the setting says, where it says so, and are refused in production."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from service.app import create_app
from service.config import BadSetting
from service.failpoints import BadFailpoint, arm, failpoint, parse


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def fires(name: str, moment: str) -> bool:
    """Whether the point stumbles as a lost connection would, and says which it is."""
    try:
        failpoint(name, moment)
    except OperationalError as error:
        return f"{name}.{moment}" in str(error)
    return False


def test_without_a_setting_nothing_happens_even_where_something_did() -> None:
    arm("submit.before_commit=raise")
    assert fires("submit", "before_commit")

    arm("")

    assert not fires("submit", "before_commit")


def test_only_the_named_point_stumbles_and_as_a_lost_connection() -> None:
    arm("submit.after_commit=raise")

    assert not fires("submit", "before_commit")
    assert fires("submit", "after_commit")


def test_a_point_may_stumble_in_its_own_way() -> None:
    arm("ring.after=raise")

    with pytest.raises(ConnectionResetError):
        failpoint("ring", "after", error=ConnectionResetError)


def test_times_bounds_how_often_it_fires() -> None:
    arm("ring.after=raise,times=2")

    assert [fires("ring", "after") for _ in range(4)] == [True, True, False, False]


def test_a_token_lets_it_fire_once_over_all_processes(tmp_path: Path) -> None:
    token = tmp_path / "once"
    token.touch()
    arm(f"ring.after=raise,token={token}")

    assert fires("ring", "after")
    assert not token.exists()
    assert not fires("ring", "after")


def test_a_probability_of_zero_never_fires_and_one_of_one_always_does() -> None:
    arm("ring.before=raise,p=0; ring.after=raise,p=1")

    assert not any(fires("ring", "before") for _ in range(20))
    assert all(fires("ring", "after") for _ in range(20))


@pytest.mark.parametrize(
    "setting", ["nowhere", "a.b=explode", "a.b=sleep:soon", "a.b=exit,when=later", "a.b=exit,p=often"]
)
def test_what_does_not_read_as_failpoints_is_refused(setting: str) -> None:
    with pytest.raises(BadFailpoint):
        parse(setting)


@pytest.mark.parametrize(("setting", "environment"), [("a.b=exit", "production"), ("nonsense", "test")])
def test_the_service_does_not_start_with_failpoints_in_production_or_bad_ones(setting: str, environment: str) -> None:
    config: dict[str, Any] = {
        "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1/none",
        "BROKER_URL": "redis://127.0.0.1/0",
        "SECRET_KEY": "x" * 32,
        "ARTIFACT_DIR": "/nonexistent",
        "ENVIRONMENT": environment,
        "FAILPOINTS": setting,
        "TESTING": True,
        "DEBUG": False,
    }
    with pytest.raises(BadSetting, match="FAILPOINTS"):
        create_app(config)
