"""A process dies with successes that it has told of and not yet committed: none is lost, none takes effect twice."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service.transaction import reading
from tests.support.client import KeyClient
from tests.support.processes import WORKER, running
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("execution")]

JOBS = 1000


@pytest.mark.parametrize("point", ["succeed.handed_over", "succeed.before_commit", "succeed.after_commit"])
def test_what_a_process_had_not_committed_when_it_died_runs_again_at_once(
    config: dict[str, Any], client: KeyClient, tmp_path: Path, point: str
) -> None:
    once = tmp_path / "once"
    response = client.post("/jobs/batch", json={"jobs": [{"type": "test.echo", "args": {"value": 1}}] * JOBS})
    assert response.status_code == 202, response.text

    # No clock runs: what the worker's parent would not give back stayed running.
    command = (*WORKER, "--concurrency", "2")
    with running(command, config, tmp_path / "worker.log", FAILPOINTS=f"{point}=exit,token={once}") as worker:
        wait_for(lambda: count(client, "SELECT count(*) FROM jobs WHERE state = 'succeeded'") > JOBS // 10)
        before = set(worker.children())
        once.touch()
        wait_for(lambda: not once.exists(), what="a process that dies")
        wait_for(lambda: count(client, "SELECT count(*) FROM jobs WHERE state = 'succeeded'") == JOBS, seconds=20)
        wait_for(lambda: set(worker.children()) != before, what="a new process")

    assert count(client, _DOUBLED) == 0
    assert count(client, "SELECT count(*) FROM jobs WHERE attempt > 2") == 0
    if point != "succeed.after_commit":
        assert count(client, "SELECT count(*) FROM job_attempts WHERE outcome = 'lost'") > 0


def test_a_worker_that_stops_has_committed_all_that_it_told_of(
    config: dict[str, Any], client: KeyClient, tmp_path: Path
) -> None:
    response = client.post("/jobs/batch", json={"jobs": [{"type": "test.echo", "args": {"value": 1}}] * JOBS})
    assert response.status_code == 202, response.text

    with running((*WORKER, "--concurrency", "2"), config, tmp_path / "worker.log") as worker:
        wait_for(lambda: count(client, "SELECT count(*) FROM jobs WHERE state = 'succeeded'") > JOBS // 10)
        worker.send(15)
        worker.wait(20)

    assert count(client, "SELECT count(*) FROM jobs WHERE state = 'running'") == 0
    assert count(client, "SELECT count(*) FROM job_attempts WHERE outcome <> 'succeeded'") == 0


_DOUBLED = """
    SELECT count(*)
      FROM (SELECT job_id FROM job_events WHERE name = 'succeeded' GROUP BY job_id HAVING count(*) > 1) AS doubled
"""


def count(client: KeyClient, statement: str) -> int:
    with client.app.app_context(), reading() as session:
        return int(session.execute(text(statement)).scalar_one())
