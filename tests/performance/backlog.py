"""Running jobs in front of a great backlog, beside doing so with 1,000 queued; and what the backlog takes in Redis."""

import time
from contextlib import ExitStack

import psycopg
from redis import Redis

from tests.performance.measurement import Comparison, Discarded, Scale, in_turns
from tests.performance.running import DRAIN_SECONDS, one, wait_until_none_is_left
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace
from tests.performance.waiting import wait_for

FEW = 1_000
ALLOWED_MEGABYTES = 10.0
WARM_JOBS = 300
CHECKED = "every job that ended ran once"


def backlog(servers: Servers, scale: Scale) -> list[Comparison]:
    """Rates by the database's own clock; each round starts the workers anew and lets them run warm."""
    rates: dict[str, list[float]] = {"many": [], "few": []}
    redis_megabytes = []
    with ExitStack() as stack:
        installed = {name: Millrace.install(servers, name) for name in rates}
        clients = {name: stack.enter_context(servers.redis_client(name)) for name in rates}
        connections = {name: stack.enter_context(millrace.connect()) for name, millrace in installed.items()}
        empty_megabytes = _used_megabytes(clients["many"])
        installed["many"].queue_jobs(scale.backlog_jobs)
        connections["many"].execute("VACUUM ANALYZE jobs")
        for name in in_turns(list(rates), scale.rounds):
            servers.settle()
            with installed[name].running("workers", "beat"):
                if name == "few":
                    rates[name].append(_rate_of_batches(installed[name], connections[name], scale.backlog_seconds))
                else:
                    rates[name].append(_rate_of_backlog(connections[name], scale.backlog_seconds))
                    redis_megabytes.append(_used_megabytes(clients[name]) - empty_megabytes)
        _check(connections["many"])
    return [
        Comparison("backlog", "jobs/s", "more", rates["many"], rates["few"], CHECKED, {"jobs": scale.backlog_jobs}),
        Comparison("backlog-redis", "MB", "less", redis_megabytes, [ALLOWED_MEGABYTES] * len(redis_megabytes), CHECKED),
    ]


def _rate_of_batches(millrace: Millrace, connection: psycopg.Connection, seconds: float) -> float:
    """Batch after batch of 1,000: from each one's commit to the end of its last job."""
    _drain(millrace, connection, WARM_JOBS)
    took, jobs = 0.0, 0
    while took < seconds:
        took += _drain(millrace, connection, FEW)
        jobs += FEW
    return jobs / took


def _drain(millrace: Millrace, connection: psycopg.Connection, jobs: int) -> float:
    ids = millrace.queue_jobs(jobs)
    wait_until_none_is_left(connection, "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
    millrace.check_run_once(ids)
    took = one(connection, "SELECT extract(epoch FROM max(finished_at) - max(created_at)) FROM jobs")
    millrace.forget_jobs()
    return float(took)


def _rate_of_backlog(connection: psycopg.Connection, seconds: float) -> float:
    """What ends within the seconds after the first few hundred jobs."""
    already = one(connection, _ENDED)
    wait_for(
        lambda: one(connection, _ENDED) >= already + WARM_JOBS,
        what="the backlog moving",
        seconds=DRAIN_SECONDS,
        look_seconds=0.5,
    )
    began = one(connection, "SELECT clock_timestamp()")
    time.sleep(seconds)
    row = connection.execute(
        "SELECT count(*) FROM jobs WHERE finished_at BETWEEN %s AND %s::timestamptz + make_interval(secs => %s)",
        (began, began, seconds),
    ).fetchone()
    return float(row[0]) / seconds if row else 0.0


_ENDED = "SELECT count(*) FROM job_attempts WHERE outcome = 'succeeded'"


def _check(connection: psycopg.Connection) -> None:
    found = connection.execute(
        """
        SELECT (SELECT count(*) FROM jobs WHERE state = 'succeeded'),
               (SELECT count(*) FROM job_attempts WHERE outcome = 'succeeded'),
               (SELECT count(DISTINCT job_id) FROM job_attempts WHERE outcome = 'succeeded')
        """
    ).fetchone()
    if found is None or len(set(found)) != 1:
        raise Discarded(f"ended jobs, successes, jobs with a success: {found}")


def _used_megabytes(client: Redis) -> float:
    return float(client.info("memory")["used_memory"]) / 1e6
