"""compose.yaml as a whole, with the image as it is: up, one job seen from outside, and what operators do to it."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from deploy.local.servers import free_port
from tests.smoke.api import Api
from tests.smoke.job_types import package_files
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(420), pytest.mark.xdist_group("compose")]

ROOT = Path(__file__).parents[2]
WITH_JOB_TYPES = ("api", "worker", "worker-bulk", "beat")
LONGEST_RECOVERY_SECONDS = 40
"""What the design promises for a worker that is gone without a word."""


class Compose:
    """A project of its own: its containers, volumes, networks, secrets and port are nobody else's."""

    def __init__(self, folder: Path) -> None:
        self.secrets = folder / "secrets"
        self._override = folder / "job_types.json"
        self._project = f"millrace-smoke-{os.getpid()}"
        self._environment = {**os.environ, "MILLRACE_SECRETS": str(self.secrets), "MILLRACE_PORT": str(free_port())}
        subprocess.run([ROOT / "deploy" / "docker" / "make-secrets.sh", self.secrets], check=True)
        package = folder / "package"
        for name, content in package_files().items():
            file = package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        added = {"volumes": [f"{package}:/opt/package:ro"], "environment": {"PYTHONPATH": "/opt/package"}}
        self._override.write_text(json.dumps({"services": dict.fromkeys(WITH_JOB_TYPES, added)}))

    def __call__(self, *arguments: str) -> str:
        """`docker compose …`; what it printed. Raises CalledProcessError."""
        files = ("-f", "compose.yaml", "-f", str(self._override))
        command = ("docker", "compose", "--project-name", self._project, *files, *arguments)
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            print(done.stdout, done.stderr)  # noqa: T201 - pytest shows it with the failure
        done.check_returncode()
        return done.stdout

    @property
    def url(self) -> str:
        """The proxy's."""
        return f"http://127.0.0.1:{self._environment['MILLRACE_PORT']}"


@pytest.fixture(scope="module")
def compose(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The stack, up."""
    compose = Compose(tmp_path_factory.mktemp("compose"))
    try:
        compose("up", "--wait", "--no-build")
        yield compose
    except BaseException:
        print(compose("logs", "--tail", "40"))  # noqa: T201 - as above
        raise
    finally:
        compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def api(compose: Compose) -> Api:
    """The service through the proxy."""
    key = compose("exec", "-T", "api", "millrace", "key", "create", "--tenant", "acme").strip()
    return Api(f"{compose.url}/api/v1", key)


def status_of(url: str, **kwargs: Any) -> int:
    with urllib3.PoolManager(retries=False) as http:
        return http.request("GET", url, redirect=False, **kwargs).status


def test_a_job_through_the_proxy_is_seen_in_flower(compose: Compose, api: Api) -> None:
    job = api.submit("smoke.nap")

    assert api.wait_for_state(job, "succeeded")["result"] == 1
    login = urllib3.make_headers(basic_auth=(compose.secrets / "flower_login").read_text().strip())
    with urllib3.PoolManager() as http:

        def shown() -> Any:  # events go out in bundles, a moment later
            seen = http.request("GET", f"{compose.url}/flower/api/task/info/{job}", headers=login)
            return seen.json() if seen.status == 200 else None

        assert wait_for(shown, what="the job in Flower")["name"] == "smoke.nap"


def test_the_proxy_hides_metrics_and_keeps_flower_behind_its_password(compose: Compose, api: Api) -> None:
    hidden = ["/metrics", "//metrics", "/%6detrics", "/flower/metrics", "/flower//metrics", "/flower/healthcheck"]

    assert {path: status_of(compose.url + path) for path in hidden} == dict.fromkeys(hidden, 404)
    assert status_of(f"{compose.url}/flower/") == 401
    assert status_of(f"{compose.url}/flower") == 308


def test_nothing_but_the_proxy_is_published(compose: Compose, api: Api) -> None:
    containers = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]

    published = {row["Service"] for row in containers if any(p["PublishedPort"] for p in row["Publishers"] or ())}

    assert published == {"proxy"}
    assert {"api", "worker", "worker-bulk", "beat", "flower", "postgres", "redis"} <= {
        row["Service"] for row in containers
    }


def test_no_secret_stands_in_an_environment_or_a_command_line(compose: Compose, api: Api) -> None:
    containers = compose("ps", "--quiet").split()

    inspect = ("docker", "inspect", *containers)
    described = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout

    secrets = [re.search(r"[0-9a-f]{64}", file.read_text()) for file in compose.secrets.iterdir()]
    assert all(secrets)
    assert not [found for found in secrets if found and found.group() in described]


def test_a_restart_of_the_workers_under_load_loses_no_job(compose: Compose, api: Api) -> None:
    jobs = [api.submit("smoke.nap", seconds=0.3) for _ in range(60)]

    compose("restart", "worker")

    ends = api.ends(jobs)
    assert {job["state"] for job in ends} == {"succeeded"}
    assert {job["attempt"] for job in ends} == {1}


def test_the_job_of_a_killed_worker_runs_again_in_time(compose: Compose, api: Api) -> None:
    job = api.submit("smoke.nap", seconds=3)
    api.wait_for_state(job, "running")

    compose("kill", "--signal", "KILL", "worker")
    killed = time.monotonic()
    compose("up", "--detach", "--no-build", "--no-deps", "worker")
    api.wait_for_second_attempt(job)
    took = time.monotonic() - killed

    print(f"it ran again {took:.1f} s after the kill")  # noqa: T201 - a figure for the record
    assert api.wait_for_state(job, "succeeded")["attempt"] == 2
    assert took < LONGEST_RECOVERY_SECONDS


def test_jobs_end_though_redis_was_killed(compose: Compose, api: Api) -> None:
    running = api.submit("smoke.nap", seconds=8)
    api.wait_for_state(running, "running")
    before = [api.submit("smoke.nap", seconds=0.1) for _ in range(20)]

    compose("kill", "redis")
    meanwhile = [api.submit("smoke.nap") for _ in range(10)]
    compose("up", "--detach", "--no-build", "--no-deps", "--wait", "redis")

    ends = api.ends([running, *before, *meanwhile])
    assert {job["state"] for job in ends} == {"succeeded"}
