"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made and indexes grow at one end."""

import os
import time
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
