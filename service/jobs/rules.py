"""Operators' rules: pause a queue or a job type, limit how many run at a time and how often one starts."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.jobs.types import registry
from service.queues import Queue
from service.transaction import reading, transaction

Kind = Literal["queue", "type"]


class UnknownTarget(LookupError):
    """There is no such queue or job type."""


@dataclass(frozen=True)
class Rate:
    """At most `count` starts per `seconds`."""

    count: int
    seconds: float


_PAUSE = text(
    """
    INSERT INTO dispatch_rules AS rule (kind, name, paused_at) VALUES (:kind, :name, clock_timestamp())
    ON CONFLICT (kind, name) DO UPDATE
       SET paused_at = COALESCE(rule.paused_at, excluded.paused_at), updated_at = clock_timestamp()
    """
)
_RESUME = text(
    "UPDATE dispatch_rules SET paused_at = NULL, updated_at = clock_timestamp() WHERE kind = :kind AND name = :name"
)
_LIMIT = text(
    """
    INSERT INTO dispatch_rules (kind, name, max_running, rate_count, rate_seconds)
    VALUES (:kind, :name, :max_running, :rate_count, :rate_seconds)
    ON CONFLICT (kind, name) DO UPDATE
       SET max_running = excluded.max_running, rate_count = excluded.rate_count, rate_seconds = excluded.rate_seconds,
           updated_at = clock_timestamp()
    """
)
_ALL = text("SELECT kind, name, paused_at, max_running, rate_count, rate_seconds FROM dispatch_rules")


def pause(kind: Kind, name: str) -> None:
    """From now on no job of it starts; running ones go on. Raises UnknownTarget."""
    _execute(_PAUSE, kind, name)


def resume(kind: Kind, name: str) -> None:
    """Jobs start again. Raises UnknownTarget."""
    _execute(_RESUME, kind, name)


def limit(kind: Kind, name: str, *, max_running: int | None, rate: Rate | None = None) -> None:
    """Bound how many run at a time, and how often one starts; None lifts the bound. Raises UnknownTarget."""
    values = {"max_running": max_running, "rate_count": None, "rate_seconds": None}
    if rate is not None:
        values |= {"rate_count": rate.count, "rate_seconds": rate.seconds}  # type: ignore[dict-item] # seconds are float
    _execute(_LIMIT, kind, name, **values)


def all_rules(session: Session) -> list[RowMapping]:
    """Every rule."""
    return list(session.execute(_ALL).mappings())


def list_rules() -> list[RowMapping]:
    """Every rule, in a transaction of its own."""
    with reading() as session:
        return all_rules(session)


def _execute(statement: object, kind: Kind, name: str, **values: object) -> None:
    known = name in list(Queue) if kind == "queue" else name in registry
    if not known:
        raise UnknownTarget(name)
    with transaction() as session:
        session.execute(statement, {"kind": kind, "name": name, **values})  # type: ignore[call-overload] # one of the three
