"""The supervisor on small commands: order, restarts, and how it stops."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.folder import process_exists
from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.supervisor import Part, StopRequested, Supervisor, stop_on_signals
from tests.support.waiting import wait_for

IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
TELLS_ITS_END = """
import signal, sys, time
def end(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


class Told:
    """What the supervisor said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def supervisor(told: Told) -> Iterator[Supervisor]:
    supervisor = Supervisor(told)
    yield supervisor
    supervisor.stop()


def part(name: str, folder: Path, *command: str, ready: bool = False, grace: float = 5.0) -> Part:
    """A part that runs the command; with `ready` it counts as ready once it has printed that word."""
    log = folder / f"{name}.log"

    def start() -> GuardedProcess:
        with log.open("ab") as output:
            return GuardedProcess.start(command, output=output)

    return Part(
        name,
        start,
        log,
        is_ready=lambda: not ready or "ready" in log.read_text(),
        stop_grace_seconds=grace,
    )


def check_until_back(supervisor: Supervisor, name: str, old: int) -> int:
    def look() -> int | None:
        supervisor.check()
        new = supervisor.pids.get(name)
        return new if new != old else None

    return wait_for(look, seconds=10, what=f"another process for {name}")


def test_a_part_that_dies_runs_again_and_it_is_told(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    restarts: list[dict[str, int]] = []
    supervisor.on_restart = lambda: restarts.append(supervisor.pids)
    supervisor.start(part("sleeper", tmp_path, "/bin/sleep", "600"))
    first = supervisor.pids["sleeper"]

    os.kill(first, signal.SIGKILL)
    second = check_until_back(supervisor, "sleeper", first)

    assert process_exists(second)
    assert restarts == [{"sleeper": second}]
    assert "sleeper ended (killed by SIGKILL); starting it again in 0.5 s" in told.lines[0]
    assert f"sleeper runs again (process {second})" in told.lines[1]


def test_a_part_that_dies_again_and_again_waits_longer_each_time(
    supervisor: Supervisor, told: Told, tmp_path: Path
) -> None:
    supervisor.start(part("failing", tmp_path, "/bin/sh", "-c", "exit 7"))

    def deaths() -> list[str]:
        supervisor.check()
        return [line for line in told.lines if "exit code 7" in line][2:]

    wait_for(deaths, what="three deaths")

    backoffs = [line.partition("again in ")[2].partition(" s.")[0] for line in told.lines if "exit code 7" in line]
    assert backoffs[:3] == ["0.5", "1", "2"]


def test_who_ends_while_starting_is_named_with_the_end_of_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(part("steady", tmp_path, "/bin/sleep", "600"))
    supervisor.start(
        part("broken", tmp_path, "/bin/sh", "-c", "echo first; echo 'the setting X is bad'; exit 3", ready=True)
    )

    with pytest.raises(StartFailure, match=r"broken ended while it started \(exit code 3\)(.|\n)*the setting X is bad"):
        supervisor.wait_until_ready()


def test_parts_stop_in_the_reverse_order_of_their_start(supervisor: Supervisor, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    for name in ("first", "second", "third"):
        supervisor.start(part(name, tmp_path, sys.executable, "-c", TELLS_ITS_END, str(ends), name, ready=True))
    supervisor.wait_until_ready()
    pids = list(supervisor.pids.values())

    supervisor.stop()

    assert ends.read_text().split() == ["third", "second", "first"]
    assert [pid for pid in pids if process_exists(pid)] == []


def test_who_does_not_stop_within_the_grace_is_killed(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    supervisor.start(part("stubborn", tmp_path, sys.executable, "-c", IGNORES_TERM, ready=True, grace=0.2))
    supervisor.wait_until_ready()
    pid = supervisor.pids["stubborn"]

    supervisor.stop()

    assert not process_exists(pid)
    assert told.lines == ["stubborn did not stop within 0.2 s; killing it."]


def test_a_second_signal_while_stopping_kills_the_rest_at_once(
    supervisor: Supervisor, told: Told, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        supervisor.start(part(name, tmp_path, sys.executable, "-c", IGNORES_TERM, ready=True, grace=60.0))
    supervisor.wait_until_ready()
    pids = list(supervisor.pids.values())
    began = time.monotonic()

    with stop_on_signals():
        impatient = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}"])
        supervisor.stop()
        impatient.wait()

    assert [pid for pid in pids if process_exists(pid)] == []
    assert told.lines == ["Stopping at once."]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_requests_the_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with pytest.raises(StopRequested), stop_on_signals():
        signal.raise_signal(number)

    assert signal.getsignal(number) is before


def test_a_command_that_cannot_be_started_again_is_tried_later(
    supervisor: Supervisor, told: Told, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    supervisor.start(part("moved", tmp_path, str(program)))
    first = supervisor.pids["moved"]
    program.rename(tmp_path / "elsewhere")
    os.kill(first, signal.SIGKILL)

    def look() -> list[str]:
        supervisor.check()
        return [line for line in told.lines if line.startswith("Cannot start")]

    wait_for(look, what="the failed start")
    (tmp_path / "elsewhere").rename(program)

    assert process_exists(check_until_back(supervisor, "moved", first))
