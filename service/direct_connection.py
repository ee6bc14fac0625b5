"""A connection that one thread keeps for the statements that every job needs, through libpq itself.

Half of what psycopg's cursor costs, which is a third of what SQLAlchemy costs. A call does not return to the
interpreter before the server has answered, so signals wait: for short single statements, never for a handler's.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, cast

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import FeatureNotSupported, InvalidSqlStatementName, error_from_result
from sqlalchemy import Engine

from service.failpoints import failpoint
from service.statements import Row, Statement
from service.transaction import TRUSTED_SECONDS, CommitUnsure, as_sqlalchemys

RENEWED_SECONDS = 1800.0
"""How long one connection is used, as in the pool."""


class DirectConnection:
    """Runs single statements, each a transaction of its own; connects when it must. Not for several threads at once."""

    def __init__(self, engine: Engine, *, prepare: bool) -> None:
        """With `prepare` off, behind a pooler by transaction, each statement is sent whole."""
        self._engine = engine
        self._prepare = prepare
        self._connection: psycopg.Connection[Any] | None = None
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._columns: dict[bytes, list[str]] = {}
        self._warnings: list[str] = []
        self._connected_at = self._used_at = 0.0
        self._process = 0

    def execute(self, statement: Statement, parameters: Mapping[str, Any], *, name: str = "transaction") -> list[Row]:
        """The rows of one statement; as `service.transaction.execute_alone`, with the same failpoints and errors.

        Raises CommitUnsure, and SQLAlchemy's exceptions for whatever libpq reports.
        """
        failpoint(name, "before_commit")
        self._warnings.clear()
        try:
            try:
                rows = self._run(statement, parameters)
            except (InvalidSqlStatementName, FeatureNotSupported):
                # Nothing was run: the prepared statement is gone, or a migration has changed what it was about.
                self.close()
                rows = self._run(statement, parameters)
        except psycopg.Error as error:
            raise as_sqlalchemys(error, self._engine, statement, lost=self._let_go_if_lost()) from error
        if self._warnings:
            raise CommitUnsure(self._warnings[0])
        failpoint(name, "after_commit")
        return rows

    def close(self) -> None:
        """Forget the connection; the next statement makes another."""
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None and self._process == os.getpid():
            connection.close()

    def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
        connection = self._alive()
        transformer = Transformer(connection)
        values = statement.values(parameters)
        bound = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        result = self._send(connection.pgconn, statement.numbered, bound, transformer)
        self._used_at = time.monotonic()
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            if connection.pgconn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection is lost")
            raise error_from_result(result)
        transformer.set_pgresult(result)
        names = self._columns.get(statement.numbered)
        if names is None:
            names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
            self._columns[statement.numbered] = names
        return [dict(zip(names, row, strict=True)) for row in transformer.load_rows(0, result.ntuples, tuple)]

    def _send(self, pgconn: Any, sql: bytes, bound: Any, transformer: Any) -> Any:
        types, formats = transformer.types, transformer.formats
        if not self._prepare:
            return pgconn.exec_params(sql, bound, types, formats)
        name = self._prepared.get((sql, types or ()))
        if name is None:
            name = f"direct_{len(self._prepared)}".encode()
            prepared = pgconn.prepare(name, sql, types)
            if prepared.status != pq.ExecStatus.COMMAND_OK:
                return prepared
            self._prepared[sql, types or ()] = name
        return pgconn.exec_prepared(name, bound, formats)

    def _alive(self) -> psycopg.Connection[Any]:
        """The connection, or a new one where there is none, it is old, or it died while nobody used it."""
        now = time.monotonic()
        connection = self._connection
        if connection is not None and self._process == os.getpid() and now - self._connected_at < RENEWED_SECONDS:
            if now - self._used_at < TRUSTED_SECONDS:
                return connection
            if connection.pgconn.exec_(b"").status == pq.ExecStatus.EMPTY_QUERY:
                return connection
        self.close()
        pooled = self._engine.raw_connection()
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        pooled.detach()
        if not connection.autocommit:
            connection.autocommit = True
        connection.add_notice_handler(self._note)
        self._connection, self._process, self._connected_at = connection, os.getpid(), now
        return connection

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "warning")

    def _let_go_if_lost(self) -> bool:
        """Whether the connection is lost; it is forgotten then."""
        connection = self._connection
        lost = connection is None or connection.pgconn.status == pq.ConnStatus.BAD
        if lost:
            self.close()
        return lost
