"""P1, what people write: Flask under gunicorn's threads, a row by Flask-SQLAlchemy, then `.delay()`."""

import os
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.performance.peers.stock_celery import noop


class Base(DeclarativeBase):
    """The models' base."""


db = SQLAlchemy(model_class=Base)


class Job(db.Model):  # type: ignore[name-defined] # as Flask-SQLAlchemy documents it
    """A job as most would store one."""

    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    type: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    args: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


def create_app() -> Flask:
    """The application."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["PEER_DATABASE_URL"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": int(os.environ["PEER_POOL_SIZE"])}
    db.init_app(app)

    @app.post("/jobs")
    def submit() -> ResponseReturnValue:
        body = request.get_json()
        # The id is made here: read from the row after the commit, it would cost another SELECT.
        job_id = uuid.uuid4()
        db.session.add(Job(id=job_id, type=body["type"], args=body["args"]))
        db.session.commit()
        noop.delay(str(job_id))
        return jsonify(id=str(job_id), state="queued"), 202

    @app.post("/jobs/batch")
    def submit_batch() -> ResponseReturnValue:
        jobs = [Job(id=uuid.uuid4(), type=job["type"], args=job["args"]) for job in request.get_json()["jobs"]]
        ids = [str(job.id) for job in jobs]
        db.session.add_all(jobs)
        db.session.commit()
        for job_id in ids:
            noop.delay(job_id)
        return jsonify(items=[{"id": job_id, "state": "queued"} for job_id in ids]), 202

    @app.get("/")
    def index() -> str:
        return "ready"

    return app
