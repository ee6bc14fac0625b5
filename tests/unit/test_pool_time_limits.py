"""Timers of time limits: those of jobs that have ended are let go, and no other."""

from kombu.asynchronous.timer import Timer

from worker.pool import FEW_TIMERS, TimeLimits


def test_timers_of_jobs_that_have_ended_are_let_go_and_the_others_fire_in_their_order() -> None:
    timer = Timer()
    fired: list[int] = []
    set_timers = [timer.call_after(number - 10_000, fired.append, (number,)) for number in range(5 * FEW_TIMERS)]
    for number, entry in enumerate(set_timers):
        if number % 1000:
            entry.cancel()

    TimeLimits(timer._queue).forget_cancelled()

    assert len(timer._queue) == 5
    for _, entry in timer:
        if entry is None:
            break
        entry()
    assert fired == [0, 1000, 2000, 3000, 4000]


def test_it_looks_again_only_when_the_timers_have_doubled() -> None:
    timer = Timer()
    limits = TimeLimits(timer._queue)
    for number in range(FEW_TIMERS + 1):
        timer.call_after(number, print)
    limits.forget_cancelled()
    assert len(timer._queue) == FEW_TIMERS + 1

    timer.call_after(1, print).cancel()
    limits.forget_cancelled()
    assert len(timer._queue) == FEW_TIMERS + 2  # not worth it yet

    for _ in range(FEW_TIMERS + 1):
        timer.call_after(1, print).cancel()
    limits.forget_cancelled()
    assert len(timer._queue) == FEW_TIMERS + 1
