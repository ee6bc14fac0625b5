"""Processes of a benchmark: they end with it, whatever happens, and their CPU time can be read."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from deploy.local.guarded import GuardedProcess

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0


class NotReady(Exception):
    """A process did not come up; the message has the end of its log."""


def environment_of(**values: str) -> dict[str, str]:
    """This process' environment with ours put in, and this checkout first in Python's path."""
    paths = [values.pop("PYTHONPATH", ""), str(ROOT)]
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **values,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


class Command:
    """A running command with its log."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = GuardedProcess.start(command, output=output, environment=environment, cwd=ROOT)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is ready. Raises NotReady when it ends before, or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotReady(f"{self.name} did not come up:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, cleanly if it can within ten seconds."""
        self._process.stop(signal.SIGTERM, grace_seconds=10)


def cpu_seconds(*pids: int) -> float:
    """CPU time that these processes and all below them have used so far, those that have ended included."""
    total = 0.0
    for pid in pids:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


def private_megabytes(pid: int) -> float:
    """Memory that ending this one process would free (its unique set)."""
    return float(psutil.Process(pid).memory_full_info().uss) / 1e6
