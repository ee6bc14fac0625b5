"""A logarithmic axis for durations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SHORTEST = 0.001
_MARKS = {
    0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h",
    36_000: "10 h", 86_400: "1 d", 864_000: "10 d", 8_640_000: "100 d",
}  # fmt: skip


@dataclass(frozen=True)
class LogScale:
    """Seconds to places from 0 to 1; what is shorter than a millisecond lies at the beginning."""

    low: float
    high: float

    @staticmethod
    def over(seconds: Sequence[float]) -> "LogScale":
        """The scale between the marks around the values, at least one decade long."""
        low = max((mark for mark in _MARKS if mark <= min(seconds)), default=_SHORTEST)
        high = min((mark for mark in _MARKS if mark >= max(seconds) and mark > low), default=max(_MARKS))
        return LogScale(low, high)

    def place(self, seconds: float) -> float:
        """Where the duration lies, 0 to 1."""
        part = (math.log(max(seconds, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return min(1.0, part)

    def ticks(self) -> list[tuple[float, str]]:
        """Round durations within the scale: place and word."""
        return [(self.place(mark), word) for mark, word in _MARKS.items() if self.low <= mark <= self.high]
