"""One way to write: everything in the block commits together, or nothing does."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import orjson
import psycopg
from flask import current_app
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

from service.extensions import db
from service.failpoints import failpoint
from service.statements import Row, Statement


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


def execute_alone(statement: Statement, parameters: Mapping[str, Any], *, name: str = "transaction") -> list[Row]:
    """One statement that is a transaction of its own: PostgreSQL commits it in the same round trip.

    For statements that do all their work in one go; the guards stand in them. `name` tells its failpoints, as in
    `transaction`. Raises CommitUnsure, and SQLAlchemy's exceptions for whatever psycopg raises.
    """
    failpoint(name, "before_commit")
    _warnings.messages.clear()
    engine = db.engine
    pooled: PoolProxiedConnection | None = None
    try:
        pooled = engine.raw_connection()
        rows = _execute(cast("psycopg.Connection[Any]", pooled.driver_connection), statement, parameters)
    except psycopg.Error as error:
        raise as_sqlalchemys(error, engine, statement, lost=_let_go_if_lost(pooled, engine, error)) from error
    finally:
        if pooled is not None:
            pooled.close()
    _refuse_warnings()
    failpoint(name, "after_commit")
    return rows


def _execute(connection: psycopg.Connection[Any], statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
    if not connection.autocommit:
        connection.autocommit = True  # and it stays so until a transaction begins on it: a switch is not free
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(statement.numbered, statement.values(parameters))
        if cursor.pgresult is None or not (fields := cursor.pgresult.nfields):
            return []
        if len(statement.columns) != fields:
            statement.columns = [column.name for column in cursor.description or ()]
        names = statement.columns
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _let_go_if_lost(pooled: PoolProxiedConnection | None, engine: Engine, error: psycopg.Error) -> bool:
    """Whether the connection is lost; the pool is told, then."""
    if pooled is None:
        return False
    connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
    if not (connection.closed or connection.broken):
        return False
    # What ended one connection has most likely ended them all: each would cost a request its answer.
    pooled.invalidate(error)
    engine.dispose()
    return True


def as_sqlalchemys(error: psycopg.Error, engine: Engine, statement: Statement, *, lost: bool) -> BaseException:
    """The same error as SQLAlchemy would raise it, had it run the statement; `lost` says that the connection is."""
    return DBAPIError.instance(
        statement.numbered.decode(),
        None,
        error,
        psycopg.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=engine.dialect,
    )


@event.listens_for(Engine, "begin")
def _leave_autocommit(connection: Connection) -> None:
    """A transaction begins on a connection that may have run single statements before."""
    driver = connection.connection.driver_connection
    if (
        isinstance(driver, psycopg.Connection)
        and driver.autocommit
        and connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"
    ):
        driver.autocommit = False


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


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL itself said no to a statement: it can be reached, and others may fare better."""
    return (
        isinstance(error, DBAPIError)
        and not error.connection_invalidated
        and bool(getattr(error.orig, "sqlstate", None))
    )


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
