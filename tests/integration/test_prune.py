"""What is past its time goes, and nothing else."""

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from beat.timetable import TIMETABLE
from service.artifacts.storage import ArtifactStorage
from service.jobs.execution import Claim, claim, succeed
from service.jobs.prune import prune, prune_artifacts, prune_orphans, prune_records
from service.schedules.builtin import add_builtin_schedules
from tests.support.client import KeyClient
from tests.support.database import execute


@pytest.fixture
def storage(config: dict[str, Any]) -> ArtifactStorage:
    return ArtifactStorage(Path(config["ARTIFACT_DIR"]))


AGE = "interval '40 days'"


def aged(column: str) -> str:
    """SQL for the UUIDv7 in the column as it would be, had it been made earlier."""
    digits = f"replace(CAST({column} AS text), '-', '')"
    made = f"('x' || lpad(substr({digits}, 1, 12), 16, '0'))::bit(64)::bigint"
    earlier = f"{made} - 1000 * EXTRACT(epoch FROM {AGE})::bigint"
    return f"CAST(lpad(to_hex({earlier}), 12, '0') || substr({digits}, 13) AS uuid)"


def age_jobs(app: Flask) -> None:
    """Make every job older; in one statement, at whose end the references are looked at."""
    execute(
        app,
        f"""
        WITH event AS (UPDATE job_events SET job_id = {aged("job_id")}),
             attempt AS (UPDATE job_attempts SET job_id = {aged("job_id")})
        UPDATE jobs SET id = {aged("id")}, created_at = created_at - {AGE}, finished_at = finished_at - {AGE}
        """,  # noqa: S608 - our own names
    )


