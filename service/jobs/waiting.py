"""Wait for jobs to change: one poll per process for everybody who waits, however many they are.

Polling needs no session state in PostgreSQL (LISTEN would break behind a connection pooler), and one statement serves
all waiters. The interval is short while somebody has just begun to wait and grows from there.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from service.jobs.queries import Pulse, pulses
from service.transaction import reading

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 0.5


class RoomFull(Exception):
    """So many requests are held already, of this tenant or of all, that this one cannot be."""

    def __init__(self) -> None:
        super().__init__(
            "Too many of your requests wait or follow events at this moment. Look without waiting, or later."
        )


class WaitingRoom:
    """Where requests wait for jobs. One per process; safe from threads and from greenlets."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._places: int = app.config["HELD_REQUESTS"]
        self._places_per_tenant: int = app.config["HELD_REQUESTS_PER_TENANT"]
        self._held: Counter[UUID] = Counter()
        self._changed = threading.Condition()
        self._waiters: dict[UUID, int] = {}
        self._pulses: dict[UUID, tuple[int, Pulse]] = {}
        self._round = 0
        self._interval = POLL_SECONDS
        self._is_polling = False

    @contextmanager
    def place(self, tenant_id: UUID) -> Iterator[None]:
        """Room for one request that is held. Raises RoomFull: whoever holds all of a process' requests, stops it."""
        with self._changed:
            if self._held[tenant_id] >= self._places_per_tenant or self._held.total() >= self._places:
                raise RoomFull
            self._held[tenant_id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= Counter((tenant_id,))  # which forgets whoever holds none

    def wait(self, job_id: UUID, known: Pulse | None, *, seconds: float) -> Pulse | None:
        """Return the job's pulse as soon as it differs from `known`, or the latest one when the time is over.

        None: the job was not found. The caller has checked that the job is its tenant's.
        """
        deadline = time.monotonic() + seconds
        with self._attending(job_id):
            entered = self._round
            while True:
                looked_in, pulse = self._pulses.get(job_id, (0, None))
                if looked_in <= entered:  # seen before we came: it may be older than what the caller knows
                    pulse = None
                remaining = deadline - time.monotonic()
                if (pulse is not None and pulse != known) or remaining <= 0:
                    return pulse
                self._changed.wait(remaining)

    @contextmanager
    def _attending(self, job_id: UUID) -> Iterator[None]:
        with self._changed:
            self._waiters[job_id] = self._waiters.get(job_id, 0) + 1
            try:
                self._interval = POLL_SECONDS
                if not self._is_polling:
                    threading.Thread(target=self._poll, name="waiting-room", daemon=True).start()
                    self._is_polling = True  # only now: a thread that could not start must not be waited for
                yield
            finally:
                self._waiters[job_id] -= 1
                if not self._waiters[job_id]:
                    del self._waiters[job_id]
                    self._pulses.pop(job_id, None)

    def _poll(self) -> None:
        """Runs while anybody waits."""
        while True:
            with self._changed:
                wanted = list(self._waiters)
                self._round += 1
                looked_in = self._round
                if not wanted:
                    self._is_polling = False
                    return
            found = self._look(wanted)
            with self._changed:
                for job_id, pulse in found.items():
                    if job_id in self._waiters:
                        self._pulses[job_id] = (looked_in, pulse)
                self._changed.notify_all()
                interval, self._interval = self._interval, min(self._interval * 1.2, LONGEST_POLL_SECONDS)
            time.sleep(interval)

    def _look(self, wanted: list[UUID]) -> dict[UUID, Pulse]:
        try:
            with self._app.app_context(), reading() as session:
                return pulses(session, wanted)
        except SQLAlchemyError as error:
            log.warning("could not look after %d waiting requests: %s", len(wanted), type(error).__name__)
            return {}
