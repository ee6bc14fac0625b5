"""The checker: what the promises say, looked up in database and history once everything is healed and drained.

I1 every job answered 2xx is final · I2 one committed effect and one final event per job · I3 tokens grow, no stale
write · I4 legal moves only · I5 attempts ≤ max · I6 one job per key · I9 no row of another tenant · I10 nothing
acknowledged that is not there. I7, the bounds in time, is `recoveries`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from service.jobs.states import FINAL, State, is_legal
from tests.faults.history import History

EXPECTED = {
    "submit": {200, 202, 503, 429},
    "retry": {202, 409, 404, 503, 429},
    "cancel": {200, 202, 409, 503, 429},
    "look": {200, 503, 429},
    "spy": {404, 503, 429},
}
"""Every status that a client of the load may get; anything else, 500 above all, is a violation."""


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept, and the evidence."""

    invariant: str
    evidence: str


@dataclass(frozen=True)
class Facts:
    """The tables, read in one snapshot."""

    jobs: dict[UUID, dict[str, Any]]
    events: dict[UUID, list[dict[str, Any]]]
    attempts: dict[UUID, list[dict[str, Any]]]
    effects: dict[UUID, list[int]]

    @classmethod
    def read(cls, url: str) -> "Facts":
        """Of every tenant, in one repeatable-read transaction."""
        with psycopg.connect(url, row_factory=dict_row) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            jobs = connection.execute(
                "SELECT jobs.*, tenants.name AS tenant FROM jobs JOIN tenants ON tenants.id = tenant_id"
            ).fetchall()
            events = connection.execute("SELECT * FROM job_events ORDER BY job_id, seq").fetchall()
            attempts = connection.execute("SELECT * FROM job_attempts ORDER BY job_id, token").fetchall()
            effects = connection.execute("SELECT * FROM fault_effects").fetchall()
        by_job: dict[UUID, list[int]] = defaultdict(list)
        for row in effects:
            by_job[row["job_id"]].append(row["attempt"])
        return cls({job["id"]: job for job in jobs}, _grouped(events), _grouped(attempts), by_job)


def check(url: str, history: History) -> list[Violation]:
    """Every violation that the database and the history show. The system is drained: nothing is under way."""
    facts = Facts.read(url)
    answers = history.entries("answer")
    return [
        *(violation for job in facts.jobs.values() for violation in check_job(job, facts)),
        *_check_effects_have_jobs(facts),
        *_check_answers(answers, facts),
        *_check_keys(answers, facts),
    ]


def check_job(  # noqa: C901, PLR0912 - one branch per promise, each on its own
    job: dict[str, Any], facts: Facts
) -> Iterator[Violation]:
    """One job's own history: what holds for it whatever clients were told."""
    events, attempts, effects = facts.events[job["id"]], facts.attempts[job["id"]], facts.effects[job["id"]]
    name = f"job {job['id']} ({job['type']}, {job['state']})"

    states = [State(event["state"]) for event in events]
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)) or len(events) != job["event_seq"]:
        yield Violation("I4", f"{name}: events are numbered {[event['seq'] for event in events]} of {job['event_seq']}")
    elif states[-1] != job["state"]:
        yield Violation("I4", f"{name}: its last event says {states[-1]}")
    for before, after, event in zip([None, *states], states, events, strict=False):
        is_request = event["name"] == "cancel_requested" and before == after == State.RUNNING
        if not is_request and not is_legal(before, after):
            yield Violation("I4", f"{name}: moved from {before} to {after} ({event['name']})")

    if State(job["state"]) not in FINAL:
        yield Violation(
            "I1", f"{name}: not final; attempt {job['attempt']}, rung {job['rung_at']}, due {job['run_at']}"
        )
    if sum(state in FINAL for state in states) > 1:
        yield Violation("I2", f"{name}: has several final events")

    tokens = [attempt["token"] for attempt in attempts]
    if any(later <= earlier for earlier, later in pairwise([0, *tokens])) or [0, *tokens][-1] != job["token"]:
        yield Violation("I3", f"{name}: attempts have tokens {tokens}, the job {job['token']}")
    for attempt in attempts:
        is_last = attempt["token"] == job["token"]
        if attempt["outcome"] is None and (State(job["state"]) in FINAL or not is_last):
            yield Violation("I3", f"{name}: attempt {attempt['token']} was never ended")
        if attempt["outcome"] == "succeeded" and not (is_last and job["state"] == State.SUCCEEDED):
            yield Violation("I3", f"{name}: attempt {attempt['token']} succeeded, and the job does not show it")
    for earlier, later in pairwise(attempts):
        if earlier["finished_at"] is not None and earlier["finished_at"] > later["started_at"]:
            yield Violation("I3", f"{name}: attempt {later['token']} started before {earlier['token']} was ended")

    counted = sum(attempt["outcome"] != "given_back" for attempt in attempts)
    if not job["attempt"] == counted <= job["max_attempts"]:
        yield Violation("I5", f"{name}: {counted} attempts, {job['attempt']} counted, at most {job['max_attempts']}")

    if job["type"] == "fault.effect" and effects != ([job["attempt"]] if job["state"] == State.SUCCEEDED else []):
        yield Violation("I2", f"{name}: effects of attempts {effects}, the job is at {job['attempt']}")


