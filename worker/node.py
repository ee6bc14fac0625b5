"""The worker as a node: fresh connections after a fork, a sign of life, and giving jobs back at a shutdown."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import signals
from celery.worker import state
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.extensions import db
from service.transaction import transaction
from worker.lease import announce_shutdown
from worker.process import forget_process, settle_process

log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 5.0
LOOK_SECONDS = 0.5

_SEEN = text(
    """
    INSERT INTO worker_nodes (name, queues, concurrency) VALUES (:name, CAST(:queues AS text[]), :concurrency)
    ON CONFLICT (name) DO UPDATE
       SET queues = excluded.queues, concurrency = excluded.concurrency, seen_at = clock_timestamp()
    """
)
_GONE = text("DELETE FROM worker_nodes WHERE name = :name")


def connect_node(app: Flask) -> None:
    """Hang this worker's doings on Celery's signals. Called once, by the worker's own app module."""
    stopped = threading.Event()

    def after_fork(**_: Any) -> None:
        # A connection opened before the fork would be shared by all children: they would read each other's rows.
        with app.app_context():
            db.engine.dispose(close=False)
        forget_process(app)

    def before_exit(**_: Any) -> None:
        settle_process(app)

    def ready(sender: Any, **_: Any) -> None:
        consumer = sender
        node = {
            "name": consumer.hostname,
            "queues": sorted(queue.name for queue in consumer.task_consumer.queues),
            "concurrency": consumer.pool.num_processes,
        }
        threading.Thread(target=_show_life, args=(app, node, stopped), name="sign-of-life", daemon=True).start()

    def stopping(**_: Any) -> None:
        stopped.set()
        grace = app.config["SHUTDOWN_GRACE"]
        timer = threading.Timer(grace, _give_jobs_back)
        timer.daemon = True
        timer.start()

    # Celery holds receivers weakly; these live as long as the process does.
    signals.worker_process_init.connect(after_fork, weak=False)
    signals.worker_process_shutdown.connect(before_exit, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)


def _show_life(app: Flask, node: dict[str, Any], stopped: threading.Event) -> None:
    heartbeat = app.config["HEARTBEAT_FILE"]
    while True:
        try:
            with app.app_context(), transaction() as session:
                session.execute(_SEEN, node)
        except SQLAlchemyError as error:
            log.warning("could not store this worker's sign of life: %s", type(error).__name__)
        if heartbeat:
            Path(heartbeat).touch()
        if stopped.wait(SIGN_OF_LIFE_SECONDS):
            break
    try:
        with app.app_context(), transaction() as session:
            session.execute(_GONE, node)
    except SQLAlchemyError:
        log.warning("could not sign this worker off; its row grows old by itself")


def _give_jobs_back() -> None:
    """The grace is over: stop the handlers that still run; each puts its job back, the attempt uncounted."""
    announce_shutdown()
    told: set[str] = set()
    while True:  # until this process ends: of some jobs it hears late that a process has begun them
        for request in list(state.active_requests):
            if request.worker_pid and request.id not in told:
                told.add(request.id)
                with suppress(ProcessLookupError):
                    os.kill(request.worker_pid, signal.SIGUSR1)
        time.sleep(LOOK_SECONDS)
