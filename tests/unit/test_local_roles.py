"""The roles of the local stack: nothing secret on a command line, nothing open to the network."""

import json
import re
import shlex
from datetime import date
from pathlib import Path

from deploy.local import roles
from deploy.local.stack import Stack
from deploy.local.summary import curl_line

RUN = Path("/run/of/the/stack")


def all_roles() -> list[roles.Role]:
    flower = roles.flower(5555, RUN, user="operator", password="open-sesame")
    return [roles.api(8000), *roles.workers(RUN), roles.beat(RUN), flower]


def test_no_password_stands_on_a_command_line() -> None:
    assert [role.name for role in all_roles() if "open-sesame" in " ".join(role.command)] == []


def test_every_port_is_bound_to_loopback() -> None:
    api, flower = all_roles()[0], all_roles()[-1]

    assert "--bind=127.0.0.1:8000" in api.command
    assert flower.environment["FLOWER_ADDRESS"] == "127.0.0.1"


def test_flower_asks_for_credentials_and_changes_nothing() -> None:
    environment = all_roles()[-1].environment

    assert environment["FLOWER_BASIC_AUTH"] == "operator:open-sesame"
    assert environment["FLOWER_READ_ONLY"] == "true"
    assert environment["FLOWER_PERSISTENT"] == "true"
    assert environment["FLOWER_MAX_TASKS"] == "10000"


def test_a_worker_may_take_longer_to_stop_than_its_jobs_are_given() -> None:
    for role in roles.workers(RUN):
        assert role.stop_grace_seconds > roles.SHUTDOWN_GRACE_SECONDS


def test_every_role_has_a_name_of_its_own() -> None:
    names = [role.name for role in all_roles()]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)


def test_the_curl_line_is_one_shell_command_with_the_key() -> None:
    stack = Stack(
        api_url="http://127.0.0.1:8000/api/v1",
        api_key="mr_key",
        docs_url="",
        console_url="",
        flower_url="",
        database_url="",
        redis_url="",
        credentials={},
    )

    words = shlex.split(curl_line(stack, today=date(2026, 12, 31)))

    assert words[0] == "curl"
    assert "Authorization: Bearer mr_key" in words
    assert words[-1] == "http://127.0.0.1:8000/api/v1/jobs"
    job = json.loads(words[words.index("-d") + 1])
    assert job["args"] == {"since": "2026-12-31T00:00:00Z", "until": "2027-01-01T00:00:00Z"}
