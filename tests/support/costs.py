"""Count exactly what a piece of code asks of PostgreSQL and Redis."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from psycopg.pq import Trace as TraceFlags
from redis.connection import AbstractConnection
from sqlalchemy import event

from service.extensions import db


@dataclass(frozen=True)
class Costs:
    """What was asked of the servers. A round trip is a wait for an answer, whatever was asked in it."""

    statements: int
    """SQL statements, without BEGIN, COMMIT and ROLLBACK."""
    begins: int
    """Transactions with a BEGIN of their own; outside of one each statement commits by itself."""
    database_round_trips: int
    redis_round_trips: int = 0


class CostCounter:
    """Reads libpq's own protocol trace of every connection of the app, and counts what redis-py sends."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._connections: list[Any] = []
        self._sent_to_redis = 0

    def watch(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on; before the app opens its first connection."""
        with app.app_context():
            event.listen(db.engine, "connect", self._remember)
        send: Any = AbstractConnection.send_packed_command

        def counted(connection: AbstractConnection, *args: Any, **kwargs: Any) -> Any:
            self._sent_to_redis += 1
            return send(connection, *args, **kwargs)

        monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)

    def _remember(self, connection: Any, _record: Any) -> None:
        self._connections.append(connection.pgconn)

    def of(self, act: Callable[[], Any]) -> Costs:
        """What one call costs, over the connections that there are. Raises AssertionError if it opens another one."""
        known, sent_before = list(self._connections), self._sent_to_redis
        with self._trace.open("wb") as trace:
            for connection in known:
                connection.trace(trace.fileno())
                connection.set_trace_flags(TraceFlags.SUPPRESS_TIMESTAMPS)
            act()
            for connection in known:
                connection.untrace()  # which also writes out what is left
        assert self._connections == known, "the call opened a connection"
        said = self._trace.read_text()
        completed = _COMPLETED.findall(said)
        return Costs(
            statements=sum(tag not in _NOT_OURS for tag in completed),
            begins=completed.count("BEGIN"),
            database_round_trips=len(_ANSWERED.findall(said)),
            redis_round_trips=self._sent_to_redis - sent_before,
        )


_COMPLETED = re.compile(r'^B\t\d+\tCommandComplete\t "([A-Z]+)', re.MULTILINE)
_ANSWERED = re.compile(r"^B\t\d+\tReadyForQuery\t", re.MULTILINE)

_NOT_OURS = {"BEGIN", "COMMIT", "ROLLBACK"}
