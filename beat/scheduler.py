"""The clock: a Celery beat scheduler that finds its work in PostgreSQL and nothing in memory.

Each tick is a round of small guarded statements. Several beats may run; one acts.
"""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from celery.beat import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from beat.timetable import TIMETABLE
from service.artifacts.storage import ArtifactStorage
from service.celery_app import flask_app_of
from service.clock_lease import acquire_clock, release_clock
from service.jobs.dispatch import Dispatcher, promote
from service.jobs.prune import prune, prune_orphans
from service.jobs.rescue import expire, rescue
from service.jobs.ring import Bell
from service.schedules.builtin import add_builtin_schedules
from service.schedules.fire import fire_due

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0
PRUNE_ROUNDS = 20
ORPHANS_EVERY_SECONDS = 3600.0
BUSY_TICK_SECONDS = 0.05
"""Between two rounds while there was something to ring: the window must not run empty under a backlog."""


class ClockScheduler(Scheduler):  # type: ignore[misc] # celery ships no types
    """Fires schedules, promotes, expires, rescues, dispatches and prunes, while it holds the clock's lease."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flask_app = flask_app_of(self.app)
        self._config = self._flask_app.config
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._dispatcher = Dispatcher(
            Bell(self.app, hard_timeout_grace=self._config["HARD_TIMEOUT_GRACE"]),
            window=self._config["DISPATCH_WINDOW"],
            ring_again_seconds=self._config["RING_AGAIN_SECONDS"],
        )
        self._leads = False
        self._is_busy = False
        self._housekeeping_due = 0.0
        self._orphans_due = 0.0

    def setup_schedule(self) -> None:
        """Nothing to load: the schedules are rows."""

    def tick(self, *_: Any, **__: Any) -> float:
        """One round; returns the seconds until the next."""
        with self._flask_app.app_context():
            try:
                self._round()
            except SQLAlchemyError as error:
                # Whatever was under way was rolled back; the next round finds the same work again.
                log.error("the clock's round failed, next try in a second: %s", type(error).__name__)  # noqa: TRY400
                return 1.0
        self._touch_heartbeat()
        return BUSY_TICK_SECONDS if self._is_busy else float(self._config["CLOCK_TICK_SECONDS"])

    def close(self) -> None:
        """Stop: let another beat take over at once."""
        if self._leads:
            with self._flask_app.app_context():
                try:
                    release_clock(self._holder)
                except SQLAlchemyError:
                    log.warning("could not release the clock's lease; another beat takes over when it runs out")
        super().close()

    def _round(self) -> None:
        leads = acquire_clock(self._holder, seconds=self._config["CLOCK_LEASE_SECONDS"])
        if leads != self._leads:
            log.info("this beat is %s the clock", "now" if leads else "no longer")
            self._leads = leads
        if not leads:
            return
        fire_due()
        expire()
        rescue()
        promote()
        done = self._dispatcher.round()
        self._is_busy = any(queue.rung for queue in done.values())
        if time.monotonic() >= self._housekeeping_due:
            self._housekeeping_due = time.monotonic() + HOUSEKEEPING_SECONDS
            self._housekeeping()

    def _housekeeping(self) -> None:
        add_builtin_schedules(TIMETABLE)
        storage = ArtifactStorage(Path(self._config["ARTIFACT_DIR"]))
        for _ in range(PRUNE_ROUNDS):
            if not prune(
                storage, days=self._config["RETENTION_DAYS"], idempotency_hours=self._config["IDEMPOTENCY_HOURS"]
            ):
                break
        if time.monotonic() >= self._orphans_due:
            self._orphans_due = time.monotonic() + ORPHANS_EVERY_SECONDS
            prune_orphans(storage)

    def _touch_heartbeat(self) -> None:
        if self._config["HEARTBEAT_FILE"]:
            Path(self._config["HEARTBEAT_FILE"]).touch()

    # Celery's own scheduler keeps a table of entries in memory and publishes them; ours has none.
    @property
    def info(self) -> str:
        """What `celery beat` prints at start."""
        return "    . schedules -> the database"
