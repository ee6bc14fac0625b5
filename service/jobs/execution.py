"""Claim, renew and end an attempt: each one guarded statement. Only the database's clock decides anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.artifacts.files import NewArtifact, insert_artifacts
from service.jobs.limits import UNDECLARED, UNLIMITED, WITHIN_LIMITS, Limits, limit_parameters, lock_lanes, unring
from service.jobs.queries import JOB_COLUMNS
from service.statements import Row, Statement
from service.transaction import execute_alone, to_jsonb, transaction


@dataclass(frozen=True)
class Claim:
    """The right to run a job for one attempt; good for as long as the token is the job's current one."""

    job_id: UUID
    token: int


class ClaimLost(Exception):
    """The token is no longer the job's current one: this attempt was overtaken, and nothing of it was kept."""


class Execute(Protocol):
    """Runs one statement that commits by itself: `execute_alone`, or a connection of the caller's own."""

    def __call__(self, statement: Statement, parameters: Mapping[str, Any], *, name: str) -> list[Row]:
        """The statement's rows."""


CLAIMED = (
    "jobs.id, jobs.tenant_id, type, state, queue, args, attempt, max_attempts, timeout_seconds, token, started_at, "
    "event_seq, request_id"
)
"""What a claim tells of its job: what running it takes."""

# Closes the race between two deliveries of the same ring (one finds `queued`, the other does not), between a claim and
# a cancel or an expiry, and refuses what was rung too early. The new token fences off every earlier attempt.
# The claim's commit need not wait for the disk: one that a crash of PostgreSQL takes back leaves a job that is queued,
# and the finish of an attempt, which does wait, finds it so and is refused. The token grows by a random step, so that
# the next claim after such a crash has another one. The claim of a last attempt does wait: it is not to be forgotten
# that this one was made.
_CLAIM = """
    WITH job AS (
        UPDATE jobs
           SET state = 'running', token = token + 1 + CAST(floor(random() * 1000) AS bigint),
               attempt = attempt + 1, worker = :worker,
               started_at = clock_timestamp(), progress_percent = NULL, progress_message = NULL, error = NULL,
               lease_until = clock_timestamp() + make_interval(secs => :lease_seconds),
               attempt_deadline = clock_timestamp() + make_interval(secs => timeout_seconds + :grace_seconds),
               rung_at = NULL, ring_count = 0, event_seq = event_seq + 1
         WHERE {which} AND (CAST(:type AS text) IS NULL OR type = :type)
           AND state = 'queued' AND run_at <= clock_timestamp() AND attempt < max_attempts
           AND (expires_at IS NULL OR expires_at > clock_timestamp())
           AND {within_limits}
        RETURNING {columns},
                  CASE WHEN attempt < max_attempts THEN set_config('synchronous_commit', 'off', true) END AS unhurried
    ), attempt AS (
        INSERT INTO job_attempts (job_id, token, tenant_id, attempt, worker, started_at)
        SELECT id, token, tenant_id, attempt, :worker, started_at FROM job
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name, data)
        SELECT id, event_seq, tenant_id, started_at, state, 'started', jsonb_build_object('attempt', attempt) FROM job
    )
    SELECT * FROM job
    """
_CLAIM_UNLIMITED = Statement(_CLAIM.format(which="id = :id", columns=CLAIMED, within_limits=UNLIMITED))
_CLAIM_LIMITED = text(_CLAIM.format(which="id = :id", columns=CLAIMED, within_limits=WITHIN_LIMITS))
# A job that is claimed together with others can lose an attempt to what they do: at most its first, and never its last.
_CLAIM_TOGETHER = Statement(
    _CLAIM.format(
        which="id = ANY(CAST(:ids AS uuid[])) AND attempt = 0 AND max_attempts > 1",
        columns=CLAIMED,
        within_limits=UNLIMITED,
    )
)


