"""How long to wait before the next attempt. Pure arithmetic."""

import random

from service.jobs.types import RetryPolicy


def backoff_seconds(policy: RetryPolicy, attempt: int) -> float:
    """Seconds to wait after the given attempt (counted from 1) failed.

    The same curve as Celery's `retry_backoff`: base x 2^(attempt-1), capped, and with `retry_jitter` a random point
    between zero and that ("full jitter", AWS Architecture Blog, 2015). Used where Celery's own wrapper cannot run:
    after a hard timeout, for one.
    """
    exponent = min(max(attempt - 1, 0), 62)
    ceiling = min(float(policy.retry_backoff_max), max(policy.retry_backoff, 1) * 2.0**exponent)
    return random.uniform(0.0, ceiling) if policy.retry_jitter else ceiling  # noqa: S311 - jitter, not a secret
