"""The container-backed vendor: the project's own image beside Redis and PostgreSQL, started by pytest-celery.

Every node runs as production would: read-only, without capabilities, with nothing to write to but /tmp and the
artifacts.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest
from pytest_celery import CeleryTestBroker, CeleryTestNode, CeleryTestWorker, CeleryWorkerContainer
from pytest_docker_tools import container, fxtr, network, volume
from pytest_docker_tools.wrappers import Container

from service.queues import Queue
from tests.smoke.job_types import package_files
from tests.smoke.vendor import SETTINGS, WORKER_PROCESSES
from tests.support.servers import fresh_database, make_template, with_database

IMAGE = os.environ.get("MILLRACE_SMOKE_IMAGE", "millrace:dev")
LOOPBACK = "127.0.0.1"
API_PORT = "8000/tcp"
POSTGRES_PORT = "5432/tcp"
POSTGRES_PASSWORD = "only-for-tests"
HARDENED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "size=256m"},  # noqa: S108 - the container's
}


class WorkerContainer(CeleryWorkerContainer):  # type: ignore[misc] # pytest-celery ships no types
    """A worker of ours. Its name and queues are the image's own matter."""

    @classmethod
    def worker_name(cls) -> str:
        return "-".join(Queue)

    @classmethod
    def worker_queue(cls) -> str:
        return ",".join(Queue)

    @classmethod
    def version(cls) -> str:
        return IMAGE


class PostgresContainer(Container):  # type: ignore[misc] # pytest-docker-tools ships no types
    """PostgreSQL, ready when it answers for good: it listens to nobody while it is being set up."""

    def ready(self) -> bool:
        return bool(super().ready() and self.exec_run(["pg_isready", "--host=127.0.0.1"])[0] == 0)


# In the place of pytest-celery's own, which ends with each test: PostgreSQL stays while the rest comes and goes.
default_pytest_celery_network = network(scope="session")
postgres_container = container(
    scope="session",
    image="postgres:16",
    network="{default_pytest_celery_network.name}",
    ports={POSTGRES_PORT: (LOOPBACK, None)},
    environment={"POSTGRES_PASSWORD": POSTGRES_PASSWORD},
    wrapper_class=PostgresContainer,
    timeout=60,
)
package_volume = volume(scope="session", initial_content=package_files())
artifacts_volume = volume()

_millrace: dict[str, Any] = {
    "image": IMAGE,
    "network": "{default_pytest_celery_network.name}",
    "environment": fxtr("millrace_environment"),
    "volumes": {
        "{package_volume.name}": {"bind": "/opt/package", "mode": "ro"},
        "{artifacts_volume.name}": {"bind": "/var/lib/millrace/artifacts", "mode": "rw"},
    },
    "timeout": 60,
    **HARDENED,
}
api_container = container(**_millrace, command=["api"], ports={API_PORT: (LOOPBACK, None)})
worker_container = container(**_millrace, command=["worker"], wrapper_class=WorkerContainer)
other_worker_container = container(**_millrace, command=["worker"], wrapper_class=WorkerContainer)
beat_container = container(**_millrace, command=["beat"])
other_beat_container = container(**_millrace, command=["beat"])


@pytest.fixture(scope="session")
def database_template(postgres_container: Container, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A superuser's URL, once the template database was migrated."""
    _, port = postgres_container.get_addr(POSTGRES_PORT)
    url = f"postgresql+psycopg://postgres:{POSTGRES_PASSWORD}@{LOOPBACK}:{port}/postgres"
    make_template(url, "redis://127.0.0.1/0", tmp_path_factory.mktemp("template"))
    return url


@pytest.fixture
def container_database(database_template: str) -> Iterator[str]:
    """A database of the test's own; its URL for this process."""
    with fresh_database(database_template) as url:
        yield url


@pytest.fixture
def millrace_environment(
    container_database: str, postgres_container: Container, default_redis_broker: Container
) -> dict[str, str]:
    """The settings of every container of ours."""
    host = postgres_container.attrs["Config"]["Hostname"]
    name = container_database.rpartition("/")[2]
    settings = {
        **SETTINGS,
        "DATABASE_URL": with_database(f"postgresql+psycopg://postgres:{POSTGRES_PASSWORD}@{host}:5432/postgres", name),
        "BROKER_URL": default_redis_broker.celeryconfig["url"],
    }
    return {
        **{f"MILLRACE_{name}": str(value) for name, value in settings.items()},
        "WORKER_PROCESSES": str(WORKER_PROCESSES),
        "API_WORKERS": "1",
        "PYTHONPATH": "/opt/package",
    }


class ContainerVendor:
    """Asks pytest for the fixtures above when they are needed; see Vendor."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._fixture = request.getfixturevalue

    @cached_property
    def broker(self) -> CeleryTestBroker:
        return CeleryTestBroker(self._fixture("default_redis_broker"))

    @cached_property
    def workers(self) -> list[CeleryTestWorker]:
        return [CeleryTestWorker(self._fixture(name), None) for name in ("worker_container", "other_worker_container")]

    @cached_property
    def beats(self) -> list[CeleryTestNode]:
        return [CeleryTestNode(self._fixture(name)) for name in ("beat_container", "other_beat_container")]

    @property
    def api_url(self) -> str:
        _, port = self._fixture("api_container").get_addr(API_PORT)
        return f"http://{LOOPBACK}:{port}/api/v1"

    @property
    def inner_api_url(self) -> str:
        return f"http://{self._fixture('api_container').attrs['Config']['Hostname']}:8000"

    @property
    def database_url(self) -> str:
        return str(self._fixture("container_database"))

    def runs_on(self, node: CeleryTestNode, name: str) -> bool:
        return name.startswith(f"{node.container.id[:12]}:")


def missing_options(config: pytest.Config) -> bool:
    """Whether pytest runs without the plugins that these fixtures need."""
    return not hasattr(config.option, "reuse_containers")
