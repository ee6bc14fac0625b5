"""The process-backed vendor: the same commands as in the containers, without Docker.

pytest-celery's nodes ask their container for a dozen attributes; these are processes that have them.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from pytest_celery import CeleryTestBroker, CeleryTestNode, CeleryTestWorker

from deploy import commands
from deploy.local.servers import HOST, RedisServer, free_port
from service.config import environment_with
from service.queues import Queue
from tests.smoke.job_types import package_files
from tests.smoke.vendor import SETTINGS, WORKER_PROCESSES

ROOT = Path(__file__).parents[2]


class ProcessNode:
    """A process with what pytest-celery's nodes want of a container."""

    def __init__(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> None:
        self.name = self.id = name
        self._command = command
        self._environment = environment
        self._log = folder / f"{name}.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def status(self) -> str:
        """Docker's words for it."""
        return "running" if self._process.poll() is None else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Nothing: only the broker has addresses to tell."""
        return {}

    def ready(self) -> bool:
        """Whether it runs; the suite waits for what jobs come to."""
        return self.status == "running"

    def reload(self) -> None:
        """Docker's client keeps a copy of the state; we look each time."""

    def logs(self) -> str:
        """All that it wrote."""
        return self._log.read_text(errors="replace")

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send the signal; a kill takes its children along, as the end of a container does."""
        number = _signal_number(signal)
        if number == _signal_number("SIGKILL"):
            os.killpg(self._process.pid, number)
            self._process.wait(10)
        else:
            self._process.send_signal(number)

    def restart(self, timeout: float = 10) -> None:
        """Stop, with so many seconds to do it in, and start again."""
        if self.status == "running":
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = self._start()

    def teardown(self) -> None:
        """End it, with all that it started."""
        if self.status == "running":
            self.kill()

    def pids(self) -> set[int]:
        """Its processes."""
        try:
            return {self._process.pid, *(child.pid for child in psutil.Process(self._process.pid).children())}
        except psutil.NoSuchProcess:
            return set()

    def worker_name(self) -> str:
        """The first part of the Celery node's name."""
        return self.name

    def worker_queue(self) -> str:
        """All of them."""
        return ",".join(Queue)


class RedisNode:
    """A real Redis-compatible server with what pytest-celery's nodes want of a container."""

    name = id = "redis"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = RedisServer.start(folder)
        self.status = "running"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Its address, which stays the same over a restart."""
        return {"url": self._server.url, "host_url": self._server.url, "port": self._server.port, "vhost": "0"}

    def ready(self) -> bool:
        """It answered when it was started."""
        return self.status == "running"

    def reload(self) -> None:
        """As ProcessNode.reload."""

    def logs(self) -> str:
        """All that it wrote."""
        return (self._folder / "server.log").read_text(errors="replace")

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """End it at once; that is the only signal that these tests have for it."""
        self._server.kill()
        self.status = "exited"

    def restart(self, timeout: float = 10) -> None:
        """Stop it unless it is dead already, and start it on the same data and port."""
        port = self._server.port
        if self.status == "running":
            self._server.stop()
        self._server = RedisServer.start(self._folder, port=port)
        self.status = "running"

    def teardown(self) -> None:
        """End it."""
        if self.status == "running":
            self._server.stop()
            self.status = "exited"


class ProcessVendor:
    """Starts processes; see Vendor."""

    def __init__(self, database_url: str, redis_folder: Path, folder: Path) -> None:
        self.database_url = database_url
        self._redis_folder = redis_folder
        self._folder = folder
        self._nodes: list[ProcessNode | RedisNode] = []
        self._port = free_port()

    @cached_property
    def broker(self) -> CeleryTestBroker:
        node = RedisNode(self._redis_folder)
        self._nodes.append(node)
        return CeleryTestBroker(node)

    @cached_property
    def workers(self) -> list[CeleryTestWorker]:
        names = ("worker-1", "worker-2")
        return [
            CeleryTestWorker(
                self._start(name, commands.worker(name=name, queues=Queue, concurrency=WORKER_PROCESSES)), None
            )
            for name in names
        ]

    @cached_property
    def beats(self) -> list[CeleryTestNode]:
        return [CeleryTestNode(self._start(name, commands.BEAT)) for name in ("beat-1", "beat-2")]

    @cached_property
    def inner_api_url(self) -> str:
        self._start("api", commands.api(bind=f"{HOST}:{self._port}", workers=1, graceful_seconds=3))
        return f"http://{HOST}:{self._port}"

    @property
    def api_url(self) -> str:
        return f"{self.inner_api_url}/api/v1"

    def runs_on(self, node: CeleryTestNode, name: str) -> bool:
        return int(name.split(":")[1]) in node.container.pids()

    def teardown(self) -> None:
        """End everything; pytest shows the logs when the test failed."""
        for node in reversed(self._nodes):
            node.teardown()
            print(f"----- {node.name}\n{node.logs()[-6000:]}")  # noqa: T201 - as above

    def _start(self, name: str, command: tuple[str, ...]) -> ProcessNode:
        node = ProcessNode(name, command, self._environment, self._folder)
        self._nodes.append(node)
        return node

    @cached_property
    def _environment(self) -> dict[str, str]:
        package = self._folder / "package"
        for name, content in package_files().items():
            file = package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        settings = {
            **SETTINGS,
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker.config()["url"],
            "ARTIFACT_DIR": self._folder / "artifacts",
        }
        return {**environment_with(settings), "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}


def _signal_number(name: str | int) -> int:
    return int(signal.Signals[name] if isinstance(name, str) else name)
