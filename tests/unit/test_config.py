"""Settings: where they come from, and every refusal to start with a bad one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from service.app import BOOT_FAILED, create_app
from service.config import BOUNDS, BadSetting, Defaults, check_environment, load_config, unknown_in_environment

GOOD: dict[str, Any] = {
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1/none",
    "BROKER_URL": "redis://127.0.0.1/0",
    "SECRET_KEY": "only-for-tests-and-at-least-32-characters",
    "ARTIFACT_DIR": "/nonexistent",
}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings shines through."""
    for name in vars(Defaults):
        monkeypatch.delenv(f"MILLRACE_{name}", raising=False)
        monkeypatch.delenv(f"MILLRACE_{name}_FILE", raising=False)
    monkeypatch.delenv("MILLRACE_DEBUG", raising=False)


def loaded(**overrides: Any) -> Any:
    app = Flask("test")
    load_config(app, "api", {**GOOD, **overrides})
    return app.config


def test_the_four_that_have_no_default_are_enough() -> None:
    config = loaded()

    assert {name: config[name] for name in GOOD} == GOOD
    assert config["WAIT_MAX_SECONDS"] == Defaults.WAIT_MAX_SECONDS


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_one_is_named(name: str) -> None:
    with pytest.raises(BadSetting, match=rf"^Not set: MILLRACE_{name}\."):
        loaded(**{name: ""})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"SECRET_KEY": "x" * 31}, "MILLRACE_SECRET_KEY is shorter than 32 characters"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1/none"}, "MILLRACE_DATABASE_URL must begin with"),
        ({"DATABASE_URL": "sqlite://"}, "MILLRACE_DATABASE_URL must begin with"),
        ({"ARTIFACT_DIR": "var/artifacts"}, "MILLRACE_ARTIFACT_DIR must be an absolute path"),
        ({"LEASE_SECONDS": 14.0, "LEASE_RENEW_SECONDS": 5.0}, "MILLRACE_LEASE_SECONDS must be at least three times"),
        ({"LOG_FORMAT": "xml"}, "MILLRACE_LOG_FORMAT must be json or text"),
        ({"DEBUG": True}, "DEBUG is on in production"),
        ({"SECRET_KEY": 12345678901234567890123456789012}, "MILLRACE_SECRET_KEY must be text, not int. Quote it"),
        ({"DOCS_ENABLED": "False"}, "MILLRACE_DOCS_ENABLED must be true or false, not 'False'"),
        ({"DOCS_ENABLED": 1}, "MILLRACE_DOCS_ENABLED must be true or false, not 1"),
        ({"DISPATCH_WINDOW": 10.5}, "MILLRACE_DISPATCH_WINDOW must be a whole number, not 10.5"),
        ({"DISPATCH_WINDOW": True}, "MILLRACE_DISPATCH_WINDOW must be a whole number, not True"),
        ({"LEASE_SECONDS": "30s"}, "MILLRACE_LEASE_SECONDS must be a number, not '30s'"),
        ({"LEASE_SECONDS": True}, "MILLRACE_LEASE_SECONDS must be a number, not True"),
        ({"LEASE_SECONDS": -1.0}, "MILLRACE_LEASE_SECONDS must be from 1 to 3,600, not -1.0"),
        ({"LEASE_SECONDS": float("nan")}, "MILLRACE_LEASE_SECONDS must be from 1 to 3,600, not nan"),
        ({"RETENTION_DAYS": 10**12}, "MILLRACE_RETENTION_DAYS must be from 1 to 36,500"),
        ({"DISPATCH_WINDOW": 0}, "MILLRACE_DISPATCH_WINDOW must be from 1 to 10,000,000, not 0"),
        ({"BROKER_URL": "localhost:6379"}, "MILLRACE_BROKER_URL must begin with redis:// or rediss:// or sentinel://"),
        ({"RETENTION_DAYS": 2}, "MILLRACE_RETENTION_DAYS must cover MILLRACE_IDEMPOTENCY_HOURS (72)"),
        ({"LOG_LEVEL": "LOUD"}, "MILLRACE_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR"),
    ],
)
def test_a_bad_one_refuses_to_start_and_says_why(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSetting) as refused:
        loaded(**settings)

    assert says in str(refused.value)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(BadSetting) as refused:
        loaded(LEASE_SECONDS="30s", DISPATCH_WINDOW=0, SECRET_KEY="", BROKER_URL="")

    lines = str(refused.value).splitlines()
    assert [line.split()[0] for line in lines] == ["MILLRACE_LEASE_SECONDS", "MILLRACE_DISPATCH_WINDOW", "Not"]
    assert "MILLRACE_BROKER_URL, MILLRACE_SECRET_KEY" in lines[2]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_SECRET_KEY", "1" * 40)

    with pytest.raises(BadSetting) as refused:
        load_config(Flask("test"), "api", {name: value for name, value in GOOD.items() if name != "SECRET_KEY"})

    assert "1" * 40 not in str(refused.value)


