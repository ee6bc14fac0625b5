"""Ids: well-formed, unique, and in the order in which they were made."""

import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from service.ids import id_after, id_before, uuid7


def test_an_id_is_a_version_7_uuid_of_this_moment() -> None:
    made = uuid7()

    assert (made.version, made.variant) == (7, RFC_4122)
    assert abs(datetime.fromtimestamp((made.int >> 80) / 1000, UTC) - datetime.now(UTC)) < timedelta(minutes=1)


def test_ids_made_a_moment_apart_are_in_order_and_those_of_one_moment_differ() -> None:
    apart, together = [], [uuid7() for _ in range(10_000)]
    for _ in range(1_000):
        before = time.time_ns()
        while time.time_ns() < before + 1_000:  # four times what an id can tell apart
            pass
        apart.append(uuid7())

    assert apart == sorted(apart)
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("hours", [-23, 0, 23])
def test_rows_of_hosts_whose_clocks_are_off_lie_between_the_bounds_of_their_time(hours: int) -> None:
    moment = datetime.now(UTC)
    made = UUID(int=uuid7().int + (hours * 3_600_000 << 80))

    assert id_before(moment) < made < id_after(moment)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_bounds_of_any_time_are_ids(moment: datetime) -> None:
    assert id_before(moment) <= id_after(moment)


def test_a_bound_is_no_wider_than_it_must() -> None:
    made, later = uuid7(), datetime.now(UTC) + timedelta(hours=25)

    assert id_after(later - timedelta(hours=50)) < made < id_before(later)
