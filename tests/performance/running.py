"""Running no-op jobs with two processes: every state durable, beside stock Celery storing nothing and Procrastinate.

Timed from the moment at which all jobs are handed over (a commit, or a rename in Redis) to the end of the last one.
The processes are warm: they have run jobs before.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.performance.measurement import Comparison, Discarded, Scale, in_turns
from tests.performance.meter import Meter
from tests.performance.peer_processes import Peer, celery_worker, procrastinate_workers
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace
from tests.performance.waiting import wait_for

WARM_JOBS = 200
DRAIN_SECONDS = 300.0
STAGING = "staging"
CELERY_QUEUE = "celery"
CHECKED = "every job ended well and ran once, by each system's own account"


@dataclass
class Drain:
    """One system that runs jobs: `drain` hands over so many, waits for the last, checks, and returns the seconds."""

    meter: Meter
    drain: Callable[[int], float]
    rates: list[float] = field(default_factory=list)

    def run(self, jobs: int) -> None:
        """One round."""
        with self.meter.round() as done:
            self.rates.append(jobs / self.drain(jobs))
            done["work"] = jobs


def run_jobs(servers: Servers, scale: Scale) -> list[Comparison]:
    """Jobs per second of all three."""
    with ExitStack() as stack:
        drains = {
            "millrace": _millrace(servers, stack),
            "celery": _celery(servers, stack),
            "procrastinate": _procrastinate(servers, stack),
        }
        for drain in drains.values():
            drain.drain(WARM_JOBS)
        for name in in_turns(list(drains), scale.rounds):
            servers.settle()
            drains[name].run(scale.drain_jobs)
    ours = drains["millrace"]
    return [
        Comparison(
            f"run-{name}",
            "jobs/s",
            "more",
            ours.rates,
            drains[name].rates,
            CHECKED,
            {"ours": ours.meter.as_mapping(), "theirs": drains[name].meter.as_mapping()},
        )
        for name in ("celery", "procrastinate")
    ]


def _millrace(servers: Servers, stack: ExitStack) -> Drain:
    millrace = Millrace.install(servers)
    processes = stack.enter_context(millrace.running("workers", "beat"))
    connection = stack.enter_context(millrace.connect())

    def drain(jobs: int) -> float:
        ids = millrace.queue_jobs(jobs)
        queued_at = one(connection, "SELECT max(created_at) FROM jobs")
        wait_until_none_is_left(connection, "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
        millrace.check_run_once(ids)
        took = one(connection, "SELECT max(finished_at) FROM jobs") - queued_at
        millrace.forget_jobs()
        return float(took.total_seconds())

    return Drain(Meter({**processes.pids, **servers.pids}), drain)


def _celery(servers: Servers, stack: ExitStack) -> Drain:
    peer, pid = stack.enter_context(celery_worker(servers))
    client = stack.enter_context(servers.redis_client("celery"))

    def drain(jobs: int) -> float:
        run_before = int(run_in(peer, "stock_celery", "print_runs()"))
        run_in(peer, "stock_celery", f"stage({jobs})")
        if client.llen(STAGING) != jobs:
            raise Discarded("not every message was staged")
        began = time.monotonic()
        client.rename(STAGING, CELERY_QUEUE)
        wait_for(
            lambda: not client.llen(CELERY_QUEUE) and not client.hlen("unacked"),
            what="an empty queue",
            seconds=DRAIN_SECONDS,
        )
        took = time.monotonic() - began
        if (run := int(run_in(peer, "stock_celery", "print_runs()")) - run_before) != jobs:
            raise Discarded(f"the worker counts {run} runs for {jobs} jobs")
        return took

    return Drain(Meter({"worker": pid, **servers.pids}), drain)


def _procrastinate(servers: Servers, stack: ExitStack) -> Drain:
    peer, pids = stack.enter_context(procrastinate_workers(servers))
    connection = stack.enter_context(peer.connect())

    def drain(jobs: int) -> float:
        connection.execute("TRUNCATE procrastinate_jobs CASCADE")
        run_in(peer, "procrastinate_noop", f"defer({jobs})")
        wait_until_none_is_left(connection, "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
        _check_procrastinate(connection, jobs)
        took = one(connection, _PROCRASTINATE_TOOK)
        return float(took.total_seconds())

    workers = {f"worker-{number}": pid for number, pid in enumerate(pids)}
    return Drain(Meter({**workers, **servers.pids}), drain)


_PROCRASTINATE_TOOK = """
    SELECT max(at) FILTER (WHERE type = 'succeeded') - max(at) FILTER (WHERE type = 'deferred')
      FROM procrastinate_events
"""


def _check_procrastinate(connection: psycopg.Connection, jobs: int) -> None:
    found = connection.execute(
        """
        SELECT (SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND attempts = 1),
               (SELECT count(*) FROM procrastinate_events WHERE type = 'started'),
               (SELECT count(*) FROM procrastinate_events WHERE type = 'succeeded')
        """
    ).fetchone()
    if found != (jobs,) * 3:
        raise Discarded(f"succeeded jobs, starts, successes: {found}, not {jobs} each")


def wait_until_none_is_left(connection: psycopg.Connection, count: str) -> None:
    """Look now and then, rarely enough not to be felt. Raises Discarded after five minutes."""
    wait_for(lambda: one(connection, count) == 0, what="every job ended", seconds=DRAIN_SECONDS, look_seconds=0.1)


def one(connection: psycopg.Connection, statement: str) -> Any:
    """The single value that the statement selects."""
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def run_in(peer: Peer, module: str, call: str) -> str:
    """Call a function of a peer's module in a process of its own; what it prints. Raises Discarded."""
    code = f"from tests.performance.peers import {module}; {module}.{call}"
    finished = subprocess.run(
        [sys.executable, "-c", code], env=peer.environment, capture_output=True, text=True, check=False, timeout=300
    )
    if finished.returncode != 0:
        raise Discarded(f"{peer.name}: {finished.stderr[-2000:]}")
    return finished.stdout
