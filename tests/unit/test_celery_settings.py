"""Celery's settings that nothing else would notice to be wrong."""

from flask import Flask
from flower.inspector import Inspector

from service.config import load_config
from tests.unit.test_config_files import SETTINGS


def test_flower_has_connections_for_all_that_it_asks_at_once() -> None:
    app = Flask(__name__)
    load_config(app, "worker", SETTINGS)

    # One to publish the question, one to hear the answer, for each; one for events.
    assert app.config["CELERY"]["broker_pool_limit"] >= 2 * Inspector.max_concurrency + 1
