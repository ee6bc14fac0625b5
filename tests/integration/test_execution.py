"""Jobs run by a real worker process, from submission to their end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import KeyClient
from tests.support.processes import BEAT, WORKER, Process, running
from tests.support.waiting import wait_for

pytestmark = pytest.mark.xdist_group("execution")


@pytest.fixture
def worker(config: dict[str, Any], client: KeyClient, tmp_path: Path) -> Iterator[Process]:
    with running((*WORKER, "--concurrency", "2"), config, tmp_path / "worker.log") as process:
        yield process


@pytest.fixture
def beat(config: dict[str, Any], client: KeyClient, tmp_path: Path) -> Iterator[Process]:
    with running(BEAT, config, tmp_path / "beat.log") as process:
        yield process


RERUN_SECONDS = 2.0
"""The promise for a killed pool process."""

FINAL = {"succeeded", "failed", "cancelled", "expired"}


def ended(client: KeyClient, job_id: str, *, seconds: float = 30) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = client.job(job_id)
        return job if job["state"] in FINAL else None

    return wait_for(look, seconds=seconds, what=f"the end of job {job_id}")


def test_a_job_runs_and_its_result_is_kept(client: KeyClient, worker: Process) -> None:
    job = client.submit("test.echo", args={"value": {"answer": 42}})

    done = ended(client, job["id"])

    assert (done["state"], done["result"], done["attempt"]) == ("succeeded", {"answer": 42}, 1)
    assert client.get(f"/jobs/{job['id']}/result").get_json() == {"answer": 42}
    events = client.get(f"/jobs/{job['id']}/events").get_json()["items"]
    assert [(event["seq"], event["name"]) for event in events] == [(1, "queued"), (2, "started"), (3, "succeeded")]


def test_a_killed_pool_process_costs_one_attempt_and_two_seconds(
    client: KeyClient, worker: Process, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    job = client.submit("test.sleep", args={"seconds": 3, "path": str(notes)})
    first_pid = int(wait_for(lambda: notes.read_text().split() if notes.exists() else None)[1])

    os.kill(first_pid, signal.SIGKILL)
    wait_for(lambda: len(notes.read_text().splitlines()) == 2, seconds=RERUN_SECONDS, what="a second attempt")

    done = ended(client, job["id"])
    assert (done["state"], done["attempt"], done["result"]) == ("succeeded", 2, 2)
    outcomes = [item["outcome"] for item in client.get(f"/jobs/{job['id']}/attempts").get_json()["items"]]
    assert outcomes == ["lost", "succeeded"]


def test_a_failing_job_is_retried_until_its_attempts_are_spent(
    client: KeyClient, worker: Process, beat: Process
) -> None:
    job = client.submit("test.fail")

    done = ended(client, job["id"])

    assert (done["state"], done["attempt"]) == ("failed", 3)
    assert done["error"] == {"type": "ValueError", "message": "this may mend", "attempt": 3}


def test_a_job_that_kills_its_process_fails_after_its_attempts(
    client: KeyClient, worker: Process, beat: Process
) -> None:
    job = client.submit("test.die")

    done = ended(client, job["id"], seconds=60)

    assert (done["state"], done["attempt"], done["error"]["type"]) == ("failed", 3, "process_lost")


def test_a_job_that_ignores_its_timeout_is_killed(client: KeyClient, worker: Process) -> None:
    job = client.submit("test.stubborn", args={"seconds": 50})

    done = ended(client, job["id"], seconds=40)

    assert (done["state"], done["error"]["type"]) == ("failed", "timeout")


def test_a_running_job_can_be_cancelled(client: KeyClient, worker: Process, tmp_path: Path) -> None:
    job = client.submit("test.sleep", args={"seconds": 50})
    wait_for(lambda: client.job(job["id"])["state"] == "running")

    response = client.post(f"/jobs/{job['id']}/cancel")

    assert response.status_code == 202
    assert ended(client, job["id"])["state"] == "cancelled"


def test_a_stopping_worker_gives_its_job_back_uncounted(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    with running((*WORKER, "--concurrency", "1"), config, tmp_path / "first.log", SHUTDOWN_GRACE=0.5) as first:
        job = client.submit("test.sleep", args={"seconds": 30})
        wait_for(lambda: client.job(job["id"])["state"] == "running")

        first.send(signal.SIGTERM)
        first.wait(20)

    given_back = client.job(job["id"])
    assert (given_back["state"], given_back["attempt"]) == ("queued", 0)
    assert client.get(f"/jobs/{job['id']}/attempts").get_json()["items"][0]["outcome"] == "given_back"


def test_a_worker_that_stops_while_it_claims_its_first_job_gives_it_back_uncounted(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    slow_claim: dict[str, Any] = {"SHUTDOWN_GRACE": 0.5, "FAILPOINTS": "claim.after_commit=sleep:3,times=1"}
    with running((*WORKER, "--concurrency", "1"), config, tmp_path / "worker.log", **slow_claim) as worker:
        job = client.submit("test.sleep", args={"seconds": 30}, max_attempts=1)
        wait_for(lambda: client.job(job["id"])["state"] == "running")

        worker.send(signal.SIGTERM)
        worker.wait(20)

    given_back = client.job(job["id"])
    assert (given_back["state"], given_back["attempt"]) == ("queued", 0)


def test_a_result_may_have_the_characters_that_stand_for_nul_in_json(client: KeyClient, worker: Process) -> None:
    look_alike = "\\u0000 and \\\\u0000"
    job = client.submit("test.echo", args={"value": look_alike})

    assert ended(client, job["id"])["result"] == look_alike


def test_a_result_that_no_answer_could_hold_is_refused(client: KeyClient, worker: Process) -> None:
    job = client.submit("test.deep", args={"value": 250})

    assert ended(client, job["id"])["error"]["type"] == "bad_result"


def test_a_child_job_comes_into_being_with_its_parents_success_and_only_then(
    client: KeyClient, worker: Process, beat: Process
) -> None:
    good = client.submit("test.parent")["id"]
    bad = client.submit("test.parent", args={"value": "fail"})["id"]

    assert ended(client, good)["state"] == "succeeded"
    assert ended(client, bad)["state"] == "failed"

    def children() -> list[Any]:
        listed = client.get("/jobs", query_string={"type": "test.echo"}).get_json()["items"]
        return [job["result"] for job in listed if job["state"] == "succeeded"]

    wait_for(children, what="the child's success")
    assert children() == ["from the parent"]
