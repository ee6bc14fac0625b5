"""Claims of jobs that wait in this process' pipe, taken in one commit with the job before them.

Only while jobs are short. A claim that waits here longer than a moment, because a job was longer than expected, is
given back: the job is queued again, its attempt does not count, and whoever is free runs it.
"""

import logging
import time
from collections.abc import Iterable
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from service.jobs.execution import Claim, ClaimLost, give_back
from service.statements import Row

log = logging.getLogger(__name__)

WAITING_SECONDS = 1.0
"""As long as a message waits in a worker before it is given back."""


class ClaimedAhead:
    """The main thread puts claims in and takes them out again; the lease keeper's thread gives back what waits."""

    def __init__(self) -> None:
        self._claims: dict[UUID, tuple[float, Row]] = {}

    def put(self, jobs: Iterable[Row]) -> None:
        """Keep the claimed jobs until their turns come."""
        now = time.monotonic()
        self._claims.update((job["id"], (now, job)) for job in jobs)

    def take(self, job_id: UUID) -> Row | None:
        """The claimed job, whose turn it is. None: it was not claimed ahead, or it was given back."""
        return self._claims.pop(job_id, (0.0, None))[1]

    def has_waited(self, seconds: float) -> bool:
        """Whether a claim waits longer than so many seconds."""
        claimed_before = time.monotonic() - seconds
        return any(claimed_at < claimed_before for claimed_at, _ in tuple(self._claims.values()))

    def give_back(self, *, older_than: float = 0.0) -> None:
        """Give back what waits longer than so many seconds. Inside the app's context."""
        claimed_before = time.monotonic() - older_than
        for job_id, (claimed_at, _) in tuple(self._claims.items()):
            if claimed_at > claimed_before:
                continue
            job = self.take(job_id)
            if job is None:  # its turn has come meanwhile
                continue
            try:
                give_back(Claim(job["id"], job["token"]))
            except ClaimLost:
                log.info("job %s was taken over while it waited", job_id)
            except SQLAlchemyError as error:
                log.warning("could not give back job %s: %s; its lease will run out", job_id, type(error).__name__)
            else:
                log.info("gave back job %s, which waited behind a longer one", job_id)
