"""Handlers that do what no handler should: the job ends in a clear error within its limits, and the worker lives."""

from pathlib import Path

import psutil
import pytest

from tests.faults.job_types import MISBEHAVIOURS
from tests.faults.one_job import effects, outcomes, submit, wait_for_end
from tests.faults.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]

ENDS = {
    "hang": ("failed", "timeout"),
    "block the GIL": ("failed", "timeout"),
    "kill itself": ("failed", "process_lost"),
    "crash": ("failed", "process_lost"),
    "leave at once": ("failed", "process_lost"),
    "leave": ("failed", "SystemExit"),
    "interrupt": ("failed", "KeyboardInterrupt"),
    "recurse": ("failed", "RecursionError"),
    "close the connection": ("failed", "OperationalError"),
    "end the backend": ("failed", "OperationalError"),
    "leave a transaction open": ("succeeded", None),
    "return an object": ("failed", "bad_result"),
    "return too much": ("failed", "bad_result"),
    "return a surrogate": ("failed", "bad_result"),
    "raise unprintable": ("failed", "Unprintable"),
    "raise with NUL": ("failed", "permanent_failure"),
    "raise with surrogate": ("failed", "permanent_failure"),
    "report odd progress": ("succeeded", None),
    "fork": ("succeeded", None),
}
"""How each misbehaviour ends, and the kind of its error."""


def test_every_misbehaviour_ends_clearly_and_the_worker_goes_on(stack: Stack, tmp_path: Path) -> None:
    worker = stack.processes["worker-1"]
    jobs = {how: submit(stack, "fault.misbehave", args={"how": how, "path": str(tmp_path / "pids")}) for how in ENDS}

    ended = {how: wait_for_end(stack, job_id, seconds=150) for how, job_id in jobs.items()}

    found = {how: (job["state"], job["error"] and job["error"]["type"]) for how, job in ended.items()}
    assert found == ENDS
    assert worker.is_running
    assert all(job["attempt"] <= job["max_attempts"] for job in ended.values())
    assert effects(stack, jobs["leave a transaction open"]) == 0
    assert wait_for_end(stack, submit(stack))["state"] == "succeeded"
    # The fork's child came back from the handler, too, and ended there.
    assert outcomes(stack, jobs["fork"]) == ["succeeded"]
    assert not any(map(psutil.pid_exists, map(int, (tmp_path / "pids").read_text().split())))


def test_a_memory_hog_fails_and_the_worker_lives(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # Idle, its processes have a quarter of this; far more than this could not be filled within the type's timeout.
    monkeypatch.setenv("FAULTS_MEMORY_BYTES", str(768 << 20))
    worker = stack.restart("worker-1", HEARTBEAT_FILE="")
    monkeypatch.delenv("FAULTS_MEMORY_BYTES")

    hog = wait_for_end(stack, submit(stack, "fault.misbehave", args={"how": "eat memory"}), seconds=90)

    assert hog["state"] == "failed"
    assert hog["error"]["type"] in {"MemoryError", "process_lost"}
    assert worker.is_running
    assert wait_for_end(stack, submit(stack))["state"] == "succeeded"


def test_a_poison_job_fails_after_exactly_its_attempts(stack: Stack) -> None:
    job = wait_for_end(stack, submit(stack, args={"crashes": 99}, max_attempts=4), seconds=90)

    assert (job["state"], job["attempt"], job["error"]["type"]) == ("failed", 4, "process_lost")
    assert outcomes(stack, job["id"]) == ["lost"] * 4


def test_every_misbehaviour_has_an_expected_end() -> None:
    assert ENDS.keys() == MISBEHAVIOURS.keys() - {"eat memory"}
