"""Millrace as shipped: the very commands that `millrace up` runs, on the benchmark's servers; and what they left."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg

from deploy.local import roles
from deploy.local.servers import free_port
from service.ids import uuid7
from tests.performance.job_types import NOOP, install_entry_point
from tests.performance.measurement import Discarded
from tests.performance.processes import Command, environment_of
from tests.performance.servers import Servers, libpq

CHUNK = 10_000


@dataclass
class Millrace:
    """One installation: a database, a Redis database, a tenant with a key."""

    name: str
    folder: Path
    database_url: str
    environment: dict[str, str]
    key: str
    tenant_id: UUID

    @classmethod
    def install(cls, servers: Servers, name: str = "millrace", **settings: str) -> "Millrace":
        """A migrated database and a key. `settings` are Millrace's own, without their prefix."""
        folder = servers.folder / name
        for part in ("artifacts", "logs", "run"):
            (folder / part).mkdir(parents=True)
        install_entry_point(folder / "packages")
        database_url = servers.make_database(f"bench_{name}")
        ours = {
            "DATABASE_URL": database_url,
            "BROKER_URL": servers.redis_url(name),
            "SECRET_KEY": "only-for-benchmarks-and-at-least-32-characters",
            "ARTIFACT_DIR": str(folder / "artifacts"),
            # As `millrace up` sets them.
            "LOG_FORMAT": "text",
            "ENVIRONMENT": "local",
            "SHUTDOWN_GRACE": str(roles.SHUTDOWN_GRACE_SECONDS),
            **settings,
        }
        environment = environment_of(
            PYTHONPATH=str(folder / "packages"), **{f"MILLRACE_{setting}": value for setting, value in ours.items()}
        )
        _run([*roles.MILLRACE[:-1], _MIGRATE], environment)
        made = json.loads(_run([*roles.MILLRACE, "key", "create", "--tenant", "bench", "--json"], environment))
        return cls(name, folder, database_url, environment, made["key"], UUID(made["tenant_id"]))

    def make_key(self, tenant: str) -> str:
        """A key of another tenant."""
        made = json.loads(_run([*roles.MILLRACE, "key", "create", "--tenant", tenant, "--json"], self.environment))
        return str(made["key"])

    @contextmanager
    def running(self, *parts: str) -> Iterator["Processes"]:
        """The processes of these parts (`api`, `workers`, `beat`), ready; stopped at the end of the block."""
        port = free_port()
        run_folder = self.folder / "run"
        wanted = {"api": [roles.api(port)], "workers": roles.workers(run_folder), "beat": [roles.beat(run_folder)]}
        commands: dict[str, Command] = {}
        try:
            chosen = [role for part in parts for role in wanted[part]]
            for role in chosen:
                for sign in role.signs_of_life:
                    sign.unlink(missing_ok=True)
                log = self.folder / "logs" / f"{role.name}.log"
                commands[role.name] = Command(role.name, role.command, {**self.environment, **role.environment}, log)
            for role in chosen:
                commands[role.name].wait_until(role.is_ready)
            yield Processes(port, commands)
        finally:
            for command in reversed(commands.values()):
                command.stop()

    def connect(self) -> psycopg.Connection:
        """A connection of the benchmark's own, each statement committed at once."""
        return psycopg.connect(libpq(self.database_url), autocommit=True)

    def queue_jobs(self, count: int, job_type: str = NOOP) -> list[UUID]:
        """Store queued jobs with their first events, all in one commit, not rung: the dispatcher hands them out."""
        ids = [uuid7() for _ in range(count)]
        with self.connect() as connection, connection.transaction():
            for start in range(0, count, CHUNK):
                parameters = {"ids": ids[start : start + CHUNK], "tenant_id": self.tenant_id, "type": job_type}
                connection.execute(_QUEUE, parameters)
        return ids

    def insert_finished(self, count: int) -> list[UUID]:
        """Store jobs that have ended well, as history; their ids."""
        ids = [uuid7() for _ in range(count)]
        with self.connect() as connection:
            for start in range(0, count, CHUNK):
                parameters = {"ids": ids[start : start + CHUNK], "tenant_id": self.tenant_id, "type": NOOP}
                connection.execute(_FINISHED, parameters)
            connection.execute("VACUUM ANALYZE jobs")
        return ids

    def check_run_once(self, ids: Sequence[UUID | str]) -> None:
        """Every one of these jobs exists, ended well, and ran once. Raises Discarded."""
        with self.connect() as connection:
            found = connection.execute(_RAN_ONCE, {"ids": list(map(str, ids))}).fetchone()
        if found is None or found[0] != len(set(ids)):
            raise Discarded(f"of {len(set(ids))} jobs {found and found[0]} exist, ran once and are final")

    def check_stored(self, ids: Sequence[str], *, requests: int) -> None:
        """The tenant's jobs are these and no others, each with its first event; and a record for each request's key."""
        with self.connect() as connection:
            found = connection.execute(_STORED, {"ids": list(ids), "tenant_id": self.tenant_id}).fetchone()
        expected = (len(ids),) * 3 + (requests,)
        if len(set(ids)) != len(ids) or found != expected:
            raise Discarded(f"jobs, answered jobs, first events, idempotency records: {found}, not {expected}")

    def forget_jobs(self) -> None:
        """Empty the tables that a round filled."""
        with self.connect() as connection:
            connection.execute("TRUNCATE jobs, job_attempts, job_events, idempotency_keys CASCADE")


