"""The command of every role, in one place: the stack on one machine and the containers start the same processes."""

import sys
from collections.abc import Iterable

CELERY = (sys.executable, "-m", "celery")
MIGRATE = (sys.executable, "-m", "flask", "--app", "service.app:start", "db", "upgrade")
FLOWER = (*CELERY, "-A", "worker.app", "flower")
BEAT = (*CELERY, "-A", "beat.app", "beat", "--pidfile=", "--loglevel=INFO")


def api(*, bind: str, workers: int, graceful_seconds: int, heartbeat_folder: str | None = None) -> tuple[str, ...]:
    """The API behind gunicorn, at `host:port`.

    `graceful_seconds` is how long requests under way may go on after SIGTERM. gunicorn's processes show that they
    live by touching files in `heartbeat_folder`, which should be in memory: on a slow disk they would seem to hang.
    """
    return (
        *(sys.executable, "-m", "gunicorn", "--worker-class=gevent", f"--workers={workers}", f"--bind={bind}"),
        *(f"--graceful-timeout={graceful_seconds}", "--no-control-socket"),
        *("--access-logfile=-", "--logger-class=service.http.access_log.AccessLogger"),
        *((f"--worker-tmp-dir={heartbeat_folder}",) if heartbeat_folder else ()),
        "service.app:start()",
    )


def worker(*, name: str, queues: Iterable[str], concurrency: int) -> tuple[str, ...]:
    """A worker for the queues, with so many processes; its node is called `name@host`."""
    return (
        *(*CELERY, "-A", "worker.app", "worker", f"--hostname={name}@%h", f"--queues={','.join(queues)}"),
        *(f"--concurrency={concurrency}", "-O", "fair", "--without-gossip", "--without-mingle", "--loglevel=INFO"),
    )
