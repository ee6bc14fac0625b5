"""One way to write: everything in the block commits together, or nothing does."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from flask import current_app
from sqlalchemy import Engine, Executable, RowMapping, event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from service.extensions import db
from service.failpoints import failpoint


@contextmanager
def transaction(name: str = "transaction") -> Iterator[Session]:
    """A database transaction: committed at the end of the block, rolled back if the block raises.

    `name` tells its failpoints, before and after the commit, from others'. Never call the network inside, nor hold it
    open while a handler runs.
    """
    session: Session = db.session()
    try:
        yield session
        failpoint(name, "before_commit")
        _commit(session)
        failpoint(name, "after_commit")
    except BaseException:
        session.rollback()
        raise


def execute_alone(
    statement: Executable, parameters: Mapping[str, Any], *, name: str = "transaction"
) -> Sequence[RowMapping]:
    """One statement that is a transaction of its own: PostgreSQL commits it in the same round trip.

    For statements that do all their work in one go; the guards stand in them. `name` tells its failpoints, as in
    `transaction`. Raises CommitUnsure.
    """
    failpoint(name, "before_commit")
    _warnings.messages.clear()
    with _autocommit_engine().connect() as connection:
        rows = connection.execute(statement, parameters).mappings().all()
    _refuse_warnings()
    failpoint(name, "after_commit")
    return rows


def _autocommit_engine() -> Engine:
    """The app's engine with the option set; kept, because setting it costs as much as a statement."""
    extensions = current_app.extensions
    engine: Engine | None = extensions.get("autocommit_engine")
    if engine is None:
        engine = extensions["autocommit_engine"] = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    return engine


class CommitUnsure(SQLAlchemyError):
    """The COMMIT came back with a warning: durable here, but perhaps not where it was promised to be as well.

    Clock, lease keeper and worker take it like any trouble with the database: they try again, or leave it to the lease.
    """


class _Warnings(threading.local):
    """What the server warned of on this thread's connections."""

    def __init__(self) -> None:
        self.messages: list[str] = []


_warnings = _Warnings()


def _commit(session: Session) -> None:
    """Commit. Raises CommitUnsure where the wait for a synchronous standby was broken off.

    PostgreSQL then reports success with a WARNING, and a 2xx would promise what a loss of the primary could take back.
    """
    _warnings.messages.clear()
    session.commit()
    _refuse_warnings()


def _refuse_warnings() -> None:
    if _warnings.messages:
        raise CommitUnsure(_warnings.messages[0])


TRUSTED_SECONDS = 1.0
"""A connection that was used so lately is taken to be alive: asking costs a round trip. If it is not, the request is
answered 503 and the whole pool is renewed."""


@event.listens_for(Pool, "checkin")
def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


@event.listens_for(Pool, "checkout")
def _check_idle(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Ask a connection that lay idle whether it is alive; the pool replaces one that is not."""
    if time.monotonic() - record.info.get("used", time.monotonic()) < TRUSTED_SECONDS:
        return
    try:
        connection.execute("")
        if not connection.autocommit:
            connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError from error


@event.listens_for(Pool, "connect")
def _hear_warnings(connection: Any, _record: object) -> None:
    connection.add_notice_handler(_note_warning)


def _note_warning(notice: psycopg.errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        _warnings.messages.append(notice.message_primary or "warning")


@contextmanager
def reading() -> Iterator[Session]:
    """Reads without a transaction around them: each statement sees what is committed, in one round trip.

    A session of its own: a handler may have work under way in the scoped one.
    """
    with Session(_autocommit_engine()) as session:
        yield session


@contextmanager
def snapshot() -> Iterator[Session]:
    """Reads that all see the database as it was at the first of them, so that figures of one report agree."""
    with Session(db.engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        yield session


def to_jsonb(value: Any) -> str:
    """JSON text for a parameter that the statement casts to jsonb."""
    return orjson.dumps(value).decode()
