"""What the suite needs of whoever runs the nodes."""

from collections.abc import Mapping
from typing import Any, Protocol

from pytest_celery import CeleryTestBroker, CeleryTestNode, CeleryTestWorker

SETTINGS: Mapping[str, Any] = {
    "SECRET_KEY": "only-for-tests-and-at-least-32-characters",
    "LOG_FORMAT": "text",
    "ENVIRONMENT": "test",
    # Quicker than in production, so that a dead worker's job is missed soon.
    "LEASE_SECONDS": 6,
    "LEASE_RENEW_SECONDS": 2,
    "CLOCK_LEASE_SECONDS": 4,
    # The API itself is what `http.request` calls here.
    "OUTGOING_ALLOW_PRIVATE": "true",
}
WORKER_PROCESSES = 2


class Vendor(Protocol):
    """Starts the nodes when they are first asked for; all end with the test."""

    @property
    def broker(self) -> CeleryTestBroker:
        """Redis."""

    @property
    def workers(self) -> list[CeleryTestWorker]:
        """Two workers for all queues."""

    @property
    def beats(self) -> list[CeleryTestNode]:
        """Two beats."""

    @property
    def api_url(self) -> str:
        """The API, as this process reaches it; up to `/api/v1`."""

    @property
    def inner_api_url(self) -> str:
        """The API, as a job reaches it, without a path."""

    @property
    def database_url(self) -> str:
        """The migrated database, as this process reaches it."""

    def runs_on(self, node: CeleryTestNode, name: str) -> bool:
        """Whether the name that a worker or beat goes by (`host:pid`, perhaps with more after it) is the node's."""
