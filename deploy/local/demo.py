"""The main job once, on real input, through the same HTTP calls that a customer would make."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import urllib3
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.local.http import client
from deploy.local.stack import Stack

INPUT = Path(__file__).parent / "data" / "penguins.csv"
JOB_TYPE = "table.report"
JOB_SECONDS = 120.0
POLL_SECONDS = 0.1
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
NOTES_SHOWN = 3


class DemoFailure(Exception):
    """The main job did not succeed; the message is for people."""


@dataclass(frozen=True)
class DemoReport:
    """What the main job made: its id, key figures of its result, and the files that were fetched."""

    job_id: str
    seconds: float
    figures: list[str]
    files: list[Path]


def run_demo(stack: Stack, reports: Path, console: Console, *, meanwhile: Callable[[], None]) -> DemoReport:
    """Upload the shipped table, have a report made of it, show the progress, fetch the report into `reports`.

    `meanwhile` is called several times per second. Raises DemoFailure.
    """
    api = _Api(stack)
    began = time.monotonic()
    console.print(f"Running the main job on real input: [bold]{JOB_TYPE}[/] on {INPUT.name}")
    artifact = api.call(
        "POST",
        "/artifacts",
        body=INPUT.read_bytes(),
        headers={"Content-Type": "text/csv", "Content-Disposition": f'attachment; filename="{INPUT.name}"'},
    )
    job = api.call(
        "POST",
        "/jobs",
        body=orjson.dumps({"type": JOB_TYPE, "args": {"artifact_id": artifact["id"]}}),
        headers={"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())},
    )
    job = _follow(api, str(job["id"]), console, meanwhile)
    if job["state"] != "succeeded":
        error = job.get("error") or {}
        raise DemoFailure(f"The job {job['id']} ended as {job['state']}: {error.get('message', 'no error was stored')}")
    files = _fetch_reports(api, str(job["id"]), reports)
    return DemoReport(str(job["id"]), time.monotonic() - began, key_figures(job["result"]), files)


def _follow(api: "_Api", job_id: str, console: Console, meanwhile: Callable[[], None]) -> dict[str, Any]:
    columns = (
        TextColumn("{task.fields[state]:<9}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    deadline = time.monotonic() + JOB_SECONDS
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=100, state="queued")
        while True:
            job = api.call("GET", f"/jobs/{job_id}")
            state = str(job["state"])
            now = job.get("progress") or {}
            if state in FINAL_STATES:
                done = 100 if state == "succeeded" else now.get("percent", 0)
                progress.update(bar, completed=done, description="", state=state)
                return job
            progress.update(
                bar, completed=now.get("percent") or 0, description=escape(now.get("message") or ""), state=state
            )
            if time.monotonic() > deadline:
                raise DemoFailure(
                    f"The job {job_id} is still {state} after {JOB_SECONDS:.0f} s; see the workers' logs."
                )
            meanwhile()
            time.sleep(POLL_SECONDS)


def _fetch_reports(api: "_Api", job_id: str, reports: Path) -> list[Path]:
    files = []
    for artifact in api.call("GET", f"/jobs/{job_id}/artifacts")["items"]:
        # The name is the job's own; only its last part may decide where we write.
        file = reports / Path(str(artifact["name"])).name
        file.write_bytes(api.fetch(f"/artifacts/{artifact['id']}/content"))
        files.append(file)
    return files


def key_figures(result: Mapping[str, Any]) -> list[str]:
    """What the report found, in a few lines: the table's size, and the report's own notes on it."""
    size = f"{result['rows']} rows, {result['columns']} columns, {result['missing_cells']} missing values"
    return [size, *(str(note["text"]) for note in result["notes"][:NOTES_SHOWN])]


class _Api:
    """The stack's API with its key. Raises DemoFailure for whatever is not an answer with 2xx."""

    def __init__(self, stack: Stack) -> None:
        self._http = client()
        self._url = stack.api_url
        self._authorization = {"Authorization": f"Bearer {stack.api_key}"}

    def call(
        self, method: str, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        return cast("dict[str, Any]", orjson.loads(self._request(method, path, body, headers)))

    def fetch(self, path: str) -> bytes:
        return self._request("GET", path)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        try:
            answer = self._http.request(
                method, self._url + path, body=body, headers={**self._authorization, **(headers or {})}
            )
        except urllib3.exceptions.HTTPError as error:
            raise DemoFailure(f"{method} {path} was not answered: {error}") from error
        if not 200 <= answer.status < 300:  # noqa: PLR2004  # HTTP's successes
            raise DemoFailure(f"{method} {path} was answered {answer.status}: {answer.data.decode(errors='replace')}")
        return answer.data
