"""An app with settings that only one test needs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask import Flask

from service.app import create_app
from service.extensions import db


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
