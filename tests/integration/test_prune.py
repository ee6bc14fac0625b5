"""What is past its time goes, and nothing else."""

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import text

from service.artifacts.storage import ArtifactStorage
from service.jobs.execution import Claim, claim, succeed
from service.jobs.prune import prune, prune_orphans
from service.transaction import reading, transaction
from tests.support.client import KeyClient


@pytest.fixture
def storage(config: dict[str, Any]) -> ArtifactStorage:
    return ArtifactStorage(Path(config["ARTIFACT_DIR"]))


def age(app: Flask, table: str, *columns: str) -> None:
    changes = ", ".join(f"{column} = {column} - interval '40 days'" for column in columns)
    with app.app_context(), transaction() as session:
        session.execute(text(f"UPDATE {table} SET {changes}"))  # noqa: S608 - our own names


def count(app: Flask, table: str) -> int:
    with app.app_context(), reading() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608


def finish(app: Flask, job_id: str) -> None:
    with app.app_context():
        job = claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10)
        assert job is not None
        succeed(Claim(job["id"], job["token"]), None)


def run_prune(app: Flask, storage: ArtifactStorage) -> int:
    with app.app_context():
        return prune(storage, days=30, idempotency_hours=72)


def test_old_final_jobs_go_with_their_attempts_and_events(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    finish(app, client.submit()["id"])
    age(app, "jobs", "created_at", "finished_at")
    young = client.submit()["id"]

    assert run_prune(app, storage) == 1

    assert (count(app, "jobs"), count(app, "job_attempts"), count(app, "job_events")) == (1, 0, 1)
    assert client.job(young)["state"] == "queued"


def test_old_unfinished_jobs_stay(app: Flask, client: KeyClient, storage: ArtifactStorage) -> None:
    client.submit()
    age(app, "jobs", "created_at")

    assert run_prune(app, storage) == 0


def test_old_artifacts_go_unless_an_unfinished_job_names_them(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    def upload(content: bytes) -> str:
        response = client.post("/artifacts", data=content, headers={"Content-Type": "text/csv"})
        return str(response.get_json()["id"])

    used, unused = upload(b"used"), upload(b"unused")
    client.submit("table.report", args={"artifact_id": used})
    age(app, "artifacts", "created_at")

    run_prune(app, storage)

    with client.get(f"/artifacts/{used}/content") as content:
        assert content.data == b"used"
    assert client.get(f"/artifacts/{unused}").status_code == 404
    assert len([path for path in storage.root.glob("*/*") if path.is_file()]) == 1


def test_idempotency_keys_outlive_their_window_no_longer(
    app: Flask, client: KeyClient, storage: ArtifactStorage
) -> None:
    client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": "old"})
    age(app, "idempotency_keys", "created_at")
    client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": "young"})

    run_prune(app, storage)

    assert count(app, "idempotency_keys") == 1


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
