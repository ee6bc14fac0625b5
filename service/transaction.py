"""One way to write: everything in the block commits together, or nothing does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy.orm import Session

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
        session.commit()
        failpoint(name, "after_commit")
    except BaseException:
        session.rollback()
        raise


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
