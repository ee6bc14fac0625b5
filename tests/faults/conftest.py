"""One stack for all rows of a test process; each row begins with it healed and empty."""

from collections.abc import Iterator

import pytest

import tests.faults.job_types  # noqa: F401 - registers them in this process, too
from tests.faults.stack import Stack, running_stack


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[Stack]:
    with running_stack() as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The platform, whole and without a job."""
    shared_stack.heal()
    shared_stack.clear()
    return shared_stack
