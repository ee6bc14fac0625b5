"""What a round cost: CPU time by process, and how much of the machine somebody else used meanwhile."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.performance.processes import cpu_seconds

QUIET_SHARE = 0.1
"""Of all cores: with more used by others than this, only ratios of the same run mean anything."""


@dataclass
class Meter:
    """The costs of one system's rounds, in turns."""

    pids: Mapping[str, int]
    cpu_us: list[dict[str, int]] = field(default_factory=list)
    """By process, per request or job."""
    others_share: list[float] = field(default_factory=list)
    """The share of all cores that went to processes that are none of ours."""

    @contextmanager
    def round(self) -> Iterator[dict[str, int]]:
        """Measure the block, which puts the number of its requests or jobs into `{"work": n}`."""
        done: dict[str, int] = {}
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        mine_before, busy_before, began = _own_seconds(), _busy_seconds(), time.monotonic()
        yield done
        seconds, busy = time.monotonic() - began, _busy_seconds() - busy_before
        mine = _own_seconds() - mine_before
        self.cpu_us.append(
            {name: round((cpu_seconds(pid) - before[name]) * 1e6 / done["work"]) for name, pid in self.pids.items()}
        )
        self.others_share.append(round(max(busy - mine, 0) / seconds / (psutil.cpu_count() or 1), 3))

    def as_mapping(self) -> dict[str, Any]:
        """For the results."""
        return {"CPU µs each": self.cpu_us, "others' share of the machine": self.others_share}


def _own_seconds() -> float:
    """CPU time of this process and everything that it started, ended or not."""
    return cpu_seconds(psutil.Process().pid)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times[:10]) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
