"""Job types that only tests need. Loaded into test workers as a package's entry point would load its own."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from service.queues import Queue
from worker.context import JobContext, PermanentFailure, RetryLater
from worker.job_task import job


class AnyArgs(Schema):
    """Whatever a test wants to hand over."""

    value = fields.Raw(allow_none=True)
    seconds = fields.Float(load_default=0.0)
    path = fields.String()


@job("test.echo", args=AnyArgs, example={"value": 1})
def echo(_ctx: JobContext, *, value: Any = None, **_: Any) -> Any:
    """Returns what it is given."""
    return value


@job("test.sleep", args=AnyArgs, timeout=60, max_attempts=3)
def sleep(ctx: JobContext, *, seconds: float, path: str = "", **_: Any) -> int:
    """Sleeps in small steps; appends a line per attempt to a file first."""
    _note(path, f"{ctx.attempt} {os.getpid()}")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ctx.progress(100 - 100 * left / seconds, f"{left:.1f} s to go")
        time.sleep(min(left, 0.02))
    return ctx.attempt


@job("test.stubborn", args=AnyArgs, timeout=1, max_attempts=1, queue=Queue.DEFAULT)
def stubborn(_ctx: JobContext, *, seconds: float, **_: Any) -> None:
    """Swallows its timeout and goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(end - time.monotonic())
        except Exception:  # noqa: BLE001, S112 - to be stubborn is its purpose
            continue


@job("test.fail", args=AnyArgs, max_attempts=3, retry_backoff=1, retry_backoff_max=1, retry_jitter=False)
def fail(_ctx: JobContext, *, value: Any = None, **_: Any) -> None:
    """Fails as it is told."""
    if value == "permanent":
        raise PermanentFailure("this cannot be mended", kind="broken")
    if value == "later":
        raise RetryLater("come back", after_seconds=3600, kind="busy")
    if value == "not json":
        return object()  # type: ignore[return-value] # the point of the test
    raise ValueError("this may mend")


@job("test.deep", args=AnyArgs, max_attempts=1)
def deep(_ctx: JobContext, *, value: int, **_: Any) -> Any:
    """Returns lists in lists, so many."""
    nested: Any = []
    for _level in range(value):
        nested = [nested]
    return nested


@job("test.narrow", args=AnyArgs, autoretry_for=(ConnectionError,), max_attempts=3)
def narrow(_ctx: JobContext, **_: Any) -> None:
    """Raises what it is not to be retried for."""
    raise ValueError("no retry was declared for this")


@job("test.die", args=AnyArgs, max_attempts=3)
def die(_ctx: JobContext, *, path: str = "", **_: Any) -> None:
    """Kills its own process, every time."""
    _note(path, "dying")
    os.kill(os.getpid(), signal.SIGKILL)


@job("test.artifact", args=AnyArgs)
def make_artifact(ctx: JobContext, *, value: str = "content", **_: Any) -> str:
    """Makes a file."""
    return str(ctx.save_artifact("made.txt", "text/plain", value.encode()))


@job("test.parent", args=AnyArgs)
def parent(ctx: JobContext, *, value: Any = None, **_: Any) -> None:
    """Submits another job, and fails after that if it is told to."""
    ctx.submit("test.echo", {"value": "from the parent"})
    if value == "fail":
        raise PermanentFailure("after the child was registered")


def _note(path: str, line: str) -> None:
    if path:
        with Path(path).open("a") as file:
            file.write(f"{line}\n")
