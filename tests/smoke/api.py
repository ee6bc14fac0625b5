"""An HTTP client for a Millrace that runs somewhere else."""

from typing import Any

import urllib3

from tests.support.waiting import wait_for

FINAL = {"succeeded", "failed", "cancelled", "expired"}


class Api:
    """Calls below `/api/v1` as one tenant."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._http = urllib3.PoolManager(timeout=30, retries=False)

    def get(self, path: str) -> Any:
        """What is answered 200."""
        answer = self._http.request("GET", self._url + path, headers=self._headers)
        assert answer.status == 200, answer.data
        return answer.json()

    def submit(self, type_: str, **args: Any) -> str:
        """Submit a job that must be accepted; its id."""
        answer = self._http.request(
            "POST", f"{self._url}/jobs", json={"type": type_, "args": args}, headers=self._headers
        )
        assert answer.status == 202, answer.data
        return str(answer.json()["id"])

    def upload(self, content: bytes, content_type: str, name: str) -> str:
        """Store a file; its id."""
        headers = {
            **self._headers,
            "Content-Type": content_type,
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        answer = self._http.request("POST", f"{self._url}/artifacts", body=content, headers=headers)
        assert answer.status == 201, answer.data
        return str(answer.json()["id"])

    def wait_until_it_answers(self) -> None:
        """Until the API is up."""
        wait_for(self._answers, seconds=60, what="an answer of the API")

    def wait_for_state(self, job_id: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """The job, once it is in one of the states."""

        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.get(f"/jobs/{job_id}")
            return job if job["state"] in states else None

        return wait_for(look, seconds=seconds, what=f"job {job_id} becoming {' or '.join(states)}")

    def wait_for_second_attempt(self, job_id: str) -> None:
        """Until the job was claimed again."""
        wait_for(lambda: self.get(f"/jobs/{job_id}")["attempt"] >= 2, seconds=90, what=f"another attempt of {job_id}")

    def ends(self, jobs: list[str], *, seconds: float = 90) -> list[dict[str, Any]]:
        """The jobs, once all of them have ended, however they did."""
        return [self.wait_for_state(job, *FINAL, seconds=seconds) for job in jobs]

    def _answers(self) -> bool:
        try:
            return bool(self._http.request("GET", f"{self._url}/openapi.json", headers=self._headers).status)
        except urllib3.exceptions.HTTPError:
            return False
