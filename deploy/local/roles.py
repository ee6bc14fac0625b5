"""The roles of a local stack as data: which command each one is, with which environment, and when it is ready."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy import commands
from deploy.local.http import answers
from service.queues import Queue

MILLRACE = (sys.executable, "-c", "from service.cli import main; main()")
"""The `millrace` command with this very Python, whether or not its script is on PATH."""
MILLRACE_UP = (sys.executable, "-c", "from deploy.local.commands import up; up()")
"""`millrace up` alone: it need not load the service."""
API_WORKERS = 2
MOST_WORKER_PROCESSES = 4
SHUTDOWN_GRACE_SECONDS = 5
"""How long running jobs may go on after Ctrl-C; then they are given back, and run again at the next start."""
STOP_GRACE_SECONDS = SHUTDOWN_GRACE_SECONDS + 5.0
FLOWER_MAX_TASKS = 10_000
FLOWER_SAVE_MILLISECONDS = 5_000


@dataclass(frozen=True)
class Role:
    """A process of the stack that is not a server: its command, what it adds to the environment, when it is ready."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    signs_of_life: tuple[Path, ...] = ()
    """Files that it makes when it is ready, to be removed before it starts."""
    stop_grace_seconds: float = 5.0


def api(port: int) -> Role:
    """The API behind gunicorn."""
    return Role(
        "api",
        commands.api(bind=f"127.0.0.1:{port}", workers=API_WORKERS, graceful_seconds=3),
        is_ready=lambda: answers(f"http://127.0.0.1:{port}/readyz"),
    )


def workers(run_folder: Path) -> list[Role]:
    """One worker per queue, so that long jobs never hold up short ones; a new queue has its worker by itself."""
    cores = min(os.cpu_count() or 1, MOST_WORKER_PROCESSES)
    return [
        _with_sign_of_life(
            f"worker-{queue}",
            commands.worker(
                name=queue, queues=[queue], concurrency=cores if queue is Queue.DEFAULT else max(1, cores // 2)
            ),
            run_folder,
            stop_grace_seconds=STOP_GRACE_SECONDS,
        )
        for queue in Queue
    ]


def beat(run_folder: Path) -> Role:
    """The clock."""
    return _with_sign_of_life("beat", commands.BEAT, run_folder)


def flower(port: int, folder: Path, *, user: str, password: str) -> Role:
    """Flower, to look and not to touch; its settings go by the environment, because a command line shows in `ps`."""
    settings = {
        "ADDRESS": "127.0.0.1",
        "PORT": port,
        "BASIC_AUTH": f"{user}:{password}",
        "URL_PREFIX": "flower",
        "READ_ONLY": "true",
        "PERSISTENT": "true",
        "DB": folder / "state",
        "STATE_SAVE_INTERVAL": FLOWER_SAVE_MILLISECONDS,
        "MAX_TASKS": FLOWER_MAX_TASKS,
        "PURGE_OFFLINE_WORKERS": 60,
    }
    return Role(
        "flower",
        commands.FLOWER,
        is_ready=lambda: answers(f"http://127.0.0.1:{port}/flower/healthcheck"),
        environment={f"FLOWER_{name}": str(value) for name, value in settings.items()},
        # It saves what it knows every few seconds; threads that wait for an answer of a worker may hold up its end.
        stop_grace_seconds=2.0,
    )


def _with_sign_of_life(
    name: str, command: tuple[str, ...], run_folder: Path, *, stop_grace_seconds: float = 5.0
) -> Role:
    sign = run_folder / f"{name}.alive"
    return Role(
        name,
        command,
        is_ready=sign.exists,
        environment={"MILLRACE_HEARTBEAT_FILE": str(sign)},
        signs_of_life=(sign,),
        stop_grace_seconds=stop_grace_seconds,
    )
