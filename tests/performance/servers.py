"""The servers of a run: one durable PostgreSQL and one Redis for everybody, a database and a number for each system."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from redis import Redis

from deploy.local.servers import PostgresServer, RedisServer


@dataclass(frozen=True)
class Servers:
    """Where everything is."""

    postgres: PostgresServer
    redis: RedisServer
    folder: Path
    redis_numbers: dict[str, int] = field(default_factory=dict)

    @property
    def pids(self) -> dict[str, int]:
        """Their process ids by name."""
        return {"postgres": self.postgres.pid, "redis": self.redis.pid}

    @property
    def engines(self) -> list[str]:
        """What they are: `postgresql 18`, for one."""
        return [f"{server.engine.engine} {server.engine.major}" for server in (self.postgres, self.redis)]

    def make_database(self, name: str) -> str:
        """A new, empty database; its SQLAlchemy URL."""
        with psycopg.connect(libpq(self.postgres.admin_url), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.postgres.url_of(name)

    def redis_url(self, system: str) -> str:
        """The Redis database of one system."""
        number = self.redis_numbers.setdefault(system, len(self.redis_numbers))
        return f"{self.redis.url.rpartition('/')[0]}/{number}"

    def redis_client(self, system: str) -> Redis:
        """A client of that database."""
        return Redis.from_url(self.redis_url(system))

    def settle(self) -> None:
        """Write out what earlier rounds left behind, so that nobody pays for somebody else's work."""
        with psycopg.connect(libpq(self.postgres.superuser_url), autocommit=True) as connection:
            connection.execute("CHECKPOINT")


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Durable servers with the settings that they are shipped with. Raises StartFailure."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-bench-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = stack.enter_context(PostgresServer.start(folder / "postgres", durable=True))
        redis_server = stack.enter_context(RedisServer.start(folder / "redis"))
        _check_durable(postgres)
        yield Servers(postgres, redis_server, folder)


def _check_durable(postgres: PostgresServer) -> None:
    with psycopg.connect(libpq(postgres.url)) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(setting))).fetchone()
            if row != ("on",):
                raise AssertionError(f"PostgreSQL is not durable: {setting} is {row}")


def libpq(url: str) -> str:
    """SQLAlchemy's URL as psycopg reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