def claim(
    job_id: UUID,
    *,
    worker: str,
    lease_seconds: float,
    grace_seconds: float,
    limits: Limits = UNDECLARED,
    type_: str | None = None,
    execute: Execute = execute_alone,
) -> Row | None:
    """Take a queued job for one attempt. None: the ring was a double, or the job may not start now.

    `worker` names the process (node and pid). `grace_seconds` go on top of the job's own timeout: after both the
    lease is not renewed any more. With `type_`, only a job of that type is taken: a message may be forged. A job that
    a rule or a limit holds back goes to the dispatcher, which rings it again when there is room.
    """
    parameters = {
        "id": job_id,
        "worker": worker,
        "lease_seconds": lease_seconds,
        "grace_seconds": grace_seconds,
        "type": type_,
        **limit_parameters(limits),
    }
    if rows := execute(_CLAIM_UNLIMITED, parameters, name="claim"):
        return rows[0]
    with transaction("claim") as session:
        if not lock_lanes(session, job_id):
            return None
        job = session.execute(_CLAIM_LIMITED, parameters).mappings().first()
        if job is None:
            unring(session, job_id)
        return job


def claim_together(
    job_ids: Sequence[UUID],
    *,
    worker: str,
    lease_seconds: float,
    grace_seconds: float,
    type_: str,
    execute: Execute = execute_alone,
) -> list[Row]:
    """Take those of these queued jobs of one type that nothing limits, each for its first attempt, in one commit.

    The others are left as they are, for `claim`.
    """
    parameters = {
        "ids": list(job_ids),
        "worker": worker,
        "lease_seconds": lease_seconds,
        "grace_seconds": grace_seconds,
        "type": type_,
        **limit_parameters(UNDECLARED),
    }
    return execute(_CLAIM_TOGETHER, parameters, name="claim")


# Guarded by the token, so that a paused process that wakes up late cannot revive a lease that was given to another.
_RENEW = Statement(
    """
    UPDATE jobs
       SET lease_until = LEAST(clock_timestamp() + make_interval(secs => :lease_seconds), attempt_deadline),
           progress_percent = COALESCE(:percent, progress_percent),
           progress_message = COALESCE(:message, progress_message)
     WHERE id = :id AND token = :token AND state = 'running' AND lease_until > clock_timestamp()
    RETURNING cancel_requested_at IS NOT NULL AS cancel_requested
    """
)


def renew(claim: Claim, *, lease_seconds: float, percent: float | None = None, message: str | None = None) -> bool:
    """Keep the claim alive, store progress, and learn whether somebody asked to cancel. Raises ClaimLost."""
    parameters = {
        "id": claim.job_id,
        "token": claim.token,
        "lease_seconds": lease_seconds,
        "percent": percent,
        "message": message,
    }
    rows = execute_alone(_RENEW, parameters, name="renew")
    if not rows:
        raise ClaimLost
    return bool(rows[0]["cancel_requested"])


Outcome = Literal["succeeded", "failed", "cancelled", "lost", "given_back"]

TOKEN_GUARD = "id = :id AND token = :token AND state = 'running'"  # noqa: S105 - a fencing token, no secret


def end_of_attempt(new_state: str, guard: str) -> str:
    """The statement that ends an attempt: job, attempt row and event together, or nothing.

    `new_state` is an SQL expression over the job's row, `guard` the condition that says whose attempt may be ended.
    Parameters besides the guard's: `outcome`, `error` (JSON text or null), `result`, `traceback`, `delay_seconds`.
    """
    return f"""
    WITH ended AS (
        SELECT id AS ended_id, {new_state} AS new_state FROM jobs WHERE {guard} FOR UPDATE
    ), job AS (
        UPDATE jobs
           SET state = new_state, lease_until = NULL, attempt_deadline = NULL, event_seq = event_seq + 1,
               attempt = attempt - CASE WHEN :outcome = 'given_back' THEN 1 ELSE 0 END,
               finished_at = CASE WHEN new_state NOT IN ('queued', 'retrying') THEN clock_timestamp() END,
               run_at = CASE WHEN new_state = 'retrying'
                             THEN clock_timestamp() + make_interval(secs => :delay_seconds) ELSE run_at END,
               result = CASE WHEN new_state = 'succeeded' THEN CAST(:result AS jsonb) END,
               error = CASE WHEN new_state <> 'succeeded'
                            THEN CAST(:error AS jsonb) || jsonb_build_object('attempt', attempt) END,
               progress_percent = CASE WHEN new_state = 'succeeded' THEN 100 ELSE progress_percent END
          FROM ended
         WHERE id = ended_id
        RETURNING {JOB_COLUMNS}, clock_timestamp() AS ended_at
    ), attempt AS (
        UPDATE job_attempts
           SET finished_at = ended_at, outcome = :outcome, error = job.error, traceback = :traceback
          FROM job
         WHERE job_attempts.job_id = job.id AND job_attempts.token = job.token
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name, data)
        SELECT id, event_seq, tenant_id, ended_at, state,
               CASE WHEN state = 'queued' THEN :outcome ELSE state END,
               jsonb_strip_nulls(jsonb_build_object(
                   'attempt', attempt, 'error', error,
                   'run_at', CASE WHEN state = 'retrying' THEN run_at END))
          FROM job
    )
    SELECT * FROM job
    """  # noqa: S608


