"""Run one command so that nothing of it outlives its owner, however the owner dies.

`guarded.GuardedProcess` starts this file as a program of its own (standard library only, `-I -S`: it is up within
10 ms). The guard is the parent of the command and holds the reading end of a pipe whose writing end only the owner
has. The pipe carries one byte per order: a signal number for the command, or `KILL_EVERYTHING`. Its end means that the
owner is gone: the kernel closes it even when the owner was killed with SIGKILL, so nothing can be missed.

On Linux the guard is also the reaper of all that the command starts: a grandchild that left its process group and its
session (as PostgreSQL's backends and daemons do) stays below the guard and is found. Elsewhere the process group and
the descendants that are alive at that moment are what it reaches.

Exit status: the command's own, 128 + n when signal n ended it, 127 when the command could not be started.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

KILL_EVERYTHING = 0
"""An order beside the signal numbers: SIGKILL to the command and everything below it."""

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STAT_PPID_FIELD = 1
"""Where the parent's id stands in /proc/<pid>/stat after the command's name: state, then ppid."""


def main() -> int:
    """Start the command, report its id, then forward orders until the command ends or the owner is gone."""
    options = _options()
    wake_up = _wake_up_on_exit_of_a_child()
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        # Kept for as long as we run: a Popen that is thrown away collects the child's status, which `_reap` waits for.
        process = _start(options)
    except (OSError, subprocess.SubprocessError) as error:
        os.write(options.report_fd, f"error {error}\n".encode())
        return 127
    child = process.pid
    os.write(options.report_fd, f"pid {child}\n".encode())
    os.close(options.report_fd)

    status = _serve(child, orders=sys.stdin.fileno(), wake_up=wake_up, options=options)
    _kill_everything(child)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--orphan-signal", type=int, required=True)
    parser.add_argument("--orphan-grace", type=float, required=True, help="seconds")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--cwd")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _wake_up_on_exit_of_a_child() -> int:
    """A descriptor that becomes readable when a child ends, so that waiting needs no polling."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    # Only the owner ends a guard, by an order or by its death: a Ctrl-C in the terminal is the owner's to handle.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    return reading


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    def before_exec() -> None:
        for restored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(restored, signal.SIG_DFL)
        if LINUX:
            # Should the guard itself be killed, the command goes with it. Set after the change of user: that clears it.
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(  # noqa: S603  # the owner's own command, no shell
        options.command,
        stdin=subprocess.DEVNULL,
        cwd=options.cwd,
        user=options.uid,
        group=options.gid,
        extra_groups=None if options.uid is None else [],
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509  # this program has one thread
    )


def _serve(child: int, *, orders: int, wake_up: int, options: argparse.Namespace) -> int:
    """The command's wait status, once it ended, or was ended because the owner is gone."""
    owner = os.getppid()
    kill_at: float | None = None
    while True:
        watched = [wake_up] if kill_at is not None else [wake_up, orders]
        # The owner's id is looked at too: a fork of the owner may hold the pipe open after the owner's death.
        readable, _, _ = select.select(watched, [], [], 0.05 if kill_at is not None else 0.5)
        if wake_up in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_up, 4096)
        status = _reap(child)
        if status is not None:
            return status
        if kill_at is not None:
            if time.monotonic() >= kill_at:
                _kill_everything(child, reap=False)
            continue
        received = os.read(orders, 64) if orders in readable else None
        if received == b"" or os.getppid() != owner:
            _signal(child, options.orphan_signal)
            kill_at = time.monotonic() + options.orphan_grace
        for order in received or b"":
            if order == KILL_EVERYTHING:
                _kill_everything(child, reap=False)
            else:
                _signal(child, order)


def _reap(child: int) -> int | None:
    """Collect every child that ended, adopted ones as well. Returns the command's status if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        if number != signal.SIGSTOP:
            # A stopped process would not see the signal before somebody wakes it.
            os.kill(pid, signal.SIGCONT)


def _kill_everything(child: int, *, reap: bool = True) -> None:
    """SIGKILL the command's group and all descendants; with `reap`, until none is left (at most two seconds)."""
    deadline = time.monotonic() + 2
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        left = _descendants()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not reap:
            return
        _reap(child)
        if not left or time.monotonic() > deadline:
            return
        select.select([], [], [], 0.01)


def _descendants() -> list[int]:
    parents = _parents_from_proc() if LINUX else _parents_from_ps()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    frontier = [os.getpid()]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def _parents_from_proc() -> dict[int, int]:
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            # Gone between the listing and the reading: nothing to stop.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                after_name = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                parents[int(entry.name)] = int(after_name[STAT_PPID_FIELD])
    return parents


def _parents_from_ps() -> dict[int, int]:
    listing = subprocess.run(["/bin/ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True)
    me = os.getpid()
    pairs = (line.split() for line in listing.stdout.splitlines())
    # `ps` itself is a child by now, and gone.
    return {int(pid): int(parent) for pid, parent in pairs if not (int(parent) == me and not _alive(int(pid)))}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
