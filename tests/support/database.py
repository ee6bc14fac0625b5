"""Look into the database behind an app, and prepare what no endpoint can."""

from typing import Any

from flask import Flask
from sqlalchemy import text

from service.transaction import transaction


def execute(app: Flask, statement: str, **parameters: Any) -> list[Any]:
    """Run one statement in a transaction of its own; the rows, where it returns any."""
    with app.app_context(), transaction() as session:
        result: Any = session.execute(text(statement), parameters)
        return list(result.all()) if result.returns_rows else []


def count_jobs(app: Flask) -> int:
    """How many jobs are stored, whoever's they are."""
    return int(execute(app, "SELECT count(*) FROM jobs")[0][0])