# A cancel that was asked for wins over another attempt, never over a result that is already there.
_RETRY_STATE = """CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                       WHEN attempt >= max_attempts THEN 'failed' ELSE 'retrying' END"""
REQUEUE_STATE = """CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                        WHEN attempt >= max_attempts THEN 'failed' ELSE 'queued' END"""

# The hot path: the same as `end_of_attempt` for the one way that needs no decision.
_SUCCEED_SQL = """
    WITH {ended} job AS (
        UPDATE jobs
           SET state = 'succeeded', finished_at = clock_timestamp(), result = CAST({result} AS jsonb), error = NULL,
               progress_percent = 100, lease_until = NULL, attempt_deadline = NULL, event_seq = event_seq + 1
          {whose}
        RETURNING id, tenant_id, type, state, attempt, token, event_seq, finished_at, request_id
    ), attempt AS (
        UPDATE job_attempts SET finished_at = job.finished_at, outcome = 'succeeded'
          FROM job WHERE job_attempts.job_id = job.id AND job_attempts.token = job.token
    ), event AS (
        INSERT INTO job_events (job_id, seq, tenant_id, at, state, name, data)
        SELECT id, event_seq, tenant_id, finished_at, state, state, jsonb_build_object('attempt', attempt) FROM job
    )
    SELECT id, type, state, attempt, request_id FROM job
    """
_SUCCEED = Statement(_SUCCEED_SQL.format(ended="", result=":result", whose=f"WHERE {TOKEN_GUARD}"))
# Each attempt has its own token here too: one that was overtaken is left out, and the others are ended.
_SUCCEED_ALL = Statement(
    _SUCCEED_SQL.format(
        ended="""ended AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[]), CAST(:results AS text[]))
                   AS ended (ended_id, ended_token, ended_result)
    ),""",
        result="ended_result",
        whose="FROM ended WHERE id = ended_id AND token = ended_token AND state = 'running'",
    )
)
_RETRY = text(end_of_attempt(_RETRY_STATE, TOKEN_GUARD))
_FAIL = text(end_of_attempt("'failed'", TOKEN_GUARD))
_CANCEL = text(end_of_attempt("'cancelled'", TOKEN_GUARD))
_GIVE_BACK = text(
    end_of_attempt("CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'queued' END", TOKEN_GUARD)
)
# The parent of a dead process knows no token, but it knows who held the claim.
_LOST = text(end_of_attempt(REQUEUE_STATE, "id = :id AND worker = :worker AND state = 'running'"))
_ALL_LOST = text(end_of_attempt(REQUEUE_STATE, "worker = :worker AND state = 'running'"))
_ATTEMPT_HELD = text("SELECT attempt FROM jobs WHERE id = :id AND worker = :worker AND state = 'running' FOR UPDATE")
_TIMED_OUT = text(end_of_attempt(_RETRY_STATE, "id = :id AND worker = :worker AND state = 'running'"))


def succeed(
    claim: Claim,
    result: Any,
    *,
    artifacts: Sequence[NewArtifact] = (),
    effects: Sequence[Callable[[Session], None]] = (),
    execute: Execute = execute_alone,
) -> Row:
    """Finish: the result, the artifacts and the registered effects commit together, once. Raises ClaimLost."""
    parameters = {"id": claim.job_id, "token": claim.token, "result": to_jsonb(result)}
    if not artifacts and not effects:
        return _held(execute(_SUCCEED, parameters, name="succeed"))
    with transaction("succeed") as session:
        job = _held(session.execute(_SUCCEED.text, parameters).mappings().all())
        insert_artifacts(session, artifacts)
        for effect in effects:
            effect(session)
    return job


