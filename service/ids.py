"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made and indexes grow at one end."""

import os
import time
from datetime import datetime
from uuid import UUID

_MILLISECOND = 1_000_000


def uuid7() -> UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, 12 bits of the millisecond's fraction, 62 random bits.

    The fraction (RFC 9562, 6.2, method 3) puts jobs into the order of their arrival where several come within one
    millisecond. Written out here because the standard library has it from Python 3.14 only and we support 3.11.
    """
    milliseconds, rest = divmod(time.time_ns(), _MILLISECOND)
    time_part = (milliseconds & (1 << 48) - 1) << 16 | 0x7000 | (rest << 12) // _MILLISECOND
    random_part = 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=time_part << 64 | random_part)


CLOCKS_APART = 24 * 3600
"""Seconds by which the clock of a host that makes ids may differ from the database's: a bound on ids is as much wider
than the times that it stands for, and those decide."""


def id_before(moment: datetime) -> UUID:
    """An id below those of all rows that were made at this moment or later, for an index on ids to begin at."""
    return _first_id(moment.timestamp() - CLOCKS_APART)


def id_after(moment: datetime) -> UUID:
    """An id above those of all rows that were made before this moment, for an index on ids to end at."""
    return _first_id(moment.timestamp() + CLOCKS_APART)


def _first_id(timestamp: float) -> UUID:
    return UUID(int=max(int(timestamp * 1000), 0) << 80)
