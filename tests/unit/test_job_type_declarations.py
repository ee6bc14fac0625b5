"""What `@job` takes: a mistake in a declaration is told at import, in one line."""

from collections.abc import Iterator
from typing import Any

import pytest
from marshmallow import Schema, fields

from service.jobs.types import BadJobType, registry
from service.queues import Queue
from worker.job_task import job

NAME = "declared.here"


class Args(Schema):
    """The text to count in."""

    text = fields.String(required=True)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    yield
    registry._types.pop(NAME, None)


def declare(name: str = NAME, **options: Any) -> None:
    def handler(_ctx: object, *, text: str) -> int:
        return len(text)

    job(name, **{"args": Args, **options})(handler)


@pytest.mark.parametrize("queue", ["bulk", Queue.BULK], ids=["text", "enum"])
def test_a_queue_may_be_given_by_its_name(queue: str) -> None:
    declare(queue=queue)

    assert registry.get(NAME).queue is Queue.BULK


def test_all_that_can_be_declared_is_accepted() -> None:
    declare(
        timeout=6 * 3600,
        max_attempts=1,
        autoretry_for=(),
        retry_backoff=1,
        max_running=1,
        max_running_per_key=2,
        rate=(10, 0.5),
        example={"text": "to be"},
    )

    assert registry.get(NAME).is_limited


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"queue": "blk"}, "queue must be one of default, bulk, not 'blk'"),
        ({"queue": None}, "queue must be one of"),
        ({"timeout": 0}, "timeout must be whole seconds from 1 to 21600, not 0"),
        ({"timeout": "60"}, "timeout must be"),
        ({"timeout": 1.5}, "timeout must be"),
        ({"timeout": 21_601}, "timeout must be"),
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1 to 100, not 0"),
        ({"max_attempts": True}, "max_attempts must be"),
        ({"args": Args()}, "args must be a class derived from marshmallow.Schema"),
        ({"autoretry_for": ValueError}, "autoretry_for must be a tuple"),
        ({"retry_backoff": 0}, "retry_backoff must be"),
        ({"retry_backoff_max": 0.5}, "retry_backoff_max must be"),
        ({"max_running": 0}, "max_running must be"),
        ({"max_running_per_key": None}, "max_running_per_key must be"),
        ({"rate": 10}, r"rate must be \(count, seconds\)"),
        ({"rate": (10, 0)}, "rate must be"),
        ({"rate": (0, 1)}, "rate must be"),
        ({"example": {"txet": "to be"}}, "its example does not fit its args: .*txet"),
    ],
)
def test_a_mistake_is_told_at_import(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadJobType, match=rf"^The job type '{NAME}' in {__name__}: .*{told}") as refusal:
        declare(**options)

    assert "\n" not in str(refusal.value)
    assert NAME not in registry


@pytest.mark.parametrize(
    "name", ["", "Text.Count", "text count", "text/count", ".text", "text.", "text..count", "x" * 101]
)
def test_a_name_that_could_not_stand_in_a_url_is_refused(name: str) -> None:
    with pytest.raises(BadJobType, match="its name must be like"):
        declare(name)
