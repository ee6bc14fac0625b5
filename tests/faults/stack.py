"""The whole platform as processes of its own: PostgreSQL that keeps its word, Redis, gunicorn, workers, two beats.

Each role reaches PostgreSQL through a proxy of its own, so that any of them can be parted from it.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
import urllib3
from flask_migrate import upgrade
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from deploy.local.servers import DATABASE, PostgresServer, RedisServer, free_port
from service.accounts.keys import create_key
from service.app import create_app
from service.extensions import db
from service.jobs.queries import UNFINISHED_SQL
from tests.faults.job_types import EFFECTS_TABLE
from tests.faults.load import Tenant
from tests.faults.proxy import Proxy
from tests.support.processes import BEAT, WORKER, Process
from tests.support.servers import settings
from tests.support.waiting import wait_for

CELERY = "tests.faults.celery_command"
API_PROCESSES = 2
POOL_PROCESSES = 2
TENANTS = ("acme", "rival")
POSTGRES = ["max_connections=80"]
QUICK: dict[str, Any] = {
    "LEASE_SECONDS": 6.0,
    "LEASE_RENEW_SECONDS": 1.0,
    "HARD_TIMEOUT_GRACE": 3.0,
    "SHUTDOWN_GRACE": 1.0,
    "CLOCK_LEASE_SECONDS": 3.0,
}
"""Times of a fifth of the defaults, so that what takes a lease takes seconds. Rows about a promised bound undo them."""

RESCUE_SECONDS = QUICK["LEASE_SECONDS"] + 10.0
"""In these times, what is promised as 40 s by default: a lease, and ten seconds to notice and to ring."""


class Stack:
    """Started by `running_stack`. Every process may be killed, stopped and started anew; `heal` mends everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres_folder = folder / "postgres"
        self.postgres = PostgresServer.start(self.postgres_folder, durable=True, settings=POSTGRES)
        self.redis = RedisServer.start(folder / "redis")
        self.links = {role: Proxy(self.postgres.port) for role in ("api", "worker", "beat")}
        self.processes: dict[str, Process] = {}
        self._extras: dict[str, dict[str, Any]] = {}
        self._killed: set[int] = set()
        """Processes that were killed or stopped for good on purpose."""
        self._api_port = free_port()
        self.tenants = self._migrate()
        for name in ("api", "worker-1", "beat-1", "beat-2"):
            self.start(name)
        self.wait_until_ready()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._api_port}/api/v1"

    @property
    def database_url(self) -> str:
        """As libpq wants it, past the proxies."""
        return self.postgres.url.replace("postgresql+psycopg://", "postgresql://")

    @property
    def superuser_url(self) -> str:
        """The same database as the superuser."""
        url = make_url(self.postgres.superuser_url).set(drivername="postgresql", database=DATABASE)
        return url.render_as_string(hide_password=False)

    def broker(self) -> redis.Redis:
        """A connection to Redis."""
        return redis.Redis.from_url(self.redis.url, socket_timeout=5)

    def config(self, role: str) -> dict[str, Any]:
        """The settings of one role."""
        through = (
            make_url(self.postgres.url).set(port=self.links[role].port) if role in self.links else self.postgres.url
        )
        url = through if isinstance(through, str) else through.render_as_string(hide_password=False)
        return {**settings(url, self.redis.url, self.folder / "artifacts"), **QUICK}

    def start(self, name: str, **extra: Any) -> Process:
        """Start a process: `api`, `worker-N` or `beat-N`, with settings on top of the usual ones. It must not run."""
        role = name.partition("-")[0]
        log = self.folder / f"{name}.log"
        if role == "api":
            command: tuple[str, ...] = (
                *("--worker-class=gevent", f"--workers={API_PROCESSES}", f"--bind=127.0.0.1:{self._api_port}"),
                *("--graceful-timeout=3", "--no-control-socket", "tests.faults.api:app"),
            )
            process = Process(command, self.config(role), log, module="gunicorn", **extra)
        elif role == "worker":
            command = (*WORKER, f"--hostname={name}@%h", f"--concurrency={POOL_PROCESSES}", "-O", "fair")
            process = Process(command, self.config(role), log, module=CELERY, **extra)
        else:
            command = (*BEAT, "--pidfile=", f"--schedule={self.folder / name}")
            process = Process(command, self.config(role), log, module=CELERY, **extra)
        self.processes[name] = process
        self._extras[name] = extra
        return process

    def restart(self, name: str, **extra: Any) -> Process:
        """Kill the process with all its children, and start it with other settings on top."""
        self.end(name)
        return self.start(name, **extra)

    def end(self, name: str) -> None:
        """SIGKILL a process and its children: the host is gone. Nobody starts it again but `start` and `heal`."""
        self._killed.add(self.processes[name].pid)
        self.processes[name].end()

    def send(self, name: str, signum: int) -> None:
        """A signal that ends the process itself, not its children; wait until it has ended."""
        self._killed.add(self.processes[name].pid)
        self.processes[name].send(signum)
        self.processes[name].wait(30)

    def ended_by_themselves(self) -> list[str]:
        """Processes that are gone though nobody killed them, and that were not told to die at a failpoint."""
        return [
            name
            for name, process in self.processes.items()
            if not process.is_running and process.pid not in self._killed and "FAILPOINTS" not in self._extras[name]
        ]

    def wait_until_ready(self) -> None:
        """Until the API answers, every worker has shown a sign of life since, and a beat is the clock."""
        since = time.time()
        wait_for(self._api_answers, seconds=40, what="the API's readiness")
        workers = [name for name in self.processes if name.startswith("worker")]
        wait_for(
            lambda: all(self._is_alive(name, since) for name in workers), seconds=40, what="a worker's sign of life"
        )
        wait_for(self.has_clock, seconds=40, what="a clock")

    def heal(self) -> None:
        """Undo every fault: servers up and as configured, all processes running with their usual settings."""
        for link in self.links.values():
            link.heal()
        self.thaw()
        if not psutil.pid_exists(self.redis.pid):
            self.start_redis()
        if not psutil.pid_exists(self.postgres.pid):
            self.start_postgres()
        with self.broker() as broker:
            broker.config_set("maxmemory", 0)
            broker.config_set("maxmemory-policy", "noeviction")
        for name, process in list(self.processes.items()):
            if not process.is_running or self._extras[name]:
                self.restart(name)
        self.wait_until_ready()

    def thaw(self) -> None:
        """SIGCONT to whatever was stopped."""
        roots = [self.redis.pid, self.postgres.pid, *(process.pid for process in self.processes.values())]
        for pid in roots:
            for one in family(pid):
                with suppress(psutil.NoSuchProcess):  # ended since we looked
                    one.send_signal(signal.SIGCONT)

    def start_redis(self) -> None:
        """Start it again, on the same port, with the data that it wrote."""
        self.redis = RedisServer.start(self.folder / "redis", port=self.redis.port)

    def start_postgres(self) -> None:
        """Start it again, on the same port: it recovers from its log."""
        self.use_postgres(
            PostgresServer.start(self.postgres_folder, durable=True, port=self.postgres.port, settings=POSTGRES)
        )

    def use_postgres(self, server: PostgresServer) -> None:
        """Let every role's proxy lead to this server from now on."""
        self.postgres = server
        for link in self.links.values():
            link.target_port = self.postgres.port

    def clear(self) -> None:
        """Forget every job: the next trial begins with empty tables and an empty broker."""
        self.execute("TRUNCATE jobs, idempotency_keys, schedules, fault_effects CASCADE")
        with self.broker() as broker:
            broker.flushall()

    def execute(self, statement: str, *parameters: Any, superuser: bool = False) -> list[dict[str, Any]]:
        """Run one statement, past the proxies; its rows."""
        url = self.superuser_url if superuser else self.database_url
        with psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=5) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def unfinished(self) -> int:
        """How many jobs have not ended."""
        statement = f"SELECT count(*) AS jobs FROM jobs WHERE state IN ({UNFINISHED_SQL})"  # noqa: S608
        return int(self.execute(statement)[0]["jobs"])

    def leader(self) -> str | None:
        """The name of the beat that is the clock."""
        rows = self.execute("SELECT holder FROM clock_leases WHERE name = 'clock' AND lease_until > clock_timestamp()")
        pid = int(rows[0]["holder"].rsplit(":", 1)[1]) if rows else None
        return next((name for name, process in self.processes.items() if process.pid == pid), None)

    def has_clock(self) -> bool:
        """Whether a running beat is the clock."""
        leader = self.leader()
        return leader is not None and self.processes[leader].is_running

    def logs(self, *, characters: int = 3000) -> str:
        """The ends of the logs, for a failure's report."""
        return "\n".join(
            f"----- {log.name}\n{log.read_text(errors='replace')[-characters:]}"
            for log in sorted(self.folder.glob("*.log"))
        )

    def close(self) -> None:
        """End everything."""
        with ExitStack() as closing:
            for server in (self.postgres, self.redis):
                closing.callback(server.stop)
            for link in self.links.values():
                closing.callback(link.close)
            for process in self.processes.values():
                closing.callback(process.end)

    def _migrate(self) -> list[Tenant]:
        app = create_app(self.config("cli"), role="cli")
        with app.app_context():
            upgrade()
            tenants = [Tenant(name, create_key(name).key) for name in TENANTS]
            db.session.remove()
            db.engine.dispose()
        self.execute(EFFECTS_TABLE)
        return tenants

    def _api_answers(self) -> bool:
        try:
            return (
                urllib3.request("GET", self.api_url.replace("/api/v1", "/readyz"), retries=False, timeout=3).status
                == 200
            )
        except urllib3.exceptions.HTTPError:
            return False

    def _is_alive(self, name: str, since: float) -> bool:
        rows = self.execute(
            "SELECT 1 FROM worker_nodes WHERE name LIKE %s AND seen_at > to_timestamp(%s)", f"{name}@%", since
        )
        return bool(rows)


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running_stack() -> Iterator[Stack]:
    """A stack in a folder of its own; both are gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-faults-"))
    folder.chmod(0o755)  # as root the servers run as somebody else, who must get past it
    try:
        stack = Stack(folder)
        try:
            yield stack
        finally:
            stack.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
