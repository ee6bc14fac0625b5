"""An app with settings that only one test needs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask

from service.app import create_app
from service.extensions import db
from tests.support.servers import TestServers, fresh_database, settings


@contextmanager
def app_that_crashes_quietly(servers: TestServers, artifacts: Path) -> Iterator[Flask]:
    """An app on a database of its own; as in production a crash is a 500 and not an exception in the test."""
    with (
        fresh_database(servers.database_url) as database_url,
        app_with(settings(database_url, servers.redis_url, artifacts), PROPAGATE_EXCEPTIONS=False) as app,
    ):
        yield app


@contextmanager
def app_with(config: Mapping[str, Any], **settings: Any) -> Iterator[Flask]:
    """The service with these settings on top; its database connections end with the block."""
    app = create_app({**config, **settings})
    try:
        yield app
    finally:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
