"""Submitting over HTTP, 32 connections: Millrace with everything on, beside P1 and P2."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import psycopg

from service.queues import Queue
from tests.performance.job_types import NOOP
from tests.performance.load import Plan, Report, run_load
from tests.performance.measurement import Comparison, Discarded, Scale, in_turns
from tests.performance.meter import Meter
from tests.performance.peer_processes import Peer, fastapi_saq, flask_celery
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace
from tests.performance.waiting import wait_for

CONNECTIONS = 32
BATCH = 1_000
BATCH_CONNECTIONS = 2
WHOLE_WINDOW = 10_000_000
WARM_SECONDS = 2.0
CHECKED = "every accepted job is in PostgreSQL once, with its ring in Redis; no answer but 202"


@dataclass(frozen=True)
class Request:
    """What is sent to every system, under each one's own prefix."""

    path: str
    body: str
    connections: int
    jobs: int = 1
    """In one request; more than one make a batch."""

    def plan(self, port: int, scale: Scale, *, prefix: str = "", headers: dict[str, str] | None = None) -> Plan:
        """The load."""
        return Plan(
            port=port,
            method="POST",
            paths=[prefix + self.path],
            headers=headers or {},
            body=self.body,
            connections=self.connections,
            # Few and long answers need longer to be counted.
            seconds=scale.load_seconds * (1 if self.jobs == 1 else 2),
            keep_ids=self.jobs == 1,
            keep_items=self.jobs > 1,
        )

    def ids(self, report: Report) -> list[str]:
        """The ids of all jobs that were answered."""
        return [job_id for answer in report.ids for job_id in answer.split(",")]


@dataclass
class Submitter:
    """One system that takes jobs over HTTP, and the rounds that it has run."""

    jobs_per_request: int
    plan: Plan
    meter: Meter
    check: Callable[[Report], None]
    forget: Callable[[], None]
    reports: list[Report] = field(default_factory=list)

    def warm_up(self) -> None:
        """A load that does not count: every process has started and has its connections."""
        run_load(replace(self.plan, seconds=WARM_SECONDS))
        self.forget()

    def run(self, servers: Servers) -> None:
        """One round: load, check, clean up."""
        servers.settle()
        with self.meter.round() as done:
            report = run_load(self.plan)
            done["work"] = report.requests * self.jobs_per_request
        self.check(report)
        self.forget()
        self.reports.append(report)

    @property
    def rates(self) -> list[float]:
        """Jobs per second."""
        return [report.rate * self.jobs_per_request for report in self.reports]

    def latencies(self, which: str) -> list[float]:
        return [report.latencies_ms[which] for report in self.reports]


def submit(servers: Servers, scale: Scale) -> list[Comparison]:
    """Rates beside both peers, and the slowest hundredth beside P1's."""
    with ExitStack() as stack:
        request = Request("/jobs", json.dumps({"type": NOOP, "args": {"number": 1}}), CONNECTIONS)
        systems = {
            "millrace": _millrace(servers, scale, stack, request),
            "flask": _peer(servers, scale, stack, flask_celery, request, queue="celery"),
            "fastapi": _peer(servers, scale, stack, fastapi_saq, request, queue="saq:default:queued"),
        }
        for system in systems.values():
            system.warm_up()
        for name in in_turns(list(systems), scale.rounds):
            systems[name].run(servers)
    ours, flask, fastapi = systems["millrace"], systems["flask"], systems["fastapi"]
    return [
        Comparison("submit-flask", "jobs/s", "more", ours.rates, flask.rates, CHECKED, _details(ours, flask)),
        Comparison("submit-p99", "ms", "less", ours.latencies("p99"), flask.latencies("p99"), CHECKED),
        Comparison("submit-fastapi", "jobs/s", "more", ours.rates, fastapi.rates, CHECKED, _details(ours, fastapi)),
    ]


def submit_batches(servers: Servers, scale: Scale) -> list[Comparison]:
    """Jobs per second in batches of 1,000, beside `add_all`, one commit and a `.delay()` for each."""
    with ExitStack() as stack:
        jobs = [{"type": NOOP, "args": {"number": number}} for number in range(BATCH)]
        request = Request("/jobs/batch", json.dumps({"jobs": jobs}), BATCH_CONNECTIONS, jobs=BATCH)
        systems = {
            "millrace": _millrace(servers, scale, stack, request),
            "flask": _peer(servers, scale, stack, flask_celery, request, queue="celery"),
        }
        for system in systems.values():
            system.warm_up()
        for name in in_turns(list(systems), scale.rounds):
            systems[name].run(servers)
    ours, theirs = systems["millrace"], systems["flask"]
    return [Comparison("batch", "jobs/s", "more", ours.rates, theirs.rates, CHECKED, _details(ours, theirs))]


def _millrace(servers: Servers, scale: Scale, stack: ExitStack, request: Request) -> Submitter:
    # No worker runs, and a queue that fills up would stop direct rings and make submitting cheaper than it is: the
    # window is opened wide, so that every submission rings.
    millrace = Millrace.install(servers, DISPATCH_WINDOW=str(WHOLE_WINDOW))
    processes = stack.enter_context(millrace.running("api", "beat"))
    client = stack.enter_context(servers.redis_client("millrace"))
    headers = {"Authorization": f"Bearer {millrace.key}", "Idempotency-Key": "bench-{n}"}
    plan = request.plan(processes.port, scale, prefix="/api/v1", headers=headers)

    def check(report: Report) -> None:
        ids = request.ids(report)
        millrace.check_stored(ids, requests=report.requests)
        # Of a batch beat rings what the API left to it, and whatever it misses for two seconds once more.
        wait_for(lambda: client.llen(Queue.DEFAULT.value) >= len(ids), what=f"{len(ids)} rings", seconds=120)

    def forget() -> None:
        millrace.forget_jobs()
        client.delete(Queue.DEFAULT.value)

    return Submitter(request.jobs, plan, Meter({**processes.pids, **servers.pids}), check, forget)


PeerApi = Callable[[Servers], AbstractContextManager[tuple[Peer, int, int]]]


def _peer(servers: Servers, scale: Scale, stack: ExitStack, api: PeerApi, request: Request, *, queue: str) -> Submitter:
    peer, port, pid = stack.enter_context(api(servers))
    client = stack.enter_context(servers.redis_client(peer.name))
    connection = stack.enter_context(peer.connect())

    def check(report: Report) -> None:
        ids = request.ids(report)
        _check_rows(connection, ids)
        wait_for(lambda: client.llen(queue) == len(ids), what=f"{len(ids)} messages in Redis")

    def forget() -> None:
        connection.execute("TRUNCATE jobs")
        client.flushdb()

    return Submitter(request.jobs, request.plan(port, scale), Meter({"api": pid, **servers.pids}), check, forget)


def _check_rows(connection: psycopg.Connection, ids: list[str]) -> None:
    found = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE id = ANY(%s::uuid[])) FROM jobs", (ids,)
    ).fetchone()
    if found != (len(ids), len(ids)) or len(set(ids)) != len(ids):
        raise Discarded(f"rows and answered rows: {found}, not {len(ids)} each")


def _details(ours: Submitter, theirs: Submitter) -> dict[str, object]:
    return {
        who: {
            **{f"{which} ms": system.latencies(which) for which in ("p50", "p90", "p99")},
            **system.meter.as_mapping(),
            "client's share of a core": [report.client_cpu_share for report in system.reports],
        }
        for who, system in (("ours", ours), ("theirs", theirs))
    }
