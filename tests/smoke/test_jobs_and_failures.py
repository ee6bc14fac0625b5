"""A job of each type; the broker restarted, a worker killed, workers restarted under load, two beats at once."""

from itertools import pairwise
from typing import Any

import psycopg
import pytest
from pytest_celery import CeleryTestCluster, CeleryTestSetup

from deploy.local.demo import INPUT
from service.ids import uuid7
from tests.smoke.api import Api
from tests.smoke.vendor import Vendor
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(300)


def test_a_job_of_each_type_succeeds(celery_setup: CeleryTestSetup, vendor: Vendor, api: Api) -> None:
    assert celery_setup.ready()
    table = api.upload(INPUT.read_bytes(), "text/csv", INPUT.name)
    real_input = {
        "http.request": {"url": f"{vendor.inner_api_url}/livez"},
        "table.report": {"artifact_id": table},
    }

    jobs = {
        kind["name"]: api.submit(kind["name"], **real_input.get(kind["name"], kind["example"]))
        for kind in api.get("/job-types")["items"]
    }

    ends = {name: job["state"] for name, job in zip(jobs, api.ends(list(jobs.values())), strict=True)}
    assert ends == dict.fromkeys(jobs, "succeeded")
    assert {"http.request", "table.report"} <= set(jobs)


def test_a_restart_of_the_broker_loses_no_job(
    celery_setup: CeleryTestSetup, beat_cluster: CeleryTestCluster, api: Api
) -> None:
    running = api.submit("smoke.nap", seconds=5)
    api.wait_for_state(running, "running")
    before = [api.submit("smoke.nap") for _ in range(10)]

    celery_setup.broker.kill()
    meanwhile = [api.submit("smoke.nap") for _ in range(5)]
    celery_setup.broker.restart()

    jobs = api.ends([running, *before, *meanwhile])
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert jobs[0]["attempt"] == 1, "the job that ran meanwhile was none the wiser"
    assert all(worker.container.status == "running" for worker in celery_setup.worker_cluster)


def test_the_job_of_a_killed_worker_runs_again_on_another(
    celery_setup: CeleryTestSetup, beat_cluster: CeleryTestCluster, vendor: Vendor, api: Api
) -> None:
    job = api.submit("smoke.nap", seconds=5)
    api.wait_for_state(job, "running")
    (attempt,) = api.get(f"/jobs/{job}/attempts")["items"]
    (victim,) = [node for node in celery_setup.worker_cluster if vendor.runs_on(node, attempt["worker"])]

    victim.kill()

    assert api.wait_for_state(job, "succeeded")["result"] == 2
    first, second = api.get(f"/jobs/{job}/attempts")["items"]
    assert (first["outcome"], second["outcome"]) == ("lost", "succeeded")
    assert not vendor.runs_on(victim, second["worker"])


def test_a_rolling_restart_under_load_loses_no_job_and_counts_no_attempt(
    celery_setup: CeleryTestSetup, beat_cluster: CeleryTestCluster, api: Api
) -> None:
    jobs = [api.submit("smoke.nap", seconds=0.2) for _ in range(60)]
    api.wait_for_state(jobs[0], "running", "succeeded")

    for worker in celery_setup.worker_cluster:
        worker.restart()

    ends = api.ends(jobs)
    assert {job["state"] for job in ends} == {"succeeded"}
    assert {job["attempt"] for job in ends} == {1}


def test_of_two_beats_each_slot_is_fired_once_and_one_outlives_the_other(
    beat_cluster: CeleryTestCluster, vendor: Vendor, tenant_key: Any, database: psycopg.Connection[Any]
) -> None:
    schedule = uuid7()
    database.execute(
        "INSERT INTO schedules (id, tenant_id, name, type, every_seconds, catch_up, next_slot_at) "
        "VALUES (%s, %s, 'every-second', 'smoke.nap', 1, 'all', date_trunc('second', clock_timestamp()))",
        (schedule, tenant_key.tenant_id),
    )
    wait_for(lambda: _ticks(database) >= 3, seconds=60, what="three slots")
    (holder,) = database.execute("SELECT holder FROM clock_leases").fetchone() or ("",)
    (leader,) = [node for node in beat_cluster if vendor.runs_on(node, holder)]

    leader.kill()
    seen = _ticks(database)
    wait_for(lambda: _ticks(database) >= seen + 3, seconds=60, what="three slots more, of the other beat")
    database.execute("UPDATE schedules SET enabled = false")

    slots = [row[0] for row in database.execute("SELECT slot FROM schedule_ticks ORDER BY slot")]
    steps = {(later - earlier).total_seconds() for earlier, later in pairwise(slots)}
    (jobs,) = database.execute("SELECT count(*) FROM jobs WHERE schedule_id = %s", (schedule,)).fetchone() or (0,)
    assert jobs == len(slots), "a job for each slot"
    assert steps == {1.0}, "no slot left out"


def _ticks(database: psycopg.Connection[Any]) -> int:
    (count,) = database.execute("SELECT count(*) FROM schedule_ticks WHERE job_id IS NOT NULL").fetchone() or (0,)
    return int(count)
