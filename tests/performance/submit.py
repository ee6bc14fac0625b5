"""Submitting over HTTP, 32 connections: Millrace with everything on, beside P1 and P2."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg
from redis import Redis

from service.queues import Queue
from tests.performance.job_types import NOOP
from tests.performance.load import Plan, Report, run_load
from tests.performance.measurement import Comparison, Discarded, Scale, in_turns
from tests.performance.meter import Meter
from tests.performance.peer_processes import Peer, fastapi_saq, flask_celery
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace

CONNECTIONS = 32
WHOLE_WINDOW = 10_000_000
CHECKED = "every accepted job is in PostgreSQL once, with its ring in Redis; no answer but 202"


@dataclass
class Submitter:
    """One system that takes jobs over HTTP, and the rounds that it has run."""

    plan: Plan
    meter: Meter
    check: Callable[[Report], None]
    forget: Callable[[], None]
    reports: list[Report] = field(default_factory=list)

    def run(self, servers: Servers) -> None:
        """One round: load, check, clean up."""
        servers.settle()
        with self.meter.round() as done:
            report = run_load(self.plan)
            done["work"] = report.requests
        self.check(report)
        self.forget()
        self.reports.append(report)

    @property
    def rates(self) -> list[float]:
        return [report.rate for report in self.reports]

    def latencies(self, which: str) -> list[float]:
        return [report.latencies_ms[which] for report in self.reports]


def submit(servers: Servers, scale: Scale) -> list[Comparison]:
    """Rates beside both peers, and the slowest hundredth beside P1's."""
    with ExitStack() as stack:
        systems = {
            "millrace": _millrace(servers, scale, stack),
            "flask": _flask(servers, scale, stack),
            "fastapi": _fastapi(servers, scale, stack),
        }
        for name in in_turns(list(systems), scale.rounds):
            systems[name].run(servers)
    ours = systems["millrace"]
    return [
        *(
            Comparison(
                f"submit-{peer}",
                "jobs/s",
                "more",
                ours.rates,
                systems[peer].rates,
                CHECKED,
                _details(ours, systems[peer]),
            )
            for peer in ("flask", "fastapi")
        ),
        Comparison("submit-p99", "ms", "less", ours.latencies("p99"), systems["flask"].latencies("p99"), CHECKED),
    ]


def _millrace(servers: Servers, scale: Scale, stack: ExitStack) -> Submitter:
    # No worker runs, and a queue that fills up would stop direct rings and make submitting cheaper than it is: the
    # window is opened wide, so that every submission rings.
    millrace = Millrace.install(servers, DISPATCH_WINDOW=str(WHOLE_WINDOW))
    processes = stack.enter_context(millrace.running("api", "beat"))
    client = stack.enter_context(servers.redis_client("millrace"))
    plan = Plan(
        port=processes.port,
        method="POST",
        paths=["/api/v1/jobs"],
        headers={"Authorization": f"Bearer {millrace.key}", "Idempotency-Key": "bench-{n}"},
        body=json.dumps({"type": NOOP, "args": {"number": 1}}),
        connections=CONNECTIONS,
        seconds=scale.load_seconds,
        keep_ids=True,
    )

    def check(report: Report) -> None:
        millrace.check_stored(report.ids)
        _check_rings(client, Queue.DEFAULT.value, len(report.ids))

    def forget() -> None:
        millrace.forget_jobs()
        client.delete(Queue.DEFAULT.value)

    return Submitter(plan, Meter({**processes.pids, **servers.pids}), check, forget)


def _flask(servers: Servers, scale: Scale, stack: ExitStack) -> Submitter:
    peer, port, pid = stack.enter_context(flask_celery(servers))
    return _peer(servers, peer, port, pid, "celery", scale, stack)


def _fastapi(servers: Servers, scale: Scale, stack: ExitStack) -> Submitter:
    peer, port, pid = stack.enter_context(fastapi_saq(servers))
    return _peer(servers, peer, port, pid, "saq:default:queued", scale, stack)


def _peer(  # noqa: PLR0917 - said once, in this module
    servers: Servers, peer: Peer, port: int, pid: int, queue_key: str, scale: Scale, stack: ExitStack
) -> Submitter:
    client = stack.enter_context(servers.redis_client(peer.name))
    connection = stack.enter_context(peer.connect())
    plan = Plan(
        port=port,
        method="POST",
        paths=["/jobs"],
        body=json.dumps({"type": "noop", "args": {"number": 1}}),
        connections=CONNECTIONS,
        seconds=scale.load_seconds,
        keep_ids=True,
    )

    def check(report: Report) -> None:
        _check_rows(connection, report.ids)
        _check_rings(client, queue_key, len(report.ids))

    def forget() -> None:
        connection.execute("TRUNCATE jobs")
        client.flushdb()

    return Submitter(plan, Meter({"api": pid, **servers.pids}), check, forget)


def _check_rows(connection: psycopg.Connection, ids: list[str]) -> None:
    found = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE id = ANY(%s::uuid[])) FROM jobs", (ids,)
    ).fetchone()
    if found != (len(ids), len(ids)) or len(set(ids)) != len(ids):
        raise Discarded(f"rows and answered rows: {found}, not {len(ids)} each")


def _check_rings(client: Redis, key: str, expected: int) -> None:
    found = client.llen(key)
    if found != expected:
        raise Discarded(f"{found} messages in Redis for {expected} jobs")


def _details(ours: Submitter, theirs: Submitter) -> dict[str, object]:
    return {
        who: {
            **{f"{which} ms": system.latencies(which) for which in ("p50", "p90", "p99")},
            **system.meter.as_mapping(),
            "client's share of a core": [report.client_cpu_share for report in system.reports],
        }
        for who, system in (("ours", ours), ("theirs", theirs))
    }
