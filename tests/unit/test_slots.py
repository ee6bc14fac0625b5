"""The slots of schedules: cron lines on a wall clock, intervals from the epoch."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest

from service.schedules.slots import due_slots, slots_after


def first(count: int, moment: datetime, **times: object) -> list[datetime]:
    given = {"cron": None, "every_seconds": None, "timezone": "UTC", **times}
    return list(islice(slots_after(moment, **given), count))  # type: ignore[arg-type]


def test_a_cron_line_is_read_on_the_wall_clock_of_its_time_zone() -> None:
    slots = first(2, datetime(2026, 7, 1, 12, tzinfo=UTC), cron="15 2 * * *", timezone="Europe/Berlin")

    assert slots == [datetime(2026, 7, 2, 0, 15, tzinfo=UTC), datetime(2026, 7, 3, 0, 15, tzinfo=UTC)]


@pytest.mark.parametrize("month", [3, 10])
def test_no_day_loses_or_doubles_its_slot_when_clocks_change(month: int) -> None:
    start = datetime(2026, month, 20, tzinfo=UTC)

    slots = first(15, start, cron="30 2 * * *", timezone="Europe/Berlin")

    gaps = [later - earlier for earlier, later in pairwise(slots)]
    assert len(set(slots)) == 15
    assert all(timedelta(hours=22) <= gap <= timedelta(hours=26) for gap in gaps)


def test_an_interval_has_the_same_slots_whenever_it_is_computed() -> None:
    early = first(5, datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), every_seconds=90)
    late = first(4, early[0] + timedelta(seconds=3), every_seconds=90)

    assert late == early[1:]


def test_slots_lie_strictly_after_the_moment() -> None:
    slot = first(1, datetime(2026, 1, 1, tzinfo=UTC), every_seconds=60)[0]

    assert first(1, slot, every_seconds=60)[0] == slot + timedelta(seconds=60)


def test_due_slots_begin_with_the_first_and_end_by_now() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    due = due_slots(begin, begin + timedelta(seconds=200), cron=None, every_seconds=60, timezone="UTC", at_most=10)

    assert due == [begin + timedelta(seconds=seconds) for seconds in (0, 60, 120, 180)]


def test_due_slots_are_bounded() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    due = due_slots(begin, begin + timedelta(days=1), cron=None, every_seconds=1, timezone="UTC", at_most=7)

    assert len(due) == 7
