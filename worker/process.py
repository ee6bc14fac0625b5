"""What a pool process makes once, after the fork, and keeps for all its jobs."""

from dataclasses import dataclass
from pathlib import Path

from flask import Flask

from service.artifacts.storage import ArtifactStorage
from service.direct_connection import DirectConnection
from service.extensions import db
from worker.ahead import ClaimedAhead
from worker.finisher import Finisher
from worker.lease import LeaseKeeper


@dataclass(frozen=True)
class PoolProcess:
    """Its connection for claims and finishes, its claims of what comes next, its two threads, and its storage."""

    connection: DirectConnection
    ahead: ClaimedAhead
    keeper: LeaseKeeper
    finisher: Finisher
    storage: ArtifactStorage


def process_of(app: Flask) -> PoolProcess:
    """This process' own, made by the first job. Inside the app's context."""
    process: PoolProcess | None = app.extensions.get("pool_process")
    if process is None:
        prepare = app.config["DATABASE_PREPARE"]
        ahead = ClaimedAhead()
        process = app.extensions["pool_process"] = PoolProcess(
            connection=DirectConnection(db.engine, prepare=prepare),
            ahead=ahead,
            keeper=LeaseKeeper(app, ahead),
            # A connection of its own: a claim must not wait for a commit.
            finisher=Finisher(DirectConnection(db.engine, prepare=prepare)),
            storage=ArtifactStorage(Path(app.config["ARTIFACT_DIR"])),
        )
    return process


def forget_process(app: Flask) -> None:
    """After a fork: what the parent made is not ours. Its connections are left alone, for they are shared."""
    app.extensions.pop("pool_process", None)


def settle_process(app: Flask) -> None:
    """Before a clean exit: what jobs came to is written, and what was not begun is given back."""
    process: PoolProcess | None = app.extensions.get("pool_process")
    if process is not None:
        process.finisher.settle()
        with app.app_context():
            process.ahead.give_back()
