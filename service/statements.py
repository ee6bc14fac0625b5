"""SQL with named parameters, for both ways to run it: inside a session's transaction, or alone through psycopg.

What runs for every request and every job goes through psycopg itself. SQLAlchemy's own work for one statement, from
compiling to rows, costs about three times as much as psycopg's.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import TextClause, text

Row = Mapping[Any, Any]
"""A row by its columns' names."""

_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")


class Statement:
    """One SQL statement with parameters written as `:name`."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self.columns: list[str] = []
        """The names of its result's columns, from the first time that it ran: to ask psycopg costs as much as a row."""

    @cached_property
    def text(self) -> TextClause:
        """For `session.execute`."""
        return text(self._sql)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order of their numbers."""
        return tuple(dict.fromkeys(_PARAMETER.findall(self._sql)))

    @cached_property
    def numbered(self) -> bytes:
        """As PostgreSQL itself wants it, with `$1` for the first parameter: psycopg then need not look for any."""
        numbers = {name: f"${number}" for number, name in enumerate(self.names, 1)}
        return _PARAMETER.sub(lambda match: numbers[match[1]], self._sql).encode()

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The parameters' values in the order of their numbers. Raises KeyError for one that is missing."""
        return [parameters[name] for name in self.names]
