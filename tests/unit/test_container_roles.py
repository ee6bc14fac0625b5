"""What a container becomes, and how it says that it is well."""

import os
import time
from pathlib import Path

import pytest

from deploy import commands
from deploy.docker import entrypoint, health
from service.queues import Queue
from tests.support.ports import closed_port


def test_a_worker_consumes_the_queues_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES", "bulk")
    monkeypatch.setenv("WORKER_PROCESSES", "2")

    assert entrypoint.worker() == commands.worker(name="bulk", queues=[Queue.BULK], concurrency=2)


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "millrace-left").mkdir()
    (tmp_path / "millrace-left" / "table.parquet").touch()
    (tmp_path / "other").touch()

    entrypoint.remove_scratch(tmp_path)
    entrypoint.remove_scratch(tmp_path / "not there")

    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_worker_that_is_told_nothing_consumes_every_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKER_QUEUES", raising=False)

    assert f"--queues={','.join(Queue)}" in entrypoint.worker()


@pytest.mark.parametrize(
    ("role", "variable", "value"),
    [
        (entrypoint.worker, "WORKER_QUEUES", "no-such-queue"),
        (entrypoint.worker, "WORKER_PROCESSES", "0"),
        (entrypoint.api, "API_WORKERS", "many"),
        (entrypoint.flower, "FLOWER_BASIC_AUTH", "no-password"),
    ],
)
def test_a_bad_setting_of_a_role_is_refused(
    monkeypatch: pytest.MonkeyPatch, role: object, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert callable(role)

    with pytest.raises(ValueError, match=value if variable != "FLOWER_BASIC_AUTH" else "open to anyone"):
        role()


def test_flower_takes_its_login_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("operator:from-a-file\n")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "")
    monkeypatch.setenv("FLOWER_BASIC_AUTH_FILE", str(file))

    assert entrypoint.flower() == commands.FLOWER
    assert os.environ["FLOWER_BASIC_AUTH"] == "operator:from-a-file"


def test_a_heartbeat_is_missed_when_there_is_none_or_an_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    monkeypatch.setenv("MILLRACE_HEARTBEAT_FILE", str(file))

    assert health.heartbeat_complaint() == "no heartbeat yet"
    file.touch()
    assert health.heartbeat_complaint() is None
    long_ago = time.time() - health.OLDEST_SECONDS - 10
    os.utime(file, (long_ago, long_ago))
    assert health.heartbeat_complaint() == "the last heartbeat was 30 s ago"


def test_an_address_where_nobody_answers_is_not_well() -> None:
    with closed_port() as port:
        complaint = health.http_complaint(f"http://127.0.0.1:{port}/readyz")

    assert complaint is not None
    assert complaint.startswith("did not answer")
