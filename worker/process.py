"""What a pool process makes once, after the fork, and keeps for all its jobs."""

from dataclasses import dataclass
from pathlib import Path

from flask import Flask

from service.artifacts.storage import ArtifactStorage
from service.direct_connection import DirectConnection
from service.extensions import db
from worker.finisher import Finisher
from worker.lease import LeaseKeeper


@dataclass(frozen=True)
class PoolProcess:
    """Its connection for claims and finishes, its two threads, and where artifacts are."""

    connection: DirectConnection
    keeper: LeaseKeeper
    finisher: Finisher
    storage: ArtifactStorage


def process_of(app: Flask) -> PoolProcess:
    """This process' own, made by the first job. Inside the app's context."""
    process: PoolProcess | None = app.extensions.get("pool_process")
    if process is None:
        prepare = app.config["DATABASE_PREPARE"]
        process = app.extensions["pool_process"] = PoolProcess(
            connection=DirectConnection(db.engine, prepare=prepare),
            keeper=LeaseKeeper(app),
            # A connection of its own: a claim must not wait for a commit.
            finisher=Finisher(DirectConnection(db.engine, prepare=prepare)),
            storage=ArtifactStorage(Path(app.config["ARTIFACT_DIR"])),
        )
    return process


def forget_process(app: Flask) -> None:
    """After a fork: what the parent made is not ours. Its connections are left alone, for they are shared."""
    app.extensions.pop("pool_process", None)


def settle_process(app: Flask) -> None:
    """Before a clean exit: what jobs came to is written."""
    process: PoolProcess | None = app.extensions.get("pool_process")
    if process is not None:
        process.finisher.settle()
