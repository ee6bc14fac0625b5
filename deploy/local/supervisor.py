"""Keeps the processes of a stack running: starts them in order, starts one again that died, stops all in reverse."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.logs import tail

READY_SECONDS = 120.0
POLL_SECONDS = 0.05
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""Who ran so long before it died starts again with the first, short backoff."""


class StopRequested(BaseException):
    """Somebody wants the stack to end: Ctrl-C, SIGTERM, or the terminal was closed. No error, hence no Exception."""


@dataclass
class Part:
    """One process of the stack and how to handle it. `start` may be called again after the process died."""

    name: str
    start: Callable[[], GuardedProcess]
    log: Path
    is_ready: Callable[[], bool] = lambda: True
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_seconds: float = 5.0


@dataclass
class _Running:
    part: Part
    process: GuardedProcess | None
    started_at: float
    deaths: int = 0
    start_again_at: float = 0.0


class Supervisor:
    """The running parts, in the order of their start. `say` gets one line for people on everything that happens."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stages: list[list[_Running]] = []
        self.on_restart: Callable[[], None] = lambda: None
        """Called when a part runs again under another process id."""

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the running parts by name."""
        return {running.part.name: running.process.pid for running in self._all() if running.process is not None}

    def start(self, *parts: Part) -> None:
        """Start these parts side by side. Raises StartFailure, with the end of its log, when one ends at once."""
        stage: list[_Running] = []
        self._stages.append(stage)
        for part in parts:
            part.log.touch(mode=0o600)
            began = time.monotonic()
            stage.append(_Running(part, part.start(), began))

    def wait_until_ready(self) -> None:
        """Wait for every part that was started. Raises StartFailure when one ends or takes over two minutes."""
        waiting = list(self._all())
        deadline = time.monotonic() + READY_SECONDS
        while waiting:
            for running in waiting:
                status = None if running.process is None else running.process.poll()
                if status is not None:
                    raise StartFailure(
                        f"{running.part.name} ended while it started ({_describe(status)}); "
                        f"the end of {running.part.log}:\n{tail(running.part.log)}"
                    )
            waiting = [running for running in waiting if not running.part.is_ready()]
            if time.monotonic() > deadline:
                late = waiting[0].part
                raise StartFailure(
                    f"{late.name} was not ready after {READY_SECONDS:.0f} s; the end of {late.log}:\n{tail(late.log)}"
                )
            if waiting:
                time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Start again whoever died, after a backoff that doubles. To be called a few times per second."""
        now = time.monotonic()
        for running in self._all():
            if running.process is not None:
                status = running.process.poll()
                if status is not None:
                    self._note_death(running, status, now)
            elif now >= running.start_again_at:
                self._start_again(running)

    def stop(self) -> None:
        """Stop everything, last started first; a second StopRequested on the way kills the rest at once."""
        try:
            for stage in reversed(self._stages):
                self._stop_side_by_side(stage)
        except StopRequested:
            self._say("Stopping at once.")
        finally:
            with signals_ignored():
                for running in self._all():
                    if running.process is not None:
                        running.process.kill_everything()
                self._stages.clear()

    def _all(self) -> Iterator[_Running]:
        for stage in self._stages:
            yield from stage

    def _note_death(self, running: _Running, status: int, now: float) -> None:
        if now - running.started_at >= STEADY_SECONDS:
            running.deaths = 0
        backoff = min(FIRST_BACKOFF_SECONDS * 2**running.deaths, LONGEST_BACKOFF_SECONDS)
        running.process = None
        running.deaths += 1
        running.start_again_at = now + backoff
        self._say(
            f"{running.part.name} ended ({_describe(status)}); starting it again in {backoff:g} s. "
            f"Its log: {running.part.log}"
        )

    def _start_again(self, running: _Running) -> None:
        running.started_at = time.monotonic()
        try:
            running.process = running.part.start()
        except StartFailure as failure:
            self._say(str(failure))
            backoff = min(FIRST_BACKOFF_SECONDS * 2**running.deaths, LONGEST_BACKOFF_SECONDS)
            running.deaths += 1
            running.start_again_at = time.monotonic() + backoff
        else:
            self._say(f"{running.part.name} runs again (process {running.process.pid}).")
            self.on_restart()

    def _stop_side_by_side(self, stage: Sequence[_Running]) -> None:
        alive = [(running.part, running.process) for running in stage if running.process is not None]
        for part, process in alive:
            process.send(part.stop_signal)
        began = time.monotonic()
        for part, process in alive:
            left = max(0.0, began + part.stop_grace_seconds - time.monotonic())
            try:
                process.wait(left)
            except subprocess.TimeoutExpired:
                self._say(f"{part.name} did not stop within {part.stop_grace_seconds:g} s; killing it.")
                process.kill_everything()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise StopRequested in the main thread."""

    def request(_number: int, _frame: FrameType | None) -> None:
        raise StopRequested

    with _handlers(request):
        yield


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Within the block these signals do nothing: what runs there takes a moment and must not be left half done."""
    with _handlers(signal.SIG_IGN):
        yield


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _describe(status: int) -> str:
    if status > 128:  # noqa: PLR2004  # the shell's and our guard's convention: 128 + signal number
        return f"killed by {signal.Signals(status - 128).name}"
    return f"exit code {status}"
