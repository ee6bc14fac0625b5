"""Starting the peers, each with the settings that made it fastest here."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from deploy.local.http import answers
from deploy.local.servers import free_port
from tests.performance.processes import Command, environment_of
from tests.performance.servers import Servers, libpq

GUNICORN_WORKERS = 2
GUNICORN_THREADS = 16
UVICORN_WORKERS = 2
UVICORN_CONNECTIONS = 8
CELERY_PROCESSES = 2
PROCRASTINATE_PROCESSES = 2
PROCRASTINATE_CONCURRENCY = 10

JOBS_TABLE = """
    CREATE TABLE jobs (
        id uuid PRIMARY KEY, type text NOT NULL, state text NOT NULL, args jsonb NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
"""


class Peer:
    """One peer: its environment, its database and its processes."""

    def __init__(self, servers: Servers, name: str, *, redis: str | None = None) -> None:
        self.name = name
        self.folder: Path = servers.folder / f"peer-{name}"
        self.folder.mkdir()
        self.database_url = libpq(servers.make_database(f"peer_{name}"))
        self.environment = environment_of(
            PEER_DATABASE_URL=self.database_url, PEER_REDIS_URL=servers.redis_url(redis or name)
        )

    def connect(self) -> psycopg.Connection:
        """A connection of the benchmark's own, each statement committed at once."""
        return psycopg.connect(self.database_url, autocommit=True)

    def command(self, *arguments: str, name: str = "", **more: str) -> Command:
        """A Python module as a process of this peer's."""
        label = f"{self.name}{name}"
        return Command(
            label, [sys.executable, "-m", *arguments], {**self.environment, **more}, self.folder / f"{label}.log"
        )


@contextmanager
def flask_celery(servers: Servers, *, workers: int = GUNICORN_WORKERS) -> Iterator[tuple[Peer, int, int]]:
    """P1's API: the peer, its port and its process id."""
    peer, port = Peer(servers, "flask"), free_port()
    peer.environment |= {
        "PEER_DATABASE_URL": peer.database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        # One per thread, or threads would wait for each other.
        "PEER_POOL_SIZE": str(GUNICORN_THREADS),
    }
    with peer.connect() as connection:
        connection.execute(JOBS_TABLE)
    command = peer.command(
        *("gunicorn", "--worker-class=gthread", f"--threads={GUNICORN_THREADS}", f"--workers={workers}"),
        *(f"--bind=127.0.0.1:{port}", "--keep-alive=30", "--no-control-socket"),
        "tests.performance.peers.flask_celery:create_app()",
    )
    with ended([command]):
        command.wait_until(lambda: answers(f"http://127.0.0.1:{port}/"))
        yield peer, port, command.pid


@contextmanager
def fastapi_saq(servers: Servers, *, workers: int = UVICORN_WORKERS) -> Iterator[tuple[Peer, int, int]]:
    """P2's API: the peer, its port and its process id."""
    peer, port = Peer(servers, "fastapi"), free_port()
    peer.environment["PEER_POOL_SIZE"] = str(UVICORN_CONNECTIONS)
    with peer.connect() as connection:
        connection.execute(JOBS_TABLE)
    command = peer.command(
        *("uvicorn", "--loop=uvloop", "--http=httptools", f"--workers={workers}", "--no-access-log"),
        *("--host=127.0.0.1", f"--port={port}", "tests.performance.peers.fastapi_saq:app"),
    )
    with ended([command]):
        command.wait_until(lambda: answers(f"http://127.0.0.1:{port}/openapi.json"))
        yield peer, port, command.pid


@contextmanager
def celery_worker(servers: Servers) -> Iterator[tuple[Peer, int]]:
    """A stock worker with two processes: the peer and the worker's process id."""
    peer = Peer(servers, "celery")
    command = peer.command(
        *("celery", "-A", "tests.performance.peers.stock_celery", "worker", f"--concurrency={CELERY_PROCESSES}"),
        *("--pool=prefork", "-O", "fair", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        "--loglevel=WARNING",
    )
    with ended([command]), servers.redis_client("celery") as client:
        # Its remote control's binding is the last thing that it sets up before it consumes.
        command.wait_until(lambda: bool(client.exists("_kombu.binding.celery.pidbox")))
        yield peer, command.pid


@contextmanager
def procrastinate_workers(servers: Servers) -> Iterator[tuple[Peer, Sequence[int]]]:
    """Two Procrastinate workers: the peer and their process ids."""
    peer = Peer(servers, "procrastinate")
    app = ("procrastinate", "--app=tests.performance.peers.procrastinate_noop.app")
    subprocess.run([sys.executable, "-m", *app, "schema", "--apply"], env=peer.environment, check=True, timeout=60)
    workers = [
        peer.command(*app, "worker", f"--concurrency={PROCRASTINATE_CONCURRENCY}", name=f"-{number}")
        for number in range(PROCRASTINATE_PROCESSES)
    ]
    with ended(workers), peer.connect() as connection:

        def all_signed_on() -> bool:
            row = connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone()
            return row == (PROCRASTINATE_PROCESSES,)

        for worker in workers:
            worker.wait_until(all_signed_on)
        yield peer, [worker.pid for worker in workers]


@contextmanager
def ended(commands: Sequence[Command]) -> Iterator[None]:
    """The commands end with the block."""
    with ExitStack() as stack:
        for command in commands:
            stack.callback(command.stop)
        yield
