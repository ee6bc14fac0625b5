"""`create_app()`: where everything is put together."""

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import sentry_sdk
from celery import signals
from flask import Flask
from flask_smorest import Api
from werkzeug.middleware.proxy_fix import ProxyFix

import worker.tasks
from service.accounts import models as accounts_models
from service.accounts.keys import KnownKeys
from service.artifacts import api as artifacts_api
from service.artifacts import models as artifacts_models
from service.celery_app import celery_init_app
from service.config import BadSetting, Role, load_config, unknown_in_environment
from service.extensions import db, migrate
from service.failpoints import arm
from service.http import docs, health
from service.http.headers import add_security_headers
from service.http.identity import guard_requests
from service.http.json import FastJSONProvider
from service.http.openapi import OPENAPI_SETTINGS, complete_document
from service.http.problems import ProblemSchema, register_error_handlers
from service.http.request_ids import give_request_ids
from service.jobs import api as jobs_api
from service.jobs import batch_api, catalogue_api, history_api, integrity_api
from service.jobs import models as jobs_models
from service.jobs.queries import JobReader
from service.jobs.ring import Bell
from service.jobs.submit import Intake
from service.jobs.types import BadJobType
from service.jobs.waiting import WaitingRoom
from service.logging import configure_logging
from service.schedules import models as schedules_models

SERVICE_FOLDER = Path(__file__).parent
MODELS = (accounts_models, artifacts_models, jobs_models, schedules_models)
"""Every table, so that foreign keys find what they point to, whichever feature is used first."""

BLUEPRINTS = (jobs_api.blp, batch_api.blp, history_api.blp, artifacts_api.blp, catalogue_api.blp, integrity_api.blp)


BOOT_FAILED = 3
"""The exit status that tells gunicorn not to start its processes again and again."""

log = logging.getLogger(__name__)


class Service(Flask):
    """Flask, not asking a dozen times in each request whether a function is asynchronous: none is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself."""
        return func


def create_app(config: Mapping[str, Any] | None = None, *, role: Role = "api") -> Flask:
    """The service for one role, with the given settings on top of the environment's. Raises BadSetting.

    Nothing is shared between two apps of one process but the registry of job types, and the failpoints of tests.
    """
    app = Service("millrace", root_path=str(SERVICE_FOLDER), static_folder=None)
    load_config(app, role, config)
    if not app.testing:
        configure_logging(style=app.config["LOG_FORMAT"], level=app.config["LOG_LEVEL"])
    arm(app.config["FAILPOINTS"])
    start_sentry(app)
    load_job_types()
    db.init_app(app)
    migrate.init_app(app, db, directory=str(SERVICE_FOLDER.parent / "migrations"), compare_type=True)
    celery_init_app(app)
    app.extensions["bell"] = Bell(app.extensions["celery"], hard_timeout_grace=app.config["HARD_TIMEOUT_GRACE"])
    turn_seconds = app.config["DATABASE_POOL_TIMEOUT"]
    app.extensions["intake"] = Intake(app.extensions["bell"], turn_seconds=turn_seconds)
    app.extensions["job_reader"] = JobReader(turn_seconds=turn_seconds)
    app.extensions["known_keys"] = KnownKeys()
    app.extensions["waiting_room"] = WaitingRoom(app)
    if role in {"api", "cli"}:
        add_http(app)
    return app


def start(role: Role = "api") -> Flask:
    """`create_app` for a process of its own. Bad settings end it, told in a line each and not as a traceback."""
    try:
        app = create_app(role=role)
    except (BadSetting, BadJobType) as error:
        sys.stderr.write(f"millrace: {error}\n")
        sys.exit(BOOT_FAILED)
    for line in unknown_in_environment():
        log.warning(line)
    return app


def add_http(app: Flask) -> None:
    """The HTTP side. The order of the request hooks is their order here."""
    app.json = FastJSONProvider(app)
    give_request_ids(app)
    add_security_headers(app)  # after an answer hooks run backwards: the guard may replace it, and this completes it
    guard_requests(app)
    app.register_blueprint(health.blp)
    if app.config["DOCS_ENABLED"]:
        app.register_blueprint(docs.blp)
    app.config.update(OPENAPI_SETTINGS)
    smorest = Api()
    smorest.ERROR_SCHEMA = ProblemSchema
    smorest.init_app(app)
    for blueprint in BLUEPRINTS:
        smorest.register_blueprint(blueprint)
    complete_document(smorest.spec)
    app.extensions["openapi"] = smorest.spec
    register_error_handlers(app)
    if hops := app.config["PROXY_FIX_FOR"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]


def load_job_types() -> None:
    """Import every module of `worker.tasks` and every installed package's entry points: each registers its types."""
    for module in pkgutil.iter_modules(worker.tasks.__path__):
        importlib.import_module(f"worker.tasks.{module.name}")
    for entry_point in entry_points(group="millrace.job_types"):
        entry_point.load()


def start_sentry(app: Flask) -> None:
    """Report crashes where a DSN is set. Nothing of the customer's goes along: no bodies, no local variables."""
    if app.config["SENTRY_DSN"]:
        sentry_sdk.init(
            dsn=app.config["SENTRY_DSN"],
            environment=app.config["ENVIRONMENT"],
            send_default_pii=False,
            max_request_body_size="never",
            include_local_variables=False,
        )


@signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator] # celery ships no types
def keep_our_logging(**_: Any) -> None:
    """Celery configures logging itself unless somebody listens to this signal."""