@dataclass
class Processes:
    """The running processes by role."""

    port: int
    commands: dict[str, Command]

    @property
    def pids(self) -> dict[str, int]:
        return {name: command.pid for name, command in self.commands.items()}


_MIGRATE = (
    "from flask_migrate import upgrade; from service.app import create_app\n"
    "with create_app(role='cli').app_context(): upgrade()"
)

_QUEUE = """
    WITH job AS (
        INSERT INTO jobs (id, tenant_id, type, queue, state, args, max_attempts, timeout_seconds)
        SELECT id, %(tenant_id)s, %(type)s, 'default', 'queued', '{}', 3, 60 FROM unnest(%(ids)s::uuid[]) AS id
        RETURNING id, created_at
    )
    INSERT INTO job_events (job_id, seq, tenant_id, at, state, name)
    SELECT id, 1, %(tenant_id)s, created_at, 'queued', 'queued' FROM job
"""

_FINISHED = """
    INSERT INTO jobs (id, tenant_id, type, queue, state, args, attempt, max_attempts, timeout_seconds, token,
                      started_at, finished_at, result, event_seq)
    SELECT id, %(tenant_id)s, %(type)s, 'default', 'succeeded', '{"number": 1}', 1, 3, 60, 1,
           clock_timestamp(), clock_timestamp(), '{"answer": 42}', 3
      FROM unnest(%(ids)s::uuid[]) AS id
"""

# An index look-up per job: the planner, who may know little of tables that were filled a moment ago, has no choice.
_RAN_ONCE = """
    SELECT count(*)
      FROM unnest(%(ids)s::uuid[]) AS wanted (id)
      JOIN jobs USING (id)
     CROSS JOIN LATERAL (SELECT count(*) AS attempts, min(outcome) AS outcome
                           FROM job_attempts WHERE job_id = jobs.id) AS tried
     WHERE state = 'succeeded' AND attempt = 1 AND attempts = 1 AND tried.outcome = 'succeeded'
"""

_STORED = """
    SELECT (SELECT count(*) FROM jobs WHERE tenant_id = %(tenant_id)s),
           (SELECT count(*) FROM jobs WHERE id = ANY(%(ids)s::uuid[]) AND tenant_id = %(tenant_id)s),
           (SELECT count(*) FROM job_events WHERE seq = 1),
           (SELECT count(*) FROM idempotency_keys WHERE tenant_id = %(tenant_id)s)
"""


def _run(command: Sequence[str], environment: dict[str, str]) -> str:
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if finished.returncode != 0:
        raise RuntimeError(f"{command[-1]}: {finished.stderr[-3000:]}")
    return finished.stdout
