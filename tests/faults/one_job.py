"""One job at a time, where a row is about a single one."""

from typing import Any
from uuid import uuid4

import urllib3

from service.jobs.states import FINAL
from tests.faults.stack import Stack
from tests.support.waiting import wait_for

HTTP = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=3, read=30), maxsize=20)


def post(stack: Stack, path: str, body: Any, *, key: str | None = None) -> urllib3.BaseHTTPResponse:
    """A request of the first tenant's."""
    headers = {"Authorization": f"Bearer {stack.tenants[0].key}", **({"Idempotency-Key": key} if key else {})}
    return HTTP.request("POST", f"{stack.api_url}{path}", json=body, headers=headers)


def submit(stack: Stack, type_: str = "fault.effect", **job: Any) -> str:
    """Submit a job that must be accepted; returns its id. Sent again, with its key, while the answer is a 503."""
    key = uuid4().hex

    def send() -> str | None:
        response = post(stack, "/jobs", {"type": type_, **job}, key=key)
        assert response.status in {202, 503}, response.data
        return str(response.json()["id"]) if response.status == 202 else None

    return wait_for(send, seconds=60, what="an accepted submission")


def row(stack: Stack, job_id: str) -> dict[str, Any]:
    """The job's row."""
    return stack.execute("SELECT * FROM jobs WHERE id = %s", job_id)[0]


def wait_for_state(stack: Stack, job_id: str, state: str, *, seconds: float = 60) -> dict[str, Any]:
    """The job's row once it is in that state."""

    def look() -> dict[str, Any] | None:
        job = row(stack, job_id)
        return job if job["state"] == state else None

    return wait_for(look, seconds=seconds, what=f"job {job_id} to be {state}")


def wait_for_end(stack: Stack, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
    """The job's row once it is final."""

    def look() -> dict[str, Any] | None:
        job = row(stack, job_id)
        return job if job["state"] in FINAL else None

    return wait_for(look, seconds=seconds, what=f"the end of job {job_id}")


def outcomes(stack: Stack, job_id: str) -> list[str | None]:
    """How its attempts ended, in order."""
    rows = stack.execute("SELECT outcome FROM job_attempts WHERE job_id = %s ORDER BY token", job_id)
    return [one["outcome"] for one in rows]


def effects(stack: Stack, job_id: str) -> int:
    """How many effects of the job were committed."""
    return len(stack.execute("SELECT 1 FROM fault_effects WHERE job_id = %s", job_id))
