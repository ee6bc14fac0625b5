"""`millrace up` as a person uses it: the stack comes up, does its work, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import urllib3

from deploy.local.folder import DataFolder, process_exists
from deploy.local.servers import free_port
from service.queues import Queue
from tests.support.folders import server_folder
from tests.support.ports import closed_port
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300), pytest.mark.xdist_group("stack")]

MILLRACE = (sys.executable, "-c", "from service.cli import main; main()")
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
KILLED_SECONDS = 5.0
ROLES = {"supervisor", "postgres", "redis", "api", "beat", "flower", *(f"worker-{queue}" for queue in Queue)}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data folder for the tests that start and stop: the first start fills it, the others are later starts."""
    with server_folder() as below:
        yield below


@pytest.fixture(scope="module")
def standing() -> Iterator["Up"]:
    """A stack that stands on a folder of its own, for the tests that only look at it or that it survives."""
    with server_folder() as below, up(below, "--no-demo") as running:
        running.stack()
        yield running


def millrace(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*MILLRACE, *arguments],
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
        env=_environment(environment),
    )


class Up:
    """A running `millrace up` in the foreground."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        if "--port" not in arguments:  # the default one may be taken, between the look and the start, by anybody here
            arguments = (*arguments, "--port", str(free_port()))
        self._output = folder.parent / f"up-{time.monotonic_ns()}.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*MILLRACE, "up", "--dir", str(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def stack(self) -> dict[str, Any]:
        """What `stack.json` says once this very run is ready."""

        def look() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.said
            described = DataFolder(self.folder).read_stack()
            return described if described and described["pids"]["supervisor"] == self.process.pid else None

        return wait_for(look, seconds=READY_SECONDS, what="a ready stack")

    def everything_below(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]


@contextmanager
def up(folder: Path, *arguments: str) -> Iterator[Up]:
    """`millrace up` for the length of the block; whatever happens in there, nothing of it is left."""
    started = Up(folder, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGTERM)
        try:
            started.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait()


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. Who only waits for init to collect it has ended."""
    return [process for process in processes if process.is_running() and process_exists(process.pid)]


def nothing_left(processes: list[psutil.Process]) -> Callable[[], bool]:
    return lambda: not left_of(processes)


def call(stack: dict[str, Any], method: str, path: str, **options: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {stack['api_key']}", **options.pop("headers", {})}
    with urllib3.PoolManager(retries=False) as http:
        answer = http.request(method, f"{stack['api_url']}{path}", headers=headers, **options)
        return answer.status, answer.json() if answer.data else None


def test_up_runs_the_main_job_and_ctrl_c_leaves_no_process(folder: Path) -> None:
    with up(folder) as running:
        stack = running.stack()
        wait_for(lambda: "Paste this" in running.said, seconds=READY_SECONDS, what="the summary")
        processes = running.everything_below()
        status, jobs = call(stack, "GET", "/jobs?type=table.report")

        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(STOP_SECONDS) == 0, running.said
        assert len(processes) > len(ROLES)
        assert left_of(processes) == []
        assert status == 200
        assert [job["state"] for job in jobs["items"]] == ["succeeded"]
        assert "344 rows" in running.said
        assert stack["api_key"] in running.said
        reports = sorted(re.findall(r"open (\S+)", running.said))
        assert [Path(report).suffix for report in reports] == [".html", ".pdf"]
        assert all(Path(report).stat().st_size > 10_000 for report in reports)
        assert not DataFolder(folder).stack_file.exists()


def test_kill_of_the_supervisor_leaves_no_process_and_the_next_start_goes_on(folder: Path) -> None:
    with up(folder, "--no-demo") as first:
        first_stack = first.stack()
        processes = first.everything_below()
        first.process.kill()
        first.process.wait()
        wait_for(nothing_left(processes), seconds=KILLED_SECONDS, what="the end of every process")

    with up(folder, "--no-demo") as second:
        stack = second.stack()

        assert stack["api_key"] == first_stack["api_key"]
        assert call(stack, "GET", "/jobs?limit=1")[0] == 200


def test_the_stack_file_describes_the_stack_and_is_private(standing: Up) -> None:
    stack = standing.stack()
    flower = stack["credentials"]["flower"]

    assert stat.S_IMODE(DataFolder(standing.folder).stack_file.stat().st_mode) == 0o600
    assert stack["api_url"].endswith("/api/v1")
    assert set(stack["pids"]) == ROLES
    with urllib3.PoolManager(retries=False) as http:
        assert http.request("GET", stack["docs_url"]).status == 200
        assert http.request("GET", stack["flower_url"]).status == 401
        credentials = urllib3.make_headers(basic_auth=f"{flower['user']}:{flower['password']}")
        assert http.request("GET", stack["flower_url"], headers=credentials).status == 200
    with redis.Redis.from_url(stack["redis_url"]) as client:
        assert client.ping()


def test_no_secret_shows_in_a_command_line_and_all_listen_on_loopback(standing: Up) -> None:
    stack = standing.stack()
    secrets = set(json.loads((standing.folder / "secrets.json").read_text()).values())
    secrets |= set(re.findall(r"pw_[\w-]+", stack["database_url"] + stack["redis_url"]))

    processes = standing.everything_below()
    command_lines = [" ".join(process.cmdline()) for process in processes]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }

    assert len(secrets) >= 5
    assert [line for line in command_lines if any(secret in line for secret in secrets)] == []
    assert listening == {"127.0.0.1"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed line is one of curl")
def test_the_printed_line_submits_a_job_and_fetches_it(standing: Up) -> None:
    stack = standing.stack()
    line = wait_for(lambda: re.search(r"^curl .*$", standing.said, re.MULTILINE), what="the curl line")

    done = subprocess.run(["/bin/sh", "-c", line[0]], capture_output=True, check=True, timeout=60)

    job = json.loads(done.stdout)
    assert job["state"] == "succeeded", done.stdout
    assert job["result"]["jobs"] >= 1, "an empty report"
    assert call(stack, "GET", f"/jobs/{job['id']}")[1]["state"] == "succeeded"


def test_a_command_finds_the_stack_by_its_folder(standing: Up) -> None:
    stack = standing.stack()

    made = millrace("key", "create", "--tenant", "acme", "--json", "--dir", str(standing.folder))
    sound = millrace("doctor", "--dir", str(standing.folder))

    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    assert call(stack, "GET", "/jobs?limit=1", headers={"Authorization": f"Bearer {key}"})[0] == 200
    assert "workers of bulk" in sound.stdout, sound.stderr


def test_a_database_of_the_environment_is_told(folder: Path) -> None:
    done = millrace(
        *("up", "--no-demo", "--dir", str(folder)),
        environment={"MILLRACE_DATABASE_URL": "postgresql+psycopg://nobody:secret@127.0.0.1:1/none"},
    )

    assert done.returncode == 1
    assert "Using the database of MILLRACE_DATABASE_URL (127.0.0.1:1)." in done.stdout
    assert "unset MILLRACE_DATABASE_URL" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [[], ["--detach"]], ids=["in front", "detached"])
