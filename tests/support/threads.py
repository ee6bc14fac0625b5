"""Do something while a request is held."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

Value = TypeVar("Value")


@contextmanager
def in_background(act: Callable[[], Any]) -> Iterator[None]:
    """Run `act` in a thread beside the block; what it raises is raised at the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        yield
        future.result(60)


def at_once(acts: Sequence[Callable[[], Value]]) -> list[Value]:
    """Run all of them at the same moment, each in a thread of its own; what they return, in order."""
    barrier = Barrier(len(acts))

    def run(act: Callable[[], Value]) -> Value:
        barrier.wait(30)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))
