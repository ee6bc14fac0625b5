"""Ids: well-formed, unique, and in the order in which they were made."""

import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

from service.ids import uuid7


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
