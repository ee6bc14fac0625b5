"""The backoff between attempts."""

import pytest

from service.jobs.retry import backoff_seconds
from service.jobs.types import RetryPolicy


@pytest.mark.parametrize(("attempt", "expected"), [(1, 2), (2, 4), (3, 8), (10, 60), (10_000, 60)])
def test_the_wait_doubles_up_to_its_cap(attempt: int, expected: float) -> None:
    policy = RetryPolicy(retry_backoff=2, retry_backoff_max=60, retry_jitter=False)

    assert backoff_seconds(policy, attempt=attempt) == expected


def test_jitter_spreads_the_wait_between_zero_and_the_cap() -> None:
    policy = RetryPolicy(retry_backoff=8, retry_backoff_max=60, retry_jitter=True)

    waits = [backoff_seconds(policy, attempt=2) for _ in range(500)]

    assert all(0 <= wait <= 16 for wait in waits)
    assert max(waits) - min(waits) > 8
