"""The only list of queues.

A queue is a named lane that workers consume. Whatever is not listed here cannot be submitted to, and a test
holds that every queue listed here is consumed by a worker of each stack that we ship.
"""

from enum import StrEnum


class Queue(StrEnum):
    """The queues of this installation."""

    DEFAULT = "default"
    """Short jobs: seconds."""
    BULK = "bulk"
    """Long or heavy jobs: minutes, much memory."""
