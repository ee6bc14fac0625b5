"""Opaque cursors for keyset paging."""

import base64
import binascii
from uuid import UUID

CURSOR_VERSION = b"\x01"


class BadCursor(ValueError):
    """The cursor is not one of ours."""


def encode_cursor(last_id: UUID) -> str:
    """A cursor that continues after the given id."""
    return base64.urlsafe_b64encode(CURSOR_VERSION + last_id.bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> UUID:
    """The id that the cursor continues after. Raises BadCursor."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor from None
    if len(raw) != 17 or raw[:1] != CURSOR_VERSION:  # noqa: PLR2004 - the version and a UUID
        raise BadCursor
    return UUID(bytes=raw[1:])
