"""Processes that end with their owner: the owner's side of `guard.py`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from deploy.local import guard
from deploy.local.account import Account


class StartFailure(Exception):
    """Something of the local stack could not be started; the message is one line for people, with the way out."""


class GuardedProcess:
    """One running command that its guard stops when this Python process ends, however it ends."""

    def __init__(self, guard_process: subprocess.Popen[bytes], pid: int) -> None:
        self._guard = guard_process
        self.pid = pid

    @classmethod
    def start(
        cls,
        command: Sequence[str | Path],
        *,
        output: IO[bytes] | int,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        account: Account | None = None,
        orphan_signal: signal.Signals = signal.SIGTERM,
        orphan_grace_seconds: float = 1.5,
        hold: Sequence[int] = (),
    ) -> Self:
        """Run the command below a guard, both its outputs going to `output`, as `account` if one is given.

        When the owner dies the command gets `orphan_signal`, and SIGKILL with all its descendants after the grace.
        The guard keeps the descriptors in `hold` open until nothing of the command is left: a file lock, for one.
        Raises StartFailure when the command cannot be executed.
        """
        report, report_writer = os.pipe()
        try:
            guard_process = subprocess.Popen(  # noqa: S603  # our own file and our own command, no shell
                [
                    *(sys.executable, "-I", "-S", guard.__file__),
                    f"--report-fd={report_writer}",
                    f"--orphan-signal={int(orphan_signal)}",
                    f"--orphan-grace={orphan_grace_seconds}",
                    *([] if account is None else [f"--uid={account.uid}", f"--gid={account.gid}"]),
                    *([] if cwd is None else [f"--cwd={cwd}"]),
                    "--",
                    *map(str, command),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                # A relative path in the environment or the command keeps its meaning until the guard changes folder.
                pass_fds=[report_writer, *hold],
                # Out of reach of the terminal's Ctrl-C and of a kill of the owner's process group.
                start_new_session=True,
            )
        finally:
            os.close(report_writer)
        with os.fdopen(report) as reader:
            kind, _, rest = reader.readline().strip().partition(" ")
        if kind != "pid":
            guard_process.communicate()
            raise StartFailure(f"Cannot start {command[0]}: {rest or 'its guard process ended'}.")
        return cls(guard_process, int(rest))

    @property
    def guard_pid(self) -> int:
        """The process id of the guard; it lives a little longer than the command."""
        return self._guard.pid

    def poll(self) -> int | None:
        """None while it runs; then the exit status, 128 + n when signal n ended it."""
        status = self._guard.poll()
        if status is not None:
            self._close()
        return status

    def wait(self, timeout_seconds: float | None = None) -> int:
        """The exit status, once command, descendants and guard are gone. Raises subprocess.TimeoutExpired."""
        status = self._guard.wait(timeout_seconds)
        self._close()
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command (not to its descendants). Nothing happens when it has ended."""
        self._order(int(number))

    def kill_everything(self) -> None:
        """SIGKILL the command and all its descendants, and wait until they are gone."""
        self._order(guard.KILL_EVERYTHING)
        self._wait_or_kill_guard()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, grace_seconds: float) -> bool:
        """Ask the command to end; after the grace, kill it and its descendants. True if it ended by itself in time."""
        self.send(number)
        try:
            self.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            return False
        return True

    def _order(self, order: int) -> None:
        stdin = self._guard.stdin
        # The guard has ended, and the command with it.
        with contextlib.suppress(BrokenPipeError, ValueError):
            if stdin is not None:
                os.write(stdin.fileno(), bytes([order]))

    def _wait_or_kill_guard(self) -> None:
        try:
            self.wait(5)
        except subprocess.TimeoutExpired:
            # Only a stopped guard is this slow; its death takes the command along (PR_SET_PDEATHSIG).
            self._guard.kill()
            self.wait()

    def _close(self) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.close()


def wait_until_gone(pid: int, *, timeout_seconds: float) -> bool:
    """True once no process has that id, polling; False if one still has it after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