def _check_effects_have_jobs(facts: Facts) -> Iterator[Violation]:
    for job_id in facts.effects.keys() - facts.jobs.keys():
        yield Violation("I10", f"an effect of job {job_id}, which does not exist")


def _check_answers(answers: list[dict[str, Any]], facts: Facts) -> Iterator[Violation]:
    """What clients were told, against what is there now."""
    for answer in answers:
        status, kind = answer["status"], _kind(answer)
        if status is None:
            continue
        told = f"{answer['method']} {answer['path']} at {answer['at']} was answered {status}"
        if status not in EXPECTED[kind]:
            yield Violation("I9" if kind == "spy" else "answer", told)
        if status == 503 and not answer["retry_after"]:
            yield Violation("answer", f"{told} without Retry-After")
        if status not in {200, 202}:
            continue
        job = facts.jobs.get(UUID(answer["job"]))
        if job is None:
            yield Violation("I10", f"{told}, and there is no job {answer['job']}")
        elif job["tenant"] != answer["tenant"]:
            yield Violation("I9", f"{told} to {answer['tenant']}, and the job is {job['tenant']}'s")
        elif answer["state"] in FINAL and answer["state"] != job["state"]:
            yield Violation("I2", f"{told} that it was {answer['state']}, and it is {job['state']} now")


def _check_keys(answers: list[dict[str, Any]], facts: Facts) -> Iterator[Violation]:
    """One job per idempotency key, whatever was repeated; the key stands in the job's metadata, too."""
    told = defaultdict(set)
    for answer in answers:
        if answer["key"] and answer["status"] in {200, 202}:
            told[answer["key"]].add(answer["job"])
    for key, jobs in told.items():
        if len(jobs) > 1:
            yield Violation("I6", f"the key {key} was answered with the jobs {sorted(jobs)}")
    made = defaultdict(list)
    for job in facts.jobs.values():
        if job["metadata"].get("key") and job["origin_id"] is None:
            made[job["metadata"]["key"]].append(job["id"])
    for key, ids in made.items():
        if len(ids) > 1:
            yield Violation("I6", f"the key {key} made the jobs {ids}")
        elif told[key] and told[key] != {str(ids[0])}:
            yield Violation("I6", f"the key {key} made the job {ids[0]}, and clients were told {told[key]}")


def _kind(answer: dict[str, Any]) -> str:
    if answer["spying"]:
        return "spy"
    if answer["method"] == "GET":
        return "look"
    last = answer["path"].rsplit("/", 1)[-1]
    return "submit" if last == "jobs" else last


def _grouped(rows: list[dict[str, Any]]) -> dict[UUID, list[dict[str, Any]]]:
    grouped: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["job_id"]].append(row)
    return grouped


@dataclass(frozen=True)
class Recovery:
    """How long a job waited to run again after it had lost an attempt, in seconds."""

    job_id: UUID
    lost_attempt_seconds: float
    """From the start of the lost attempt until its loss was noticed."""
    wait_seconds: float
    """From there until the next attempt started."""


def recoveries(url: str) -> list[Recovery]:
    """Every attempt that was lost and had a successor (I7)."""
    found = []
    for job_id, attempts in Facts.read(url).attempts.items():
        for lost, following in pairwise(attempts):
            if lost["outcome"] in {"lost", "given_back"}:
                ran = (lost["finished_at"] - lost["started_at"]).total_seconds()
                waited = (following["started_at"] - lost["finished_at"]).total_seconds()
                found.append(Recovery(job_id, ran, waited))
    return found
