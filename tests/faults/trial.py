"""A trial: load, faults, then heal, drain and check."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.checker import check
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.nemesis import Nemesis
from tests.faults.stack import Stack
from tests.support.waiting import wait_for

SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]
"""What clients and nemesis draw from; `make faults` gives a few."""
DRAIN_SECONDS = 90.0


@dataclass
class Trial:
    """What a row has in its hands while the load goes on."""

    stack: Stack
    load: Load
    nemesis: Nemesis
    history: History

    @property
    def faults(self) -> list[str]:
        """The names of the faults so far, in their order."""
        return [entry["name"] for entry in self.history.entries("fault")]

    def go_on(self, jobs: int = 20, *, seconds: float = 60) -> None:
        """Let so many more submissions be accepted."""
        goal = self.load.accepted + jobs
        wait_for(lambda: self.load.accepted >= goal, seconds=seconds, what=f"{jobs} more accepted submissions")


@contextmanager
def trial(stack: Stack, seed: int, **load: Any) -> Iterator[Trial]:
    """Load for the length of the block; afterwards everything is healed, drained and checked.

    Raises AssertionError with every violation, and where nothing was tried: no fault noted, or no request answered. The
    history is kept then, and the message names it.
    """
    path = Path(tempfile.mkdtemp(prefix="millrace-history-")) / "history.jsonl"
    history = History(path)
    try:
        with Load(stack.api_url, stack.tenants, history, seed=seed, **load) as clients:
            running = Trial(stack, clients, Nemesis(stack, history, seed), history)
            yield running
        assert running.faults, f"no fault was noted, history {path}"
        assert any(answer["status"] for answer in history.entries("answer")), f"nothing was answered, history {path}"
        ended = stack.ended_by_themselves()
        assert not ended, f"{ended} ended though nobody killed them"
        stack.heal()
        drain(stack, clients)
        violations = check(stack.database_url, history)
        assert not violations, f"{len(violations)} violations, history {path}:\n" + "\n".join(
            f"{violation.invariant} {violation.evidence}" for violation in violations[:20]
        )
    except BaseException:
        print(stack.logs())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        history.close()
    path.unlink()
    path.parent.rmdir()


def drain(stack: Stack, load: Load, *, seconds: float = DRAIN_SECONDS) -> float:
    """Repeat what has no answer and wait until every job has ended, or the time is over; how long it took."""
    started = time.monotonic()
    wait_for(lambda: load.settle() == 0, seconds=seconds, what="an answer to every submission")
    while stack.unfinished() and time.monotonic() - started < seconds:
        time.sleep(0.1)
    return time.monotonic() - started
