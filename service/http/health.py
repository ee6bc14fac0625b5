"""`/livez` and `/readyz`: for whoever starts, stops and routes to this process."""

from typing import Any

from celery import Celery
from flask import Blueprint, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.jobs.ring import RING_ERRORS
from service.transaction import reading

blp = Blueprint("health", __name__)


@blp.get("/livez")
def livez() -> dict[str, str]:
    """The process answers. Touches nothing else, so that a database that is down does not get us restarted."""
    return {"status": "ok"}


@blp.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Whether to send requests here: yes while the database answers; a dead broker alone only degrades."""
    checks = {"database": _database(), "broker": _broker(current_app.extensions["celery"])}
    if checks["database"] != "ok":
        return {"status": "unavailable", "checks": checks}, 503
    status = "ok" if checks["broker"] == "ok" else "degraded"
    return {"status": status, "checks": checks}, 200


def _database() -> str:
    try:
        with reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return f"down ({type(error).__name__})"
    return "ok"


def _broker(celery: Celery) -> str:
    try:
        with celery.connection_for_write() as connection:
            connection.default_channel  # noqa: B018 - opening it is the check
    except RING_ERRORS as error:
        return f"down ({type(error).__name__}); jobs are accepted and wait in the database"
    return "ok"
