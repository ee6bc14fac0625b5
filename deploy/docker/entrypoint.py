"""`python -m deploy.docker.entrypoint ROLE`: become the role's own process, so that signals reach it as process 1.

ROLE is api, worker, beat, flower or migrate. Anything else is taken for a `millrace` command, such as `key create`.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deploy import commands
from service.queues import Queue

SCRATCH = Path("/var/lib/millrace/scratch")
"""A volume that no other container may share."""
IN_MEMORY = "/dev/shm"  # noqa: S108 - a container's own; there also where nothing else can be written
FLOWER_LOGIN = "FLOWER_BASIC_AUTH"


def main() -> None:
    """Replace this process by the role's. Exits with 2 when a setting is wrong."""
    role, *arguments = sys.argv[1:]
    try:
        command = ROLES[role]() if role in ROLES else (*MILLRACE, role)
    except ValueError as error:
        sys.exit(f"millrace {role}: {error}")
    if role == "worker":
        remove_scratch(SCRATCH)
    os.execv(command[0], (*command, *arguments))  # noqa: S606 - no shell, so that signals reach the role


def api() -> tuple[str, ...]:
    """The API. A request may wait 60 s for its job, so that much and a little more is left to it at a stop."""
    return commands.api(
        bind=":8000",  # all addresses: the container's networks decide who comes that far
        workers=whole_number("API_WORKERS", 2),
        graceful_seconds=whole_number("API_GRACEFUL_SECONDS", 65),
        heartbeat_folder=IN_MEMORY,
    )


def worker() -> tuple[str, ...]:
    """A worker for the queues that WORKER_QUEUES names; for all, if it names none."""
    queues = [Queue(name) for name in os.environ.get("WORKER_QUEUES", "").split(",") if name] or list(Queue)
    return commands.worker(name="-".join(queues), queues=queues, concurrency=whole_number("WORKER_PROCESSES", 4))


def flower() -> tuple[str, ...]:
    """Flower. It takes its login from the environment only; here that comes from a file, as everything secret does."""
    if path := os.environ.get(f"{FLOWER_LOGIN}_FILE"):
        os.environ[FLOWER_LOGIN] = Path(path).read_text().strip()
    if ":" not in os.environ.get(FLOWER_LOGIN, ""):
        raise ValueError(f"Without a login Flower is open to anyone: set {FLOWER_LOGIN}_FILE (user:password).")
    return commands.FLOWER


def remove_scratch(folder: Path) -> None:
    """Remove what killed jobs left in this container's own scratch folder: on disk it outlives the container's end."""
    for left in folder.glob("millrace-*"):
        shutil.rmtree(left, ignore_errors=True)


def whole_number(variable: str, default: int) -> int:
    """A positive whole number from the environment. Raises ValueError."""
    text = os.environ.get(variable, "") or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{variable} must be a whole number above zero, not {text!r}.")
    return int(text)


MILLRACE = (str(Path(sys.executable).with_name("millrace")),)
ROLES: dict[str, Callable[[], tuple[str, ...]]] = {
    "api": api,
    "worker": worker,
    "beat": lambda: commands.BEAT,
    "flower": flower,
    "migrate": lambda: commands.MIGRATE,
}

if __name__ == "__main__":
    main()
