"""When a schedule is due: its slots, computed from its cron line or its interval. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim


def slots_after(moment: datetime, *, cron: str | None, every_seconds: int | None, timezone: str) -> Iterator[datetime]:
    """The slots later than `moment`, in order, in UTC.

    A cron line is read on the wall clock of `timezone`, with Debian cron's rules for the days on which clocks change: a
    daily slot happens once, hourly ones keep their pace. An interval counts from the Unix epoch, so that a schedule
    has the same slots whoever computes them and whenever it was started.
    """
    if every_seconds is not None:
        step = timedelta(seconds=every_seconds)
        slot = datetime.fromtimestamp(moment.timestamp() // every_seconds * every_seconds, UTC) + step
        while True:
            yield slot
            slot += step
    if cron is None:
        raise ValueError("A schedule has a cron line or an interval.")
    for line in CronSim(cron, moment.astimezone(ZoneInfo(timezone))):
        yield line.astimezone(UTC)
    raise ValueError(f"The cron line {cron!r} has no slot after {moment:%Y-%m-%d}.")


def due_slots(
    first: datetime, now: datetime, *, cron: str | None, every_seconds: int | None, timezone: str, at_most: int
) -> list[datetime]:
    """The slots from `first` (which is one) up to `now`, at most `at_most` of them, the earliest first."""
    later = slots_after(first, cron=cron, every_seconds=every_seconds, timezone=timezone)
    due = [first] if first <= now else []
    for slot in islice(later, at_most - 1):
        if slot > now:
            break
        due.append(slot)
    return due
