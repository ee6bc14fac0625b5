"""Fixtures that every kind of test shares: real servers, a fresh database, an app, clients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

import tests.support.job_types  # noqa: F401 - registers the tests' own job types
from service.app import create_app
from service.extensions import db
from tests.support.client import KeyClient
from tests.support.servers import TestServers, fresh_database, running_servers, settings


@pytest.fixture(scope="session")
def servers() -> Iterator[TestServers]:
    """A PostgreSQL and a Redis of this test process' own."""
    with running_servers() as started:
        yield started


@pytest.fixture
def config(servers: TestServers, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of one test: its own database, an empty Redis, its own artifact folder."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    with fresh_database(servers.database_url) as database_url:
        yield settings(database_url, servers.redis_url, tmp_path / "artifacts")


@pytest.fixture
def app(config: dict[str, Any]) -> Iterator[Flask]:
    """The service on a fresh database."""
    app = create_app(config)
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> KeyClient:
    """A client of the tenant `acme`, with all scopes."""
    return KeyClient(app, "acme")


@pytest.fixture
def other_client(app: Flask) -> KeyClient:
    """A client of another tenant."""
    return KeyClient(app, "rival")
