"""Waiting for work to be done, with a deadline."""

import time
from collections.abc import Callable

from tests.performance.measurement import Discarded

LOOK_SECONDS = 0.01


def wait_for(
    is_true: Callable[[], bool], *, what: str, seconds: float = 30.0, look_seconds: float = LOOK_SECONDS
) -> None:
    """Look until it is true. Raises Discarded when the time is over: the work was not done."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise Discarded(f"not seen within {seconds:.0f} s: {what}")
        time.sleep(look_seconds)
