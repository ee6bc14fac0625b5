"""One way to write: everything in the block commits together, or nothing does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

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
    if _warnings.messages:
        raise CommitUnsure(_warnings.messages[0])


@event.listens_for(Pool, "connect")
def _hear_warnings(connection: Any, _record: object) -> None:
    connection.add_notice_handler(_note_warning)


def _note_warning(notice: psycopg.errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        _warnings.messages.append(notice.message_primary or "warning")


@contextmanager
def reading() -> Iterator[Session]:
    """A database transaction that only reads; the connection goes back to the pool at the end of the block."""
    session: Session = db.session()
    try:
        yield session
    finally:
        session.rollback()


def to_jsonb(value: Any) -> str:
    """JSON text for a parameter that the statement casts to jsonb."""
    return orjson.dumps(value).decode()
