"""Is everything as it must be? Counts that must be zero, what was repaired lately, and warnings about the set-up."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal
from uuid import UUID

import orjson
from celery import Celery
from redis.exceptions import ResponseError
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.jobs.queries import FINAL_SQL, IDLE_SQL, UNFINISHED_SQL, live_workers
from service.jobs.ring import RING_ERRORS
from service.queues import Queue
from service.transaction import reading

Verdict = Literal["ok", "warning", "broken", "unknown"]

LOOKED_AT = 10_000
"""Most rows that one check looks at: the report must cost little on a large database."""


@dataclass(frozen=True)
class Line:
    """One line of the report: what was found, what it means, what to do."""

    name: str
    verdict: Verdict
    found: str
    meaning: str
    to_do: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _MustBeZero:
    name: str
    statement: str
    meaning: str
    to_do: str


_MUST_BE_ZERO = (
    _MustBeZero(
        "leases overdue",
        "SELECT FROM jobs WHERE state = 'running' AND lease_until < clock_timestamp() - interval '15 seconds'",
        "Running jobs whose worker gave no sign of life and that nobody rescued.",
        "Is a beat running, and does it reach the database? It rescues them within seconds.",
    ),
    _MustBeZero(
        "due but not queued",
        "SELECT FROM jobs "
        "WHERE state IN ('scheduled', 'retrying') AND run_at < clock_timestamp() - interval '30 seconds'",
        "Jobs whose time has come and that the clock has not queued.",
        "Is a beat running? Look into its log.",
    ),
    _MustBeZero(
        "past their expiry",
        f"SELECT FROM jobs WHERE state IN ({IDLE_SQL}) AND expires_at < clock_timestamp() - interval '30 seconds'",
        "Jobs that should have ended as expired.",
        "Is a beat running? Look into its log.",
    ),
    _MustBeZero(
        "rung long ago",
        "SELECT FROM jobs WHERE state = 'queued' AND rung_at IS NOT NULL AND ring_count > 4 "
        "AND rung_at < clock_timestamp() - interval '10 minutes'",
        "Jobs that were rung again and again and that no worker claims.",
        "Does a worker consume their queue, and does it know their job types? See GET /api/v1/queues.",
    ),
    _MustBeZero(
        "final jobs with open attempts",
        f"SELECT FROM job_attempts JOIN jobs ON jobs.id = job_id "
        f"WHERE job_attempts.finished_at IS NULL AND jobs.state IN ({FINAL_SQL}) "
        f"AND job_attempts.started_at > clock_timestamp() - interval '1 day'",
        "Attempts that never ended although their job did: a guard has failed.",
        "Report this with the jobs' events; it should not be possible.",
    ),
    _MustBeZero(
        "events with gaps",
        "SELECT FROM (SELECT jobs.id, event_seq, "
        "                    (SELECT count(*) FROM job_events WHERE job_id = jobs.id) AS events "
        "               FROM jobs ORDER BY jobs.id DESC LIMIT 1000) AS latest WHERE events <> event_seq",
        "Jobs (of the newest 1,000) whose history is not numbered 1, 2, 3, …",
        "Report this with the jobs' events; it should not be possible.",
    ),
)


def check_integrity(celery: Celery) -> list[Line]:
    """The whole report. Costs a few dozen milliseconds; safe at any time."""
    lines: list[Line] = []
    with reading() as session:
        lines += [_zero_line(session, check) for check in _MUST_BE_ZERO]
        lines += [_clock_line(session), *_worker_lines(session), _connections_line(session), *_repair_lines(session)]
    return [*lines, *_broker_lines(celery)]


def is_sound(lines: list[Line]) -> bool:
    """Whether nothing is broken."""
    return all(line.verdict != "broken" for line in lines)


def _zero_line(session: Session, check: _MustBeZero) -> Line:
    counted = text(f"SELECT count(*) FROM ({check.statement} LIMIT {LOOKED_AT}) AS found")  # noqa: S608 - our constants
    count = int(session.execute(counted).scalar_one())
    more = " or more" if count == LOOKED_AT else ""
    return Line(check.name, "broken" if count else "ok", f"{count:,}{more}", check.meaning, check.to_do)


def _clock_line(session: Session) -> Line:
    row = session.execute(
        text("SELECT holder, EXTRACT(epoch FROM clock_timestamp() - lease_until) AS overdue FROM clock_leases")
    ).first()
    meaning = "The beat that acts as the clock: it fires schedules, rings, rescues and prunes."
    to_do = "Start a beat: `celery -A beat.app beat`. Jobs are accepted without one, but a lost ring stays lost."
    if row is None or row.overdue > 0:
        return Line("clock", "broken", "no beat acts", meaning, to_do)
    return Line("clock", "ok", str(row.holder), meaning, to_do)


def _worker_lines(session: Session) -> list[Line]:
    workers = live_workers(session)
    waiting = {
        row.queue
        for row in session.execute(text(f"SELECT DISTINCT queue FROM jobs WHERE state IN ({UNFINISHED_SQL})"))  # noqa: S608
    }
    lines = []
    for queue in Queue:
        count = sum(queue in worker["queues"] for worker in workers)
        verdict: Verdict = "ok" if count else ("broken" if queue in waiting else "warning")
        meaning = f"Workers that consume the queue {queue.value!r} and gave a sign of life in the last 30 seconds."
        to_do = f"Start one: `celery -A worker.app worker --queues {queue.value}`."
        lines.append(Line(f"workers of {queue.value}", verdict, f"{count}", meaning, to_do))
    return lines


def _connections_line(session: Session) -> Line:
    row = session.execute(
        text(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used, "
            "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most"
        )
    ).one()
    verdict: Verdict = "ok" if row.used < row.most * 0.8 else "warning"
    meaning = "Connections to PostgreSQL in use, of those that it allows."
    to_do = (
        "Lower MILLRACE_DATABASE_POOL_SIZE or the number of processes, raise max_connections, or put PgBouncer between."
    )
    return Line("connections", verdict, f"{row.used} of {row.most}", meaning, to_do)


def _repair_lines(session: Session) -> list[Line]:
    rows = session.execute(
        text(
            "SELECT kind, CAST(sum(count) AS bigint) AS repaired FROM repairs "
            "WHERE hour > now() - interval '1 day' GROUP BY kind"
        )
    )
    found: dict[str, int] = {row.kind: row.repaired for row in rows}
    return [
        Line(
            f"{kind} in the last day",
            "ok",
            f"{found.get(kind, 0):,}",
            meaning,
            "Nothing; a number that grows all the time tells of workers or a broker that keep failing.",
        )
        for kind, meaning in (
            ("rescued", "Jobs taken back from workers that gave no sign of life."),
            ("rung again", "Jobs whose ring was lost, or that no worker claimed in time."),
        )
    ]


def _broker_lines(celery: Celery) -> list[Line]:
    try:
        with celery.connection_for_write() as connection:
            redis = getattr(connection.default_channel, "client", None)
            if redis is None:
                return []
            return [_messages_line(redis), *_policy_lines(redis)]
    except RING_ERRORS as error:
        to_do = "Bring Redis back. Jobs are accepted meanwhile and wait in PostgreSQL."
        return [
            Line("broker", "broken", f"no answer ({type(error).__name__})", "Redis, which rings the workers.", to_do)
        ]


def _messages_line(redis: Any) -> Line:
    """Messages that name no job of ours: somebody else's, or garbage. Workers refuse them one by one."""
    foreign = 0
    for queue in Queue:
        ids = [_job_id(raw) for raw in redis.lrange(queue.value, 0, 999)]
        known = _known_jobs([job_id for job_id in ids if job_id])
        foreign += sum(job_id not in known for job_id in ids)
    meaning = "Messages (of the first 1,000 of each queue) that name no job: not ours, or of jobs that were pruned."
    to_do = "Does something else use this Redis database? Give Millrace one of its own."
    return Line("messages without a job", "warning" if foreign else "ok", f"{foreign:,}", meaning, to_do)


def _job_id(raw: bytes) -> str | None:
    try:
        return str(UUID(orjson.loads(raw)["headers"]["id"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _known_jobs(ids: list[str]) -> set[str]:
    statement = text("SELECT CAST(id AS text) AS id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
    with reading() as session:
        return {row.id for row in session.execute(statement, {"ids": ids})}


def _policy_lines(redis: Any) -> list[Line]:
    """Settings under which Redis forgets. Millrace survives that, at the price of a delay."""
    wanted: tuple[tuple[str, Callable[[str], bool], str, str], ...] = (
        ("maxmemory-policy", lambda value: value == "noeviction", "What Redis drops when it is full.", "noeviction"),
        ("appendonly", lambda value: value == "yes", "Whether Redis keeps its messages over a restart.", "yes"),
    )
    lines = []
    for name, is_good, meaning, best in wanted:
        try:
            value = redis.config_get(name).get(name, "unknown")
        except ResponseError:  # forbidden to this user, as it should be in production
            lines.append(Line(name, "unknown", "not readable", meaning, f"Make sure that it is {best!r}."))
            continue
        lines.append(Line(name, "ok" if is_good(value) else "warning", value, meaning, f"Set it to {best!r}."))
    return lines
