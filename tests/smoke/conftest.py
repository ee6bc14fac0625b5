"""pytest-celery's clusters, made of what the vendor starts."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped] # comes with pytest-celery, without types
import psycopg
import pytest
from docker.errors import DockerException  # type: ignore[import-untyped] # as above
from pytest_celery import CeleryBrokerCluster, CeleryTestCluster, CeleryWorkerCluster

# Without its plugin, as in the process-backed run, these have to be asked for by name.
from pytest_celery import (  # isort: skip
    celery_backend_cluster_config,  # noqa: F401
    celery_broker_cluster_config,  # noqa: F401
    celery_setup,  # noqa: F401
    celery_setup_app,  # noqa: F401
    celery_setup_cls,  # noqa: F401
    celery_setup_config,  # noqa: F401
    celery_setup_name,  # noqa: F401
    celery_worker_cluster_config,  # noqa: F401
)

from service.accounts.keys import create_key
from tests.smoke.api import Api
from tests.smoke.containers import (
    ContainerVendor,
    api_container,  # noqa: F401
    artifacts_volume,  # noqa: F401
    beat_container,  # noqa: F401
    container_database,  # noqa: F401
    database_template,  # noqa: F401
    default_pytest_celery_network,  # noqa: F401
    millrace_environment,  # noqa: F401
    missing_options,
    other_beat_container,  # noqa: F401
    other_worker_container,  # noqa: F401
    package_volume,  # noqa: F401
    postgres_container,  # noqa: F401
    worker_container,  # noqa: F401
)
from tests.smoke.processes import ProcessVendor
from tests.smoke.vendor import SETTINGS, Vendor
from tests.support.apps import app_with
from tests.support.folders import server_folder
from tests.support.servers import settings


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    """The Docker engine; without one these tests are skipped, and say so."""
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers here: {error}")
    with closing(client):
        yield client


@pytest.fixture
def default_redis_broker_image() -> str:
    """The one of compose.yaml."""
    return "redis:7"


@pytest.fixture
def default_redis_broker_ports() -> dict[str, Any]:
    """Published on this machine only."""
    return {"6379/tcp": ("127.0.0.1", None)}


@pytest.fixture
def process_vendor(config: dict[str, Any], tmp_path: Path) -> Iterator[ProcessVendor]:
    """Plain processes on the tests' own PostgreSQL and a Redis of the test's own."""
    with server_folder() as redis_folder:
        vendor = ProcessVendor(config["DATABASE_URL"], redis_folder, tmp_path)
        try:
            yield vendor
        finally:
            vendor.teardown()


@pytest.fixture
def container_vendor(request: pytest.FixtureRequest) -> ContainerVendor:
    """Containers of the project's image."""
    if missing_options(request.config):
        pytest.fail("pytest-celery's plugins are not loaded: run make smoke")
    return ContainerVendor(request)


@pytest.fixture(params=["process", pytest.param("container", marks=pytest.mark.smoke)])
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """Who runs the nodes."""
    made: Vendor = request.getfixturevalue(f"{request.param}_vendor")
    return made


@pytest.fixture
def celery_broker_cluster(vendor: Vendor) -> CeleryBrokerCluster:
    """Redis alone."""
    return CeleryBrokerCluster(vendor.broker)


@pytest.fixture
def celery_backend_cluster() -> None:
    """None: results are in PostgreSQL."""
    return


@pytest.fixture
def celery_worker_cluster(vendor: Vendor, celery_broker_cluster: CeleryBrokerCluster) -> CeleryWorkerCluster:
    """Two workers."""
    return CeleryWorkerCluster(*vendor.workers)


@pytest.fixture
def beat_cluster(vendor: Vendor, celery_broker_cluster: CeleryBrokerCluster) -> CeleryTestCluster:
    """Two beats."""
    return CeleryTestCluster(*vendor.beats)


@pytest.fixture
def tenant_key(vendor: Vendor, tmp_path: Path) -> Any:
    """A key of the tenant `acme`, made next to the running service."""
    config = {**settings(vendor.database_url, "redis://127.0.0.1/0", tmp_path), "SECRET_KEY": SETTINGS["SECRET_KEY"]}
    with app_with(config) as app, app.app_context():
        return create_key("acme")


@pytest.fixture
def api(vendor: Vendor, tenant_key: Any) -> Api:
    """The service, as `acme` sees it."""
    api = Api(vendor.api_url, tenant_key.key)
    api.wait_until_it_answers()
    return api


@pytest.fixture
def database(vendor: Vendor) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the service's database, for what no endpoint tells."""
    url = vendor.database_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
