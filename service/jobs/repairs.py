"""Count what the clock mends."""

from sqlalchemy import text
from sqlalchemy.orm import Session

_ADD = text(
    """
    INSERT INTO repairs AS known (hour, kind, count) VALUES (date_trunc('hour', clock_timestamp()), :kind, :count)
    ON CONFLICT (hour, kind) DO UPDATE SET count = known.count + excluded.count
    """
)


def note_repairs(session: Session, kind: str, count: int) -> None:
    """Add to this hour's count, in the transaction of the repair itself."""
    if count:
        session.execute(_ADD, {"kind": kind, "count": count})
