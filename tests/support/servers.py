"""Real servers for one test process, and a database of its own for every test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from flask_migrate import upgrade
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy.local.servers import PostgresServer, RedisServer
from service.app import create_app
from service.extensions import db

TEMPLATE = "millrace_template"
QUIET = ("autovacuum=off",)
"""A vacuum worker in a database keeps anybody but a superuser from dropping it."""


@dataclass(frozen=True)
class TestServers:
    """Where the servers of this test process are."""

    __test__ = False

    database_url: str
    """A database whose user may create further ones."""
    redis_url: str


def settings(database_url: str, redis_url: str, artifact_dir: Path) -> dict[str, object]:
    """A test app's configuration, complete: nothing of the environment shines through."""
    return {
        "TESTING": True,
        "DEBUG": False,
        "ENVIRONMENT": "test",
        "DATABASE_URL": database_url,
        "BROKER_URL": redis_url,
        "SECRET_KEY": "only-for-tests-and-at-least-32-characters",
        "ARTIFACT_DIR": str(artifact_dir),
        "OUTGOING_ALLOW_PRIVATE": False,
        "SENTRY_DSN": "",
        "LOG_FORMAT": "text",
    }


@contextmanager
def running_servers() -> Iterator[TestServers]:
    """The servers named by TEST_DATABASE_URL and TEST_REDIS_URL, or private ones from wheels; with a template."""
    database_url, redis_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    # Not under pytest's folder: that is 0700, and as root the servers run as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if database_url is None:
            database_url = stack.enter_context(
                PostgresServer.start(folder / "postgres", durable=False, settings=QUIET)
            ).admin_url
        if redis_url is None:
            redis_url = stack.enter_context(RedisServer.start(folder / "redis")).url
        make_template(database_url, redis_url, folder)
        yield TestServers(database_url, redis_url)


def make_template(admin_url: str, redis_url: str, folder: Path) -> None:
    """A database that was migrated once; copying it takes milliseconds."""
    _recreate(admin_url, TEMPLATE, template="template0")
    app = create_app(settings(with_database(admin_url, TEMPLATE), redis_url, folder), role="cli")
    with app.app_context():
        upgrade()
        db.engine.dispose()


_numbers = count()


@contextmanager
def fresh_database(admin_url: str) -> Iterator[str]:
    """A migrated, empty database for one test; its URL."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _recreate(admin_url, name, template=TEMPLATE)
    try:
        yield with_database(admin_url, name)
    finally:
        _execute(admin_url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def with_database(url: str, name: str) -> str:
    """The URL with another database's name."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _recreate(admin_url: str, name: str, *, template: str) -> None:
    _execute(admin_url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    _execute(admin_url, statement)


def _execute(admin_url: str, statement: sql.Composed) -> None:
    with psycopg.connect(admin_url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(statement)
