"""Settings that come from files: how secrets reach a container."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from service.config import BadSetting, load_config

SETTINGS = {
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1/none",
    "BROKER_URL": "redis://127.0.0.1/0",
    "SECRET_KEY": "only-for-tests-and-at-least-32-characters",
    "ARTIFACT_DIR": "/nonexistent",
}


def load(monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any], *, without: str = "") -> Flask:
    """An app configured by the environment alone."""
    settings = {f"MILLRACE_{name}": value for name, value in SETTINGS.items() if name != without}
    for name, value in {**settings, **environment}.items():
        monkeypatch.setenv(name, str(value))
    app = Flask(__name__)
    load_config(app, "api", None)
    return app


def test_a_setting_is_read_from_the_file_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "database_url"
    file.write_text("postgresql+psycopg://from:a-file@127.0.0.1/none\n")

    app = load(monkeypatch, {"MILLRACE_DATABASE_URL_FILE": file}, without="DATABASE_URL")

    assert app.config["DATABASE_URL"] == "postgresql+psycopg://from:a-file@127.0.0.1/none"
    assert app.config["SQLALCHEMY_DATABASE_URI"] == app.config["DATABASE_URL"]


def test_a_secret_of_digits_stays_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    file.write_text("12345678901234567890123456789012")

    app = load(monkeypatch, {"MILLRACE_SECRET_KEY_FILE": file}, without="SECRET_KEY")

    assert app.config["SECRET_KEY"] == "12345678901234567890123456789012"


def test_a_number_in_a_file_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "days"
    file.write_text("7\n")

    app = load(monkeypatch, {"MILLRACE_RETENTION_DAYS_FILE": file})

    assert app.config["RETENTION_DAYS"] == 7


def test_a_setting_that_is_a_file_is_not_taken_for_one_that_comes_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    app = load(monkeypatch, {"MILLRACE_HEARTBEAT_FILE": "/nonexistent/heartbeat"})

    assert app.config["HEARTBEAT_FILE"] == "/nonexistent/heartbeat"


def test_what_the_app_was_asked_for_wins_over_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    file.write_text("a-key-of-the-environment-of-the-machine")
    monkeypatch.setenv("MILLRACE_SECRET_KEY_FILE", str(file))
    app = Flask(__name__)

    load_config(app, "api", SETTINGS)

    assert app.config["SECRET_KEY"] == SETTINGS["SECRET_KEY"]


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"MILLRACE_SECRET_KEY_FILE": "/nonexistent/key"}, "MILLRACE_SECRET_KEY and MILLRACE_SECRET_KEY_FILE are both"),
        ({"MILLRACE_LOG_LEVEL_FILE": "/nonexistent/level"}, "/nonexistent/level, which cannot be read: No such file"),
    ],
    ids=["given twice", "no such file"],
)
def test_a_bad_file_setting_refuses_to_start(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(BadSetting, match=complaint):
        load(monkeypatch, environment)


def test_an_empty_secret_file_refuses_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    file.write_text("\n")

    with pytest.raises(BadSetting, match="Not set: MILLRACE_SECRET_KEY"):
        load(monkeypatch, {"MILLRACE_SECRET_KEY_FILE": file}, without="SECRET_KEY")
