"""What statements really read."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import event

from service.extensions import db


class PlanReader:
    """Explains every statement, with what it really read, just before it is executed."""

    def __init__(self) -> None:
        self.pages: Counter[str] = Counter()
        """Pages read or found in memory, by statement."""
        self.whole_scans: list[str] = []
        """Statements that read all of `jobs` or `artifacts`."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For the length of the block, which must be inside an app context."""
        engine = db.engine
        event.listen(engine, "before_cursor_execute", self._explain)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", self._explain)

    def _explain(self, _connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        driver: psycopg.Connection[Any] = cursor.connection
        with driver.transaction(force_rollback=True), driver.cursor(row_factory=tuple_row) as own:
            own.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            found = own.fetchone()
        assert found is not None
        plan = found[0][0]["Plan"]
        self.pages[statement.strip()] += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        if any(is_whole_scan(node) for node in nodes(plan)):
            self.whole_scans.append(statement)


def is_whole_scan(node: dict[str, Any]) -> bool:
    """Whether this node of a plan has read all of a table that grows."""
    if node["Node Type"] != "Seq Scan" or not node["Actual Loops"]:
        return False
    return node["Relation Name"] in {"jobs", "artifacts"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes, from the top."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
