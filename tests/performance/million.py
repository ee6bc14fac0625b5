"""`python -m tests.performance.million --jobs 1000000`: one tenant's backlog, another tenant's single jobs beside it.

One tenant submits the jobs in batches of 10,000 over HTTP, as fast as they are taken, and the workers drain them.
All the while a second tenant submits a single job each second. In the end every job must have run once. Prints how
long the second tenant's jobs waited, beside the same on the idle system, and what Redis used.
"""

import argparse
import json
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
import urllib3

from tests.performance.job_types import NOOP
from tests.performance.measurement import Discarded, percentile
from tests.performance.running import one
from tests.performance.servers import running_servers
from tests.performance.shipped import Millrace

BATCH = 10_000
IDLE_SECONDS = 30.0


@dataclass
class Neighbour:
    """The second tenant: a job each second, and a look at Redis' memory."""

    port: int
    key: str
    used_memory: Any
    ids: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `done`."""
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, maxsize=1) as http:
            while not self.done.wait(1.0):
                answer = post(http, self.key, "/api/v1/jobs", {"type": NOOP, "args": {"number": 1}})
                self.ids.append(answer["id"])
                self.megabytes.append(self.used_memory())

    def while_doing(self, act: Any) -> tuple[list[str], list[float]]:
        """The ids and megabytes of the time that `act` takes."""
        self.ids, self.megabytes, self.done = [], [], threading.Event()
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            act()
        finally:
            self.done.set()
            thread.join()
        return self.ids, self.megabytes


def post(http: urllib3.HTTPConnectionPool, key: str, path: str, body: Any) -> Any:
    """The answer's JSON. Raises Discarded for anything but 202."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answer = http.request("POST", path, body=json.dumps(body), headers=headers, timeout=120)
    if answer.status != 202:
        raise Discarded(f"answered {answer.status}: {answer.data[:300]!r}")
    return answer.json()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="A great backlog of one tenant, single jobs of another.")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    jobs: int = parser.parse_args().jobs
    with running_servers() as servers, ExitStack() as stack:
        millrace = Millrace.install(servers)
        processes = stack.enter_context(millrace.running("api", "workers", "beat"))
        connection = stack.enter_context(millrace.connect())
        redis = stack.enter_context(servers.redis_client("millrace"))
        neighbour = Neighbour(
            processes.port,
            millrace.make_key("the second tenant"),
            lambda: round(float(redis.info("memory")["used_memory"]) / 1e6, 2),
        )
        took: dict[str, float] = {}

        def submit_all() -> None:
            began = time.monotonic()
            batch = {"jobs": [{"type": NOOP, "args": {"number": number}} for number in range(BATCH)]}
            with urllib3.HTTPConnectionPool("127.0.0.1", processes.port, maxsize=1) as http:
                for _ in range(jobs // BATCH):
                    post(http, millrace.key, "/api/v1/jobs/batch", batch)
            took["submit"] = time.monotonic() - began

        def drain() -> None:
            began = time.monotonic()
            while (left := one(connection, _LEFT)) > 0:
                print(f"{time.monotonic() - began:7.0f} s  {left:,} left", flush=True)
                time.sleep(20)
            took["drain"] = time.monotonic() - began

        idle = neighbour.while_doing(lambda: time.sleep(IDLE_SECONDS))
        submitting = neighbour.while_doing(submit_all)
        draining = neighbour.while_doing(drain)
        millrace.check_run_once([*idle[0], *submitting[0], *draining[0]])
        ended = one(connection, "SELECT count(*) FROM jobs WHERE state = 'succeeded' AND attempt = 1")
        expected = jobs // BATCH * BATCH + len(idle[0]) + len(submitting[0]) + len(draining[0])
        print(f"jobs                {ended:,} of {expected:,} ended well, each in its first attempt")
        print(f"submitted in        {took['submit']:.0f} s, {jobs / took['submit']:,.0f} jobs/s")
        print(f"drained in          {took['drain']:.0f} s more")
        for name, (ids, megabytes) in {"idle": idle, "submitting": submitting, "draining": draining}.items():
            waits = _waits(connection, ids)
            slow = f"p50 {percentile(waits, 0.5):.3f} s, p99 {percentile(waits, 0.99):.3f} s, max {max(waits):.3f} s"
            print(f"{name:<12}        second tenant's {len(ids)} jobs started after {slow}")
            print(f"                    Redis {min(megabytes)}–{max(megabytes)} MB")
    return 0 if ended == expected else 1


_LEFT = "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed')"


def _waits(connection: psycopg.Connection, ids: list[str]) -> list[float]:
    rows = connection.execute(
        "SELECT extract(epoch FROM started_at - created_at) FROM jobs WHERE id = ANY(%s::uuid[])", (ids,)
    ).fetchall()
    return [float(row[0]) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
