"""Which installation a command is about, where the user does not spell out its settings."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.engine_record import write_private
from deploy.local.folder import DataFolder, FolderLock
from deploy.local.stack_settings import NoSettings, settings_for_commands

OF_STACK = {
    "MILLRACE_DATABASE_URL": "postgresql+psycopg://millrace:pw_1@127.0.0.1:7001/millrace",
    "MILLRACE_BROKER_URL": "redis://:pw_2@127.0.0.1:7002/0",
    "MILLRACE_SECRET_KEY": "mr_" + "x" * 40,
    "MILLRACE_ARTIFACT_DIR": "/somewhere/artifacts",
    "MILLRACE_RETENTION_DAYS": "7",
}
ELSEWHERE = {name: f"{value}9" for name, value in OF_STACK.items()}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("MILLRACE_"):
            monkeypatch.delenv(name)


@contextmanager
def running_stack(name: str = "var") -> Iterator[None]:
    """A folder as a running stack has it."""
    folder = DataFolder.make(Path(name))
    lock = FolderLock.take(folder)
    write_private(folder.stack_file, json.dumps({"settings": OF_STACK}))
    yield
    lock.release()


def environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_any_the_stack_of_the_usual_folder_is_meant() -> None:
    with running_stack():
        settings = settings_for_commands(None)

    assert settings["DATABASE_URL"] == OF_STACK["MILLRACE_DATABASE_URL"]
    assert settings["RETENTION_DAYS"] == 7


def test_an_environment_that_has_all_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, ELSEWHERE)
    monkeypatch.delenv("MILLRACE_SECRET_KEY")
    monkeypatch.setenv("MILLRACE_SECRET_KEY_FILE", "/run/secrets/secret_key")

    with running_stack():
        assert settings_for_commands(None) == {}


def test_a_folder_that_is_named_is_meant_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, ELSEWHERE)

    with running_stack("other"):
        settings = settings_for_commands(Path("other"))

    assert settings["DATABASE_URL"] == OF_STACK["MILLRACE_DATABASE_URL"]


def test_the_variable_that_the_stack_was_started_with_may_still_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, {"MILLRACE_DATABASE_URL": OF_STACK["MILLRACE_DATABASE_URL"]})

    with running_stack():
        assert settings_for_commands(None)["BROKER_URL"] == OF_STACK["MILLRACE_BROKER_URL"]


@pytest.mark.parametrize("variable", ["MILLRACE_DATABASE_URL", "MILLRACE_BROKER_URL_FILE"])
def test_two_installations_are_never_mixed(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "something else")

    with running_stack(), pytest.raises(NoSettings, match=f"^{variable} in your environment is not that of the stack"):
        settings_for_commands(None)


def test_all_that_is_missing_is_told_at_once_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_SECRET_KEY", OF_STACK["MILLRACE_SECRET_KEY"])

    with pytest.raises(
        NoSettings,
        match=r"^Not set: MILLRACE_DATABASE_URL, MILLRACE_BROKER_URL, MILLRACE_ARTIFACT_DIR\. .*millrace up.*--dir",
    ):
        settings_for_commands(None)


def test_a_folder_without_a_running_stack_is_told() -> None:
    with running_stack("other"):
        pass

    with pytest.raises(NoSettings, match=r"^No stack runs on other\. Start it: .*millrace up --dir other$"):
        settings_for_commands(Path("other"))


def test_a_stack_that_is_not_ready_is_told() -> None:
    folder = DataFolder.make(Path("var"))
    lock = FolderLock.take(folder)

    with pytest.raises(NoSettings, match="is starting or stopping"):
        settings_for_commands(None)

    lock.release()