def succeed_all(finished: Mapping[Claim, str], *, execute: Execute = execute_alone) -> list[Row]:
    """Finish many attempts in one commit: claims and results as JSON text. Those that were overtaken are not returned.

    In the order of their ids, so that two such statements cannot wait for each other in a circle.
    """
    claims = sorted(finished, key=lambda claim: claim.job_id)
    parameters = {
        "ids": [claim.job_id for claim in claims],
        "tokens": [claim.token for claim in claims],
        "results": [finished[claim] for claim in claims],
    }
    return execute(_SUCCEED_ALL, parameters, name="succeed")


def fail(claim: Claim, error: dict[str, Any], *, traceback: str | None, retry_after: float | None) -> Row:
    """End a failed attempt: another one after `retry_after` seconds if any are left, or none if that is None.

    `error` is `{"type", "message"}`. Raises ClaimLost.
    """
    statement = _FAIL if retry_after is None else _RETRY
    with transaction("fail") as session:
        return _end(session, statement, claim, "failed", error=error, traceback=traceback, delay=retry_after)


def stop_cancelled(claim: Claim) -> Row:
    """End an attempt whose handler stopped because somebody asked to cancel. Raises ClaimLost."""
    with transaction("stop_cancelled") as session:
        return _end(session, _CANCEL, claim, "cancelled", error=CANCELLED_ERROR)


def give_back(claim: Claim) -> Row:
    """Put the job back in its queue at a shutdown; the attempt does not count. Raises ClaimLost."""
    with transaction("give_back") as session:
        return _end(session, _GIVE_BACK, claim, "given_back", error=GIVEN_BACK_ERROR)


def process_lost(job_id: UUID, *, worker: str, error: dict[str, Any]) -> Row | None:
    """End the attempt of a process that is gone: queued again at once, or failed.

    None: that process did not hold the job (any more), and nothing changed.
    """
    with transaction("process_lost") as session:
        parameters = {**_parameters("lost", error=error), "id": job_id, "worker": worker}
        return session.execute(_LOST, parameters).mappings().first()


def timed_out(job_id: UUID, *, worker: str, error: dict[str, Any], backoff: Callable[[int], float]) -> Row | None:
    """End the attempt of a process that was killed at its hard limit: another one, if any are left.

    `backoff` gives the seconds to wait after the attempt of that number. None: as for `process_lost`.
    """
    held = {"id": job_id, "worker": worker}
    with transaction("process_lost") as session:
        attempt = session.execute(_ATTEMPT_HELD, held).scalar()
        if attempt is None:
            return None
        parameters = {**_parameters("failed", error=error, delay=backoff(attempt)), **held}
        return session.execute(_TIMED_OUT, parameters).mappings().first()


def all_lost(*, worker: str, error: dict[str, Any]) -> Sequence[Row]:
    """End whatever a process that is gone had claimed; the jobs as they stand now, queued again or final."""
    with transaction("process_lost") as session:
        return session.execute(_ALL_LOST, {**_parameters("lost", error=error), "worker": worker}).mappings().all()


CANCELLED_ERROR = {"type": "cancelled", "message": "The job was cancelled while it ran."}
GIVEN_BACK_ERROR = {"type": "worker_shutdown", "message": "The worker was stopped; the attempt does not count."}


def _end(session: Session, statement: Any, claim: Claim, outcome: Outcome, **values: Any) -> Row:
    parameters = {**_parameters(outcome, **values), "id": claim.job_id, "token": claim.token}
    return _held(session.execute(statement, parameters).mappings().all())


def _held(rows: Sequence[Row]) -> Row:
    if not rows:
        raise ClaimLost  # rolls the whole transaction back
    return rows[0]


def _parameters(
    outcome: Outcome,
    *,
    error: dict[str, Any] | None = None,
    traceback: str | None = None,
    delay: float | None = None,
) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "result": None,
        "error": to_jsonb(error) if error is not None else None,
        "traceback": traceback,
        "delay_seconds": delay,
    }