def test_bad_settings_are_told_before_anything_is_started(mode: list[str]) -> None:
    environment = {"MILLRACE_DISPATCH_WINDOW": "0", "MILLRACE_LEASE_SECONDS": "long"}
    with server_folder() as fresh:
        done = millrace("up", "--no-demo", "--dir", str(fresh), *mode, environment=environment)
        begun = list(fresh.glob("**/postgres*"))

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert not begun


def test_a_redis_that_does_not_answer_is_told_at_once(folder: Path) -> None:
    with closed_port() as port:
        environment = {"MILLRACE_BROKER_URL": f"redis://:secret@127.0.0.1:{port}/0"}
        done = millrace(*("up", "--no-demo", "--dir", str(folder)), environment=environment)

    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_a_role_that_dies_runs_again_at_the_same_address(standing: Up) -> None:
    stack = standing.stack()
    before = stack["pids"]

    for role in ("beat", "redis"):
        os.kill(before[role], signal.SIGKILL)

    def look() -> dict[str, Any] | None:
        now = standing.stack()
        is_back = all(now["pids"].get(role, before[role]) != before[role] for role in ("beat", "redis"))
        return now if is_back else None

    after = wait_for(look, what="new processes in stack.json")
    assert {role for role in ROLES if after["pids"][role] != before[role]} == {"beat", "redis"}
    assert after["redis_url"] == stack["redis_url"]
    assert "beat ended (killed by SIGKILL); starting it again" in standing.said
    with redis.Redis.from_url(after["redis_url"]) as client:
        assert client.ping()


def test_a_second_up_on_the_same_folder_is_told_the_way_out(standing: Up) -> None:
    second = millrace("up", "--no-demo", "--dir", str(standing.folder))

    assert second.returncode == 1
    assert f"A stack runs on {standing.folder} already (process {standing.process.pid})" in second.stderr
    assert f"millrace down --dir {standing.folder}" in second.stderr
    assert "Traceback" not in second.stderr
    assert standing.stack()["pids"]["supervisor"] == standing.process.pid


def test_a_taken_port_is_told_and_nothing_is_started(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = millrace("up", "--no-demo", "--dir", str(folder), "--port", str(port))

    assert done.returncode == 1
    assert f"The port {port} is taken" in done.stderr
    assert "--port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_data_of_another_version_are_refused(folder: Path) -> None:
    with server_folder() as other:
        (other / "postgres" / "data").mkdir(parents=True)
        (other / "postgres" / "data" / "PG_VERSION").write_text("11\n")

        done = millrace("up", "--no-demo", "--dir", str(other))

    assert done.returncode == 1
    assert "postgresql 11" in done.stderr
    assert "MILLRACE_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_role_that_dies_while_starting_shows_the_end_of_its_log(folder: Path) -> None:
    done = millrace("up", "--no-demo", "--dir", str(folder), environment={"MILLRACE_SENTRY_DSN": "crooked"})

    assert done.returncode == 1
    assert "the end of" in done.stderr  # of its log, with the reason
    assert "BadDsn" in done.stderr
    assert millrace("status", "--dir", str(folder)).returncode == 3


def test_detach_status_and_down(folder: Path) -> None:
    started = millrace("up", "--detach", "--no-demo", "--dir", str(folder))
    try:
        assert started.returncode == 0, started.stderr
        stack = DataFolder(folder).read_stack()
        assert stack is not None
        assert call(stack, "GET", "/jobs?limit=1")[0] == 200
        well = millrace("status", "--dir", str(folder))
        assert well.returncode == 0, well.stdout
        assert all(role in well.stdout for role in ROLES)
    finally:
        stopped = millrace("down", "--dir", str(folder))

    assert stopped.returncode == 0, stopped.stderr
    assert [pid for pid in stack["pids"].values() if process_exists(pid)] == []
    assert millrace("status", "--dir", str(folder)).returncode == 3
    assert "No stack runs" in millrace("down", "--dir", str(folder)).stdout


def _environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Ours without any setting of Millrace: the stack starts its own servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return {**inherited, **(extra or {})}
