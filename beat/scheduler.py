"""The clock: a Celery beat scheduler that finds its work in PostgreSQL and nothing in memory.

Each tick is a round of small guarded statements. Several beats may run; one acts.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from celery.beat import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from beat.timetable import TIMETABLE
from service.artifacts.storage import ArtifactStorage
from service.celery_app import flask_app_of
from service.clock_lease import acquire_clock, release_clock
from service.jobs.dispatch import Dispatcher, promote
from service.jobs.prune import prune, prune_artifacts, prune_orphans, prune_records
from service.jobs.rescue import expire, rescue
from service.jobs.ring import Bell
from service.schedules.builtin import add_builtin_schedules
from service.schedules.fire import Firing
from service.transaction import is_refusal

log = logging.getLogger(__name__)
T = TypeVar("T")

HOUSEKEEPING_SECONDS = 60.0
PRUNING_SECONDS = 0.2
"""For so long a round prunes; the rest follows in the next, so that rings do not wait behind it."""
FILES_SECONDS = 3600.0
COMPLAINT_SECONDS = 60.0
"""A step that fails round after round is told in the log so often."""
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
        self._firing = Firing()
        self._storage = ArtifactStorage(Path(self._config["ARTIFACT_DIR"]))
        self._leads = False
        self._is_busy = False
        self._has_more_to_prune = False
        self._housekeeping_due = 0.0
        self._files_due = 0.0
        self._complained: dict[str, float] = {}

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
        self._try("fire schedules", self._firing.fire_due)
        self._try("expire jobs", expire)
        self._try("rescue jobs", rescue)
        self._try("promote jobs", promote)
        done = self._try("dispatch", self._dispatcher.round) or {}
        self._is_busy = any(queue.rung for queue in done.values())
        if time.monotonic() >= self._housekeeping_due:
            self._housekeeping_due = time.monotonic() + HOUSEKEEPING_SECONDS
            self._housekeeping()
        if self._has_more_to_prune:
            self._has_more_to_prune = bool(self._try("prune", self._prune))
            self._is_busy |= self._has_more_to_prune

    def _housekeeping(self) -> None:
        days = self._config["RETENTION_DAYS"]
        self._has_more_to_prune = True
        self._try("add the built-in schedules", lambda: add_builtin_schedules(TIMETABLE))
        if time.monotonic() >= self._files_due:
            self._files_due = time.monotonic() + FILES_SECONDS
            self._try("prune artifacts", lambda: prune_artifacts(self._storage, days=days))
            self._try("prune records", lambda: prune_records(days=days))
            self._try("prune files without a row", lambda: prune_orphans(self._storage))

    def _prune(self) -> bool:
        """Prune for a moment; whether there may be more."""
        began = time.monotonic()
        while time.monotonic() - began < PRUNING_SECONDS:
            if not prune(days=self._config["RETENTION_DAYS"], idempotency_hours=self._config["IDEMPOTENCY_HOURS"]):
                return False
        return True

    def _try(self, name: str, step: Callable[[], T]) -> T | None:
        """Run one step of the round. What keeps it from its work must not keep the others from theirs.

        Raises SQLAlchemyError where the database cannot be reached: then no other step fares better.
        """
        try:
            return step()
        except Exception as error:
            if isinstance(error, SQLAlchemyError) and not is_refusal(error):
                raise
            if time.monotonic() >= self._complained.get(name, 0.0):
                self._complained[name] = time.monotonic() + COMPLAINT_SECONDS
                log.exception("the clock could not %s; it goes on with the rest", name)
            return None

    def _touch_heartbeat(self) -> None:
        if self._config["HEARTBEAT_FILE"]:
            Path(self._config["HEARTBEAT_FILE"]).touch()

    # Celery's own scheduler keeps a table of entries in memory and publishes them; ours has none.
    @property
    def info(self) -> str:
        """What `celery beat` prints at start."""
        return "    . schedules -> the database"
