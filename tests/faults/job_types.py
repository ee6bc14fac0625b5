"""Job types for the fault suite: one whose effect can be counted, and handlers that misbehave on purpose."""

import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.extensions import db
from worker.context import JobContext, PermanentFailure
from worker.job_task import job

EFFECTS_TABLE = "CREATE TABLE fault_effects (job_id uuid NOT NULL, attempt integer NOT NULL)"
"""No unique constraint: a doubled effect must show, not be refused."""
_EFFECT = text("INSERT INTO fault_effects (job_id, attempt) VALUES (:job_id, :attempt)")


class EffectArgs(Schema):
    """How long the handler works, and in how many attempts it goes wrong first."""

    seconds = fields.Float(load_default=0.0)
    failures = fields.Integer(load_default=0)
    crashes = fields.Integer(load_default=0)
    permanent = fields.Boolean(load_default=False)


@job("fault.effect", args=EffectArgs, max_attempts=20, retry_backoff=1, retry_backoff_max=1, retry_jitter=False)
def effect(ctx: JobContext, *, seconds: float, failures: int, crashes: int, permanent: bool) -> dict[str, int]:
    """Works for a while, then registers one row as its effect."""
    ctx.add_effect(lambda session: _store_effect(session, ctx))
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ctx.progress(100 - 100 * left / seconds)
        time.sleep(min(left, 0.05))
    if ctx.attempt <= crashes:
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.attempt <= failures:
        raise ConnectionError("this may mend")
    if permanent:
        raise PermanentFailure("nothing mends this")
    return {"attempt": ctx.attempt}


def _store_effect(session: Session, ctx: JobContext) -> None:
    session.execute(_EFFECT, {"job_id": ctx.job_id, "attempt": ctx.attempt})


class MisbehaviourArgs(Schema):
    """What to do wrong."""

    how = fields.String(required=True)
    path = fields.String(load_default="")


@job("fault.misbehave", args=MisbehaviourArgs, timeout=2, max_attempts=2, retry_backoff_max=1, retry_jitter=False)
def misbehave(ctx: JobContext, *, how: str, path: str) -> Any:
    """Does what no handler should do; each way has a function of its own below."""
    return MISBEHAVIOURS[how](ctx, path)


class Unprintable(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def _hang(_ctx: JobContext, _path: str) -> None:
    """Out of reach of every signal but SIGKILL."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    while True:
        time.sleep(1)


def _eat_memory(_ctx: JobContext, _path: str) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(50 << 20))


def _block_the_gil(_ctx: JobContext, _path: str) -> None:
    """Exponential backtracking: no other thread of the process runs meanwhile, the lease's keeper included."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def _fork(_ctx: JobContext, path: str) -> int:
    """Parent and child both come back from the handler."""
    if os.fork() == 0:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return 0
    os.wait()
    return 1


def _kill_itself(_ctx: JobContext, _path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crash(_ctx: JobContext, _path: str) -> None:
    """A segmentation fault, as a faulty extension module would have it."""
    ctypes.string_at(0)


def _leave_at_once(_ctx: JobContext, _path: str) -> None:
    os._exit(0)


def _leave(_ctx: JobContext, _path: str) -> None:
    sys.exit(3)


def _interrupt(_ctx: JobContext, _path: str) -> None:
    raise KeyboardInterrupt


def _recurse(ctx: JobContext, path: str) -> None:
    _recurse(ctx, path)


def _close_the_connection(_ctx: JobContext, _path: str) -> str:
    """Ends every connection of its process behind SQLAlchemy's back."""
    connection = db.session.connection()
    connection.execute(text("SELECT 1"))
    os.close(connection.connection.dbapi_connection.fileno())  # type: ignore[union-attr]
    return "done"


def _end_the_backend(_ctx: JobContext, _path: str) -> str:
    db.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    return "never"


def _leave_a_transaction_open(ctx: JobContext, _path: str) -> str:
    """Writes its effect in a transaction that it does not end: none of that may be kept."""
    _store_effect(db.session(), ctx)
    return "done"


def _return_an_object(_ctx: JobContext, _path: str) -> object:
    return object()


def _return_too_much(_ctx: JobContext, _path: str) -> str:
    return "x" * (2 << 20)


def _return_a_surrogate(_ctx: JobContext, _path: str) -> str:
    return "\ud800"


def _raise_unprintable(_ctx: JobContext, _path: str) -> None:
    raise Unprintable


def _raise_with_nul(_ctx: JobContext, _path: str) -> None:
    raise PermanentFailure("before\x00after")


def _raise_with_surrogate(_ctx: JobContext, _path: str) -> None:
    raise PermanentFailure("before\ud800after")


def _report_odd_progress(ctx: JobContext, _path: str) -> str:
    """Long enough that each of them is stored, or refused."""
    for percent, message in ((float("nan"), "no number"), (10.0, "NUL \x00"), (20.0, "surrogate \ud800")):
        ctx.progress(percent, message)
        time.sleep(0.6)
    return "done"


MISBEHAVIOURS = {
    "hang": _hang,
    "eat memory": _eat_memory,
    "block the GIL": _block_the_gil,
    "fork": _fork,
    "kill itself": _kill_itself,
    "crash": _crash,
    "leave at once": _leave_at_once,
    "leave": _leave,
    "interrupt": _interrupt,
    "recurse": _recurse,
    "close the connection": _close_the_connection,
    "end the backend": _end_the_backend,
    "leave a transaction open": _leave_a_transaction_open,
    "return an object": _return_an_object,
    "return too much": _return_too_much,
    "return a surrogate": _return_a_surrogate,
    "raise unprintable": _raise_unprintable,
    "raise with NUL": _raise_with_nul,
    "raise with surrogate": _raise_with_surrogate,
    "report odd progress": _report_odd_progress,
}
