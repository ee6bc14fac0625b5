"""Procrastinate: durable in PostgreSQL, asynchronous workers, jobs kept after they ended."""

import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["PEER_DATABASE_URL"]))


@app.task(name="noop")
async def noop() -> None:
    """Does nothing."""


def defer(jobs: int) -> None:
    """Queue so many jobs in one commit."""
    with app.open():
        noop.batch_defer(*[{}] * jobs)
