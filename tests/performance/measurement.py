"""Samples, ratios and what a benchmark hands back. A figure whose work was not done raises Discarded."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, Self

Better = Literal["more", "less"]


class Discarded(Exception):
    """The benchmark's own work does not add up, or the measuring disturbed what was measured: the figure is void."""


@dataclass
class Comparison:
    """One figure of Millrace beside one peer's: a sample per round of each, taken in turns."""

    name: str
    """Names the goal in `goals.py`."""
    unit: str
    better: Better
    ours: list[float]
    theirs: list[float]
    checked: str
    """What was proven about the work behind the figures, in words."""
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The comparison as a results file holds it."""
        return cls(**values)

    def as_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @property
    def our_median(self) -> float:
        return median(self.ours)

    @property
    def their_median(self) -> float:
        return median(self.theirs)

    @property
    def ratio(self) -> float:
        """Our median over theirs."""
        return self.our_median / self.their_median

    @property
    def round_ratios(self) -> list[float]:
        """The ratio of each round by itself: how far they spread says how far to trust the ratio."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def in_turns(systems: Sequence[str], rounds: int) -> Iterator[str]:
    """A B C, B C A, C A B, …: each system as often first as the others, so that none profits from its place."""
    for number in range(rounds):
        start = number % len(systems)
        yield from (*systems[start:], *systems[:start])


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def load_average() -> float:
    """Of the last minute; a quiet machine is near zero."""
    return os.getloadavg()[0]


@dataclass(frozen=True)
class Scale:
    """How much a run measures. Seconds are per system and round."""

    rounds: int
    load_seconds: float
    drain_jobs: int
    latency_samples: int
    listed_jobs: int
    backlog_jobs: int
    backlog_seconds: float
    memory_jobs: int


QUICK = Scale(
    rounds=3,
    load_seconds=4,
    drain_jobs=3_000,
    latency_samples=200,
    listed_jobs=100_000,
    backlog_jobs=50_000,
    backlog_seconds=6,
    memory_jobs=5_000,
)
FULL = Scale(
    rounds=5,
    load_seconds=10,
    drain_jobs=10_000,
    latency_samples=600,
    listed_jobs=1_000_000,
    backlog_jobs=1_000_000,
    backlog_seconds=20,
    memory_jobs=100_000,
)
