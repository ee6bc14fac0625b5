"""One run of a local stack, from the lock to the last process: what `millrace up` and `millrace demo` do."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from deploy.local.demo import DemoFailure, DemoReport, run_demo
from deploy.local.folder import DataFolder, FolderLock, stack_process
from deploy.local.guarded import StartFailure
from deploy.local.logs import tail
from deploy.local.roles import MILLRACE_UP
from deploy.local.stack import LocalStack, Stack, look_at_environment
from deploy.local.summary import print_report
from deploy.local.supervisor import StopRequested, Supervisor, stop_on_signals

WATCH_SECONDS = 0.2
DETACHED_START_SECONDS = 180.0
DOWN_SECONDS = 45.0
DOWN_AFTER_KILL_SECONDS = 10.0


def run(
    path: Path,
    console: Console,
    *,
    port: int | None,
    demo: bool,
    stay: bool,
    on_ready: Callable[[Stack], None],
    show_report: Callable[[Console, DemoReport], None] = print_report,
) -> None:
    """Start a stack on the folder, run the main job if asked, and stay until somebody stops it, or stop right away.

    A main job that fails ends the run, unless it stays: then it is told and the stack goes on. Nothing is left running
    when this returns or raises: StartFailure, DemoFailure, or StopRequested when it was stopped before it was ready.
    """
    with stop_on_signals():
        supervisor = Supervisor(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        folder = DataFolder.make(path)
        lock = FolderLock.take(folder)
        ready = False
        try:
            folder.stack_file.unlink(missing_ok=True)
            stack = _start(folder, lock, supervisor, console, port=port)
            if demo:
                _demonstrate(stack, folder, supervisor, console, must_succeed=not stay, show_report=show_report)
            on_ready(stack)
            ready = True
            while stay:
                supervisor.check()
                time.sleep(WATCH_SECONDS)
        except StopRequested:
            console.print("Stopping. Once more stops at once.")
            if not ready:
                raise
        finally:
            supervisor.stop()
            folder.stack_file.unlink(missing_ok=True)
            lock.release()


def _start(
    folder: DataFolder, lock: FolderLock, supervisor: Supervisor, console: Console, *, port: int | None
) -> Stack:
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for line in look_at_environment():
        say(line)
    with console.status("Starting PostgreSQL, Redis, API, workers, beat and Flower"):
        stack = LocalStack(folder, lock, supervisor, say, port=port).start()
    console.print(f"Millrace is ready after {time.monotonic() - began:.1f} s.", highlight=False)
    return stack


def _demonstrate(
    stack: Stack,
    folder: DataFolder,
    supervisor: Supervisor,
    console: Console,
    *,
    must_succeed: bool,
    show_report: Callable[[Console, DemoReport], None],
) -> None:
    try:
        report = run_demo(stack, folder.reports, console, meanwhile=supervisor.check)
    except DemoFailure as failure:
        if must_succeed:
            raise
        console.print(f"The main job failed. {failure}", style="red", markup=False, highlight=False)
    else:
        show_report(console, report)


def start_detached(path: Path, console: Console, *, port: int | None) -> Stack:
    """Start a stack that goes on without us, in a session of its own; returns when it is ready, main job not run.

    Raises StartFailure with what it said when it did not get that far, StopRequested when we are stopped meanwhile.
    """
    folder = DataFolder.make(path)
    log = folder.logs / "supervisor.log"
    command = [*MILLRACE_UP, "--quiet", "--dir", str(folder.path)]
    if port is not None:
        command += ["--port", str(port)]
    for line in look_at_environment():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    with stop_on_signals(), log.open("wb") as output, console.status("Starting the stack in the background"):
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return _wait_for_stack(folder, process, log)
        except StopRequested:
            process.terminate()
            process.wait()
            raise


def _wait_for_stack(folder: DataFolder, process: subprocess.Popen[bytes], log: Path) -> Stack:
    deadline = time.monotonic() + DETACHED_START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        described = folder.read_stack()
        if described is not None and described["pids"]["supervisor"] == process.pid:
            return Stack.from_mapping(described)
        time.sleep(0.1)
    process.terminate()
    process.wait()
    raise StartFailure(tail(log).strip() or f"The stack was not ready after {DETACHED_START_SECONDS:.0f} s.")


def stop_stack(path: Path) -> bool:
    """Stop the stack that runs on the folder and wait for its last process; False when there is none.

    It is asked first, and killed when it does not follow. Raises StartFailure should even that not end it.
    """
    folder = DataFolder(path.absolute())
    if stack_process(folder) is None:
        return False
    for number, patience in ((signal.SIGTERM, DOWN_SECONDS), (signal.SIGKILL, DOWN_AFTER_KILL_SECONDS)):
        if supervisor := stack_process(folder):
            with suppress(ProcessLookupError):  # it ended in this moment
                os.kill(supervisor, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if stack_process(folder) is None:
                folder.stack_file.unlink(missing_ok=True)
                return True
            time.sleep(0.1)
    raise StartFailure(f"Something of the stack on {folder.path} does not end; see its logs in {folder.logs}.")