def count(app: Flask, table: str) -> int:
    return int(execute(app, f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608


def finish(app: Flask, job_id: str) -> None:
    with app.app_context():
        job = claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10)
        assert job is not None
        succeed(Claim(job["id"], job["token"]), None)


def run_prune(app: Flask, storage: ArtifactStorage, *, days: int = 30) -> int:
    with app.app_context():
        return prune(days=days, idempotency_hours=72) + prune_artifacts(storage, days=days)


def test_old_final_jobs_go_with_their_attempts_and_events(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    finish(app, client.submit()["id"])
    age_jobs(app)
    finish(app, young := client.submit()["id"])

    assert run_prune(app, storage) == 1

    assert (count(app, "jobs"), count(app, "job_attempts"), count(app, "job_events")) == (1, 1, 3)
    assert client.job(young)["state"] == "succeeded"


def test_a_job_that_ended_lately_stays_however_old_it_is(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    finish(app, client.submit()["id"])
    age_jobs(app)
    execute(app, "UPDATE jobs SET finished_at = clock_timestamp()")

    assert run_prune(app, storage) == 0


def test_a_retention_that_reaches_back_past_1970_keeps_everything(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    finish(app, client.submit()["id"])
    age_jobs(app)

    assert run_prune(app, storage, days=100 * 365) == 0
    assert run_prune(app, storage) == 1


def test_old_unfinished_jobs_stay(app: Flask, client: KeyClient, storage: ArtifactStorage) -> None:
    client.submit()
    age_jobs(app)

    assert run_prune(app, storage) == 0


@pytest.mark.parametrize("spelling", ["{}", "urn:uuid:{}", "{{{}}}", "without dashes", "CAPITALS", "deep inside"])
def test_old_artifacts_go_unless_an_unfinished_job_names_them(
    app: Flask, client: KeyClient, storage: ArtifactStorage, spelling: str
) -> None:
    def upload(content: bytes) -> str:
        response = client.post("/artifacts", data=content, headers={"Content-Type": "text/csv"})
        return str(response.get_json()["id"])

    for content in (b"used", b"unused"):
        upload(content)
    execute(app, f"UPDATE artifacts SET id = {aged('id')}, created_at = created_at - {AGE}")  # noqa: S608
    used, unused = (str(row.id) for row in execute(app, "SELECT id FROM artifacts ORDER BY id"))
    young = upload(b"young")
    spelled = {"without dashes": used.replace("-", ""), "CAPITALS": used.upper()}.get(spelling, spelling.format(used))
    if spelling == "deep inside":
        client.submit(args={"value": {"files": [{"name": "a", "content": used.upper()}]}})
    else:
        client.submit("table.report", args={"artifact_id": spelled})
    names_none = client.submit()["id"]
    execute(app, """UPDATE jobs SET args = '{"artifact_id": null}' WHERE id = :id""", id=names_none)

    assert run_prune(app, storage) == 1

    with client.get(f"/artifacts/{used}/content") as found:
        assert found.data == b"used"
    assert client.get(f"/artifacts/{young}").status_code == 200
    assert client.get(f"/artifacts/{unused}").status_code == 404
    assert len([path for path in storage.root.glob("*/*") if path.is_file()]) == 2


def test_idempotency_keys_outlive_their_window_no_longer(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": "old"})
    execute(app, f"UPDATE idempotency_keys SET created_at = created_at - {AGE}")  # noqa: S608
    client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": "young"})

    run_prune(app, storage)

    assert count(app, "idempotency_keys") == 1


OLD_TICKS = """
    INSERT INTO schedule_ticks (schedule_id, slot, outcome, late_seconds)
    SELECT id, clock_timestamp() - CAST(:age AS interval), 'fired', 0 FROM schedules
    """
OLD_REPAIRS = """
    INSERT INTO repairs (hour, kind, count) VALUES (clock_timestamp() - CAST(:age AS interval), 'rescued', 1)
    """


def test_what_schedules_repairs_and_workers_left_behind_goes(app: Flask, client: KeyClient) -> None:
    with app.app_context():
        add_builtin_schedules(TIMETABLE)
    for age in ("40 days", "1 hour"):
        execute(app, OLD_TICKS, age=age)
        execute(app, OLD_REPAIRS, age=age)

    with app.app_context():
        prune_records(days=30)

    assert (count(app, "schedule_ticks"), count(app, "repairs")) == (count(app, "schedules"), 1)


def test_a_file_that_cannot_be_deleted_holds_up_no_other(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    for content in (b"first", b"second"):
        client.post("/artifacts", data=content, headers={"Content-Type": "text/csv"})
    execute(app, f"UPDATE artifacts SET id = {aged('id')}, created_at = created_at - {AGE}")  # noqa: S608
    stubborn, other = (storage.path(row.storage_key) for row in execute(app, "SELECT storage_key FROM artifacts"))
    stubborn.unlink()
    stubborn.mkdir()  # which no `unlink` removes

    assert run_prune(app, storage) == 2

    assert (stubborn.exists(), other.exists()) == (True, False)


def test_files_that_are_not_ours_stay(app: Flask, storage: ArtifactStorage) -> None:
    foreign = [storage.root / name for name in ("ab/notes.txt", "README", "ab/cd/" + "e" * 32, "zz/" + "0" * 32)]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))

    with app.app_context():
        assert prune_orphans(storage) == 0

    assert all(path.exists() for path in foreign)


def test_files_without_a_row_go_once_they_are_old(app: Flask, client: KeyClient, storage: ArtifactStorage) -> None:
    client.post("/artifacts", data=b"kept", headers={"Content-Type": "text/plain"})
    orphan, fresh = storage.write([b"orphan"]), storage.write([b"fresh"])
    yesterday = time.time() - 25 * 3600
    for path in storage.root.glob("*/*"):
        if path != storage.path(fresh.key):
            os.utime(path, (yesterday, yesterday))

    with app.app_context():
        assert prune_orphans(storage) == 1

    assert not storage.path(orphan.key).exists()
    assert storage.path(fresh.key).exists()
    assert count(app, "artifacts") == 1
