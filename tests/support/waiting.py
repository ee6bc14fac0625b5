"""Wait for a condition with a deadline, instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(look: Callable[[], Value | None], *, seconds: float = 30.0, what: str = "the condition") -> Value:
    """Call `look` until it returns something true; that is returned. Raises TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds:g} s; last seen: {value!r}")
        time.sleep(0.02)
