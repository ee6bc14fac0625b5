"""The lease keeper stops a handler once for each reason, and outlives what happens to it and to the handler."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from service.jobs.execution import Claim, ClaimLost
from tests.support.waiting import wait_for
from worker import lease
from worker.ahead import ClaimedAhead
from worker.lease import Interrupted, LeaseKeeper, Reason, Watch

Renewals = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _own_signal() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> Renewals:
    """What the keeper writes, in place of the statement."""
    written: Renewals = []

    def renew(_claim: Claim, **values: Any) -> bool:
        written.append(values)
        return False

    monkeypatch.setattr(lease, "renew", renew)
    return written


@pytest.fixture
def keeper(renewals: Renewals) -> LeaseKeeper:  # no keeper of these tests may reach for a database
    app: Any = SimpleNamespace(config={"LEASE_SECONDS": 5.0, "LEASE_RENEW_SECONDS": 0.1}, app_context=nullcontext)
    return LeaseKeeper(app, ClaimedAhead())


def watching(keeper: LeaseKeeper, timeout_seconds: float = 60.0) -> Any:
    return keeper.watching(Claim(uuid4(), 1), timeout_seconds=timeout_seconds)


def run(keeper: LeaseKeeper, handler: Callable[[Watch], None], timeout_seconds: float = 60.0) -> None:
    with watching(keeper, timeout_seconds) as watch, keeper.interruptible(watch):
        handler(watch)


def be_cancelled(watch: Watch) -> None:
    watch.reason = Reason.CANCELLED
    time.sleep(30)


def test_the_keeper_stops_a_handler_that_takes_too_long_without_being_told(keeper: LeaseKeeper) -> None:
    began = time.monotonic()

    with pytest.raises(SoftTimeLimitExceeded):
        run(keeper, lambda _: time.sleep(30), timeout_seconds=1.0)

    assert time.monotonic() - began >= 1.0


def test_a_signal_that_was_meant_for_another_job_changes_nothing(keeper: LeaseKeeper) -> None:
    with watching(keeper) as watch, keeper.interruptible(watch):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)


def test_the_clean_up_of_a_handler_that_was_stopped_is_let_go_on(keeper: LeaseKeeper) -> None:
    ended = []

    def handler(watch: Watch) -> None:
        try:
            be_cancelled(watch)
        finally:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(3 * lease.LOOK_SECONDS)
            ended.append(True)

    with pytest.raises(Interrupted):
        run(keeper, handler)

    assert ended


def test_a_handler_that_swallows_its_timeout_can_still_be_cancelled(keeper: LeaseKeeper) -> None:
    def handler(watch: Watch) -> None:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            be_cancelled(watch)

    with pytest.raises(Interrupted):
        run(keeper, handler, timeout_seconds=0.1)


def test_a_handler_is_not_stopped_in_the_middle_of_logging(keeper: LeaseKeeper) -> None:
    written: list[bool] = []
    log = _SlowLog(lambda: written.append(True))

    def handler(watch: Watch) -> None:
        watch.reason = Reason.CANCELLED
        log.handle(logging.makeLogRecord({}))
        time.sleep(30)

    with pytest.raises(Interrupted):
        run(keeper, handler)

    assert written
    assert is_free(log.lock)


class _SlowLog(logging.Handler):
    """Takes long enough over a line to be hit by a signal."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def emit(self, _record: logging.LogRecord) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(3 * lease.LOOK_SECONDS)
        self._then()


def test_a_handler_is_not_stopped_while_it_takes_a_lock(keeper: LeaseKeeper) -> None:
    let_go: list[bool] = []
    # In place of a lock: its taking is a call into C, on the way back from which `threading` is hit by a signal.
    lock: Any = SimpleNamespace(
        __enter__=partial(signal.raise_signal, signal.SIGUSR1),
        __exit__=lambda *_: let_go.append(True),
        acquire=None,
        release=None,
    )
    condition = threading.Condition(lock)

    def handler(watch: Watch) -> None:
        watch.reason = Reason.CANCELLED
        with condition:
            time.sleep(30)

    with pytest.raises(Interrupted):
        run(keeper, handler)

    assert let_go


def is_free(lock: Any) -> bool:
    """Whether another thread gets the lock."""
    got: list[bool] = []

    def take() -> None:
        got.append(lock.acquire(timeout=5))
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got == [True]


def test_progress_is_stored_once_and_the_last_of_many_is_not_lost(keeper: LeaseKeeper, renewals: Renewals) -> None:
    keeper._renew_seconds = 60.0
    with watching(keeper) as watch:
        for percent in range(101):
            watch.report(float(percent), "row")
        wait_for(lambda: renewals, what="the progress to be stored")
        time.sleep(3 * lease.PROGRESS_SECONDS)

    assert renewals == [{"lease_seconds": 5.0, "percent": 100.0, "message": "row"}]


def test_an_attempt_that_was_overtaken_is_stopped_and_not_renewed_again(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def renew(_claim: Claim, **_: Any) -> bool:
        calls.append(True)
        raise ClaimLost

    monkeypatch.setattr(lease, "renew", renew)
    with watching(keeper) as watch:
        with pytest.raises(Interrupted, match="lease lost"), keeper.interruptible(watch):
            time.sleep(30)
        time.sleep(3 * lease.LOOK_SECONDS)

    assert calls == [True]


def test_the_lease_of_a_handler_that_cannot_be_stopped_yet_is_renewed(keeper: LeaseKeeper, renewals: Renewals) -> None:
    def handler(watch: Watch) -> None:
        watch.reason = Reason.CANCELLED
        _SlowLog(lambda: wait_for(lambda: len(renewals) > 3, what="renewals")).handle(logging.makeLogRecord({}))
        time.sleep(30)

    with pytest.raises(Interrupted):
        run(keeper, handler)


def test_the_keeper_outlives_an_error_that_nobody_foresaw(
    keeper: LeaseKeeper, renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumbled: list[bool] = []

    def stumble_once(_claim: Claim, **values: Any) -> bool:
        if not stumbled:
            stumbled.append(True)
            raise RuntimeError("out of something")
        renewals.append(values)
        return False

    monkeypatch.setattr(lease, "renew", stumble_once)
    with watching(keeper):
        wait_for(lambda: len(renewals) > 1, what="renewals")

    assert stumbled


def test_a_keeper_that_could_not_start_is_started_with_the_next_attempt(
    keeper: LeaseKeeper, renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError, match="new thread"), watching(keeper):
            pass

    with watching(keeper):
        wait_for(lambda: renewals, what="a renewal")


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_an_attempt_that_begins_while_the_worker_gives_its_jobs_back_is_stopped_at_once(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_shutting_down", bytearray(b"\x01"))

    with watching(keeper) as watch, pytest.raises(Interrupted, match="worker shutdown"), keeper.interruptible(watch):
        pytest.fail("the handler began")


def test_nobody_is_stopped_outside_of_its_handler(keeper: LeaseKeeper) -> None:
    with watching(keeper, timeout_seconds=0.1) as watch:
        with pytest.raises(SoftTimeLimitExceeded), keeper.interruptible(watch):
            time.sleep(30)
        watch.reason = Reason.CANCELLED
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(3 * lease.LOOK_SECONDS)

    assert isinstance(watch, Watch)