def test_every_number_has_bounds_and_its_default_lies_within() -> None:
    numbers = {
        name: value
        for name, value in vars(Defaults).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

    assert numbers.keys() == BOUNDS.keys()
    assert all(BOUNDS[name][0] <= value <= BOUNDS[name][1] for name, value in numbers.items())


def test_a_variable_that_is_no_setting_is_named_with_what_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETENTION_DAY", "DATABASE_URL_FILE", "PORT", "DEBUG", "CELERY__x", "ZZZ"):
        monkeypatch.setenv(f"MILLRACE_{name}", "1")

    assert unknown_in_environment() == [
        "MILLRACE_RETENTION_DAY is no setting of this release, and has no effect. Is MILLRACE_RETENTION_DAYS meant?",
        "MILLRACE_ZZZ is no setting of this release, and has no effect.",
    ]


def test_what_will_be_added_need_not_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    check_environment(**GOOD)
    monkeypatch.setenv("MILLRACE_BROKER_URL", "http://127.0.0.1")

    with pytest.raises(BadSetting, match="MILLRACE_BROKER_URL must begin"):
        check_environment(**GOOD)


@pytest.mark.parametrize("module", ["worker.app", "beat.app", "service.app:start()"])
def test_a_process_with_a_bad_setting_ends_with_a_line_and_no_traceback(module: str) -> None:
    name, _, call = module.partition(":")
    code = f"import {name}" + (f"; {name}.{call}" if call else "")
    environment = {**os.environ, "MILLRACE_DISPATCH_WINDOW": "0"}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == BOOT_FAILED
    assert done.stderr.splitlines()[0].startswith("millrace: MILLRACE_DISPATCH_WINDOW must be from 1")
    assert "Traceback" not in done.stderr


def test_debugging_is_allowed_outside_of_production() -> None:
    assert loaded(DEBUG=True, ENVIRONMENT="development")["DEBUG"] is True


def test_a_whole_number_will_do_for_a_number() -> None:
    assert loaded(LEASE_SECONDS=60)["LEASE_SECONDS"] == 60


def test_the_environment_is_read_as_json_where_it_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MILLRACE_DOCS_ENABLED": "false",
        "MILLRACE_DISPATCH_WINDOW": "7",
        "MILLRACE_SENTRY_DSN": "https://key@sentry.example/1",
    }.items():
        monkeypatch.setenv(name, value)

    config = loaded()

    assert (config["DOCS_ENABLED"], config["DISPATCH_WINDOW"]) == (False, 7)
    assert config["SENTRY_DSN"] == "https://key@sentry.example/1"


def test_an_all_digit_secret_from_the_environment_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**GOOD, "SECRET_KEY": "1" * 40}.items():
        monkeypatch.setenv(f"MILLRACE_{name}", value)

    with pytest.raises(BadSetting, match=r"MILLRACE_SECRET_KEY must be text, not int\. Quote it"):
        load_config(Flask("test"), "api", None)

    monkeypatch.setenv("MILLRACE_SECRET_KEY", f'"{"1" * 40}"')
    app = Flask("test")
    load_config(app, "api", None)
    assert app.config["SECRET_KEY"] == "1" * 40


def test_another_prefix_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DOCS_ENABLED", "false")
    monkeypatch.setenv("DOCS_ENABLED", "false")

    assert loaded()["DOCS_ENABLED"] is True


def test_the_argument_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://production/main")
    monkeypatch.setenv("MILLRACE_DISPATCH_WINDOW", "7")

    config = loaded(DISPATCH_WINDOW=8)

    assert config["SQLALCHEMY_DATABASE_URI"] == GOOD["DATABASE_URL"]
    assert config["DISPATCH_WINDOW"] == 8


def test_a_nested_variable_does_not_reach_another_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CELERY__broker_url", "redis://elsewhere/0")

    assert loaded()["CELERY"]["broker_url"] == GOOD["BROKER_URL"]


def test_two_apps_of_one_process_stay_independent(tmp_path: Path) -> None:
    first = create_app({**GOOD, "TESTING": True, "MAX_CONTENT_LENGTH": 1000})
    second = create_app({**GOOD, "TESTING": True, "BROKER_URL": "redis://127.0.0.2/0", "DOCS_ENABLED": False})

    first.config["CELERY"]["task_queues"].clear()

    assert second.config["MAX_CONTENT_LENGTH"] == Defaults.MAX_CONTENT_LENGTH
    assert second.config["CELERY"]["task_queues"]
    celery = {app: app.extensions["celery"] for app in (first, second)}
    assert celery[first].conf.broker_url == GOOD["BROKER_URL"]
    assert celery[second].conf.broker_url == "redis://127.0.0.2/0"
    assert "api-docs" in first.blueprints
    assert "api-docs" not in second.blueprints
    assert first.extensions["openapi"] is not second.extensions["openapi"]
