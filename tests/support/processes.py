"""Workers and beats as processes of their own, as in production."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from service.config import environment_with

WORKER = ("worker.app", "worker", "--queues", "default,bulk", "--without-gossip", "--without-mingle")
BEAT = ("beat.app", "beat", "--max-interval", "1")


class Process:
    """A process of ours, run from a module of the tests'; ends with the test."""

    def __init__(
        self,
        command: tuple[str, ...],
        config: Mapping[str, Any],
        log: Path,
        *,
        module: str = "tests.support.celery_command",
        **extra: Any,
    ) -> None:
        self.log = log
        environment = environment_with(_plain({**config, **extra, "TESTING": False}))
        environment["PYTHONPATH"] = str(Path.cwd())
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *command],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[int]:
        """The pool processes."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)

    def wait(self, seconds: float = 60) -> int:
        return self._process.wait(seconds)

    def end(self) -> None:
        """Make sure that nothing is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)


@contextmanager
def running(command: tuple[str, ...], config: Mapping[str, Any], log: Path, **extra: Any) -> Iterator[Process]:
    """The process for the length of the block; its log is printed when the block fails."""
    process = Process(command, config, log, **extra)
    try:
        yield process
    except BaseException:
        print(f"----- {log.name}\n{log.read_text()[-8000:]}")  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        process.end()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the environment can carry them."""
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in config.items()}
