"""Redis killed and started again under a busy worker: its main process goes on and takes new work.

The stock transport fails this (celery and kombu 5.7.0); STOCK_TRANSPORT=1 in the environment shows it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from deploy.local.servers import RedisServer

RECOVERY_SECONDS = 40


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the server runs as another user when the tests run as root.
    path = Path(tempfile.mkdtemp(prefix="millrace-restart-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("remote_control", [True, False], ids=["remote control", "no remote control"])
def test_the_worker_survives_a_restart_of_redis_while_it_holds_messages(folder: Path, *, remote_control: bool) -> None:
    running, prefetched, afterwards = (folder / name for name in ("running", "prefetched", "afterwards"))
    redis = RedisServer.start(folder / "redis")
    try:
        with worker(folder, redis.url, remote_control=remote_control) as process:
            submit(redis.url, running, seconds=3)
            submit(redis.url, prefetched, seconds=0)
            wait_for(running.exists, process, "the first task never started")
            with closing(Redis.from_url(redis.url)) as client:
                wait_for(lambda: client.llen("celery") == 0, process, "the second task was not prefetched")

            redis.kill()
            redis = RedisServer.start(folder / "redis", port=redis.port)
            submit(redis.url, afterwards, seconds=0)

            wait_for(afterwards.exists, process, "the new task never ran")
            assert process.poll() is None
    finally:
        redis.stop()


@contextmanager
def worker(folder: Path, broker_url: str, *, remote_control: bool) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "worker.log"
    arguments = ["--pool=prefork", "--concurrency=1", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.faults.napping_worker", "worker", *arguments],
            env={**os.environ, "BROKER_URL": broker_url, "REMOTE_CONTROL": str(int(remote_control))},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-5000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()  # its pool child ends with it
            process.wait()


def submit(broker_url: str, marker: Path, *, seconds: float) -> None:
    """Publish over a connection of its own, so that none outlives the server that it was made to."""
    with Celery(broker=broker_url, set_as_current=False) as app, app.connection_for_write() as connection:
        app.send_task("nap", args=[str(marker), seconds], connection=connection)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], complaint: str) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not condition():
        assert process.poll() is None, f"the worker's main process ended with {process.returncode}"
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)
