"""Move a job through its life as a worker would, without one: through the real use cases."""

from typing import Any
from uuid import UUID

from flask import Flask

from service.jobs.execution import Claim, claim, fail, succeed

WORKER = "test@worker"


def start(app: Flask, job_id: str) -> Claim:
    """Claim the job; it is running from here on."""
    with app.app_context():
        row = claim(UUID(job_id), worker=WORKER, lease_seconds=30, grace_seconds=10)
    assert row is not None, "the job cannot be claimed"
    return Claim(row["id"], row["token"])


def finish(app: Flask, job_id: str, result: Any = None) -> None:
    """Run the job to its end with this result."""
    finish_attempt(app, start(app, job_id), result)


def finish_attempt(app: Flask, claimed: Claim, result: Any = None) -> None:
    """End a running attempt well."""
    with app.app_context():
        succeed(claimed, result)


def break_down(app: Flask, job_id: str, message: str = "no such table") -> None:
    """Run the job to its end as failed for good."""
    claimed = start(app, job_id)
    with app.app_context():
        fail(claimed, {"type": "broken", "message": message}, traceback="Traceback: line 1", retry_after=None)
