"""The administrative commands of `millrace`, and what they tell."""

import re
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask

from service.cli import cli


@pytest.fixture(autouse=True)
def _settings_in_the_environment(app: Flask, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in config.items():
        monkeypatch.setenv(f"MILLRACE_{name}", str(value).lower() if isinstance(value, bool) else str(value))


def millrace(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1, result.output
    return result.output


def test_a_change_of_a_rule_tells_the_rule_as_it_is_now() -> None:
    assert "None yet" in millrace("rule", "list")

    assert millrace("rule", "pause", "queue", "bulk") == "queue bulk: paused\n"
    limited = millrace("rule", "limit", "type", "test.echo", "--max-running", "2", "--rate", "10", "60")
    assert limited == "type test.echo: at most 2 at a time, at most 10 per 60 s\n"
    assert set(millrace("rule", "list").splitlines()) == {"queue bulk: paused", limited.strip()}

    assert millrace("rule", "resume", "queue", "bulk") == "queue bulk: no rule holds it back\n"
    assert millrace("rule", "limit", "type", "test.echo") == "type test.echo: no rule holds it back\n"
    assert "None yet" in millrace("rule", "list")


def test_an_unknown_target_is_told_what_there_is() -> None:
    told = refusal("rule", "pause", "queue", "blk")

    assert "no queue or job type blk" in told
    assert "default, bulk" in told
    assert "table.report" in told


@pytest.mark.parametrize("part", [r"mr_[a-z2-7]+", r"mr_[a-z2-7]+_[a-z2-7]+", r"(?<=mr_)[a-z2-7]+"])
def test_a_key_is_revoked_by_its_prefix_or_as_a_whole(part: str) -> None:
    key = millrace("key", "create", "--tenant", "acme").split()[0]
    found = re.search(part, key)
    assert found is not None

    assert millrace("key", "revoke", found[0]).startswith("Revoked mr_")

    assert "There is no active key mr_" in refusal("key", "revoke", found[0])


def test_a_database_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://nobody:secret@127.0.0.1:1/none")

    told = refusal("rule", "list")

    assert told.startswith("Error: The database does not answer: ")
    assert "secret" not in told
    assert len(told.splitlines()) == 1
