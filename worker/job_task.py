"""`@job` turns a plain function into a job type; `JobTask` is the one executor that runs them all."""

import inspect
import logging
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import orjson
from celery import shared_task
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from flask import Flask
from marshmallow import Schema, ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from service.celery_app import FlaskTask, flask_app_of
from service.extensions import db
from service.jobs.execution import Claim, ClaimLost, claim, claim_together, fail, give_back, stop_cancelled, succeed
from service.jobs.limits import UNDECLARED, Limits
from service.jobs.retry import backoff_seconds
from service.jobs.states import State
from service.jobs.types import Handler, JobType, RetryPolicy, registry
from service.queues import Queue
from service.statements import Row
from service.transaction import to_jsonb
from worker.context import JobContext, PermanentFailure, RetryLater, storable
from worker.finisher import persist
from worker.job_request import JobCancelled, worker_name
from worker.lease import Interrupted, Reason
from worker.pool import job_is_waiting, waiting_jobs
from worker.process import process_of

log = logging.getLogger(__name__)


class JobFailed(Exception):
    """What Celery and Flower are told of a failure: its kind, and nothing of the customer's."""


class RetryWanted(Retry):  # type: ignore[misc] # celery ships no types
    """Celery's autoretry decided that an attempt is worth repeating, `delay` seconds from now."""

    def __init__(self, cause: BaseException, delay: float) -> None:
        super().__init__()
        self.cause = cause
        self.delay = delay


class JobTask(FlaskTask):
    """Runs one attempt of one job: claim, run the handler under a renewed lease, finish."""

    abstract = True
    Request = "worker.job_request:JobRequest"
    ignore_result = True
    throws = (JobFailed,)

    def __call__(self, *_: Any, **__: Any) -> str:
        """One attempt, from the ring to its end. Returns the job's state; the result stays in the database."""
        app = flask_app_of(self.app)
        with app.app_context():
            job = self._claim(app)
            held = Claim(job["id"], job["token"])
            self.request.update(retries=job["attempt"] - 1)  # for Celery's backoff
            log.debug("job %s started", held.job_id, extra=_log_fields(job))
            try:
                result, context = self._run_handler(app, job, held)
                ended = self._end_well(app, job, held, result, context)
            except ClaimLost:
                log.warning("job %s: this attempt was overtaken; nothing of it is kept", held.job_id)
                raise Ignore from None
            except Interrupted as interrupted:
                self._end_interrupted(held, interrupted.reason)
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises ends the attempt, truthfully
                self._end_failed(held, job, error)
            if ended is not None:
                log.info("job %s succeeded", held.job_id, extra=_log_fields(ended))
            return State.SUCCEEDED.value

    def retry(self, *_: Any, exc: BaseException | None = None, countdown: float | None = None, **__: Any) -> NoReturn:
        """What Celery's autoretry calls: the wait becomes `run_at` in PostgreSQL.

        An ETA in the broker would be lost with the broker, and would hold a place of this worker's prefetch meanwhile.
        """
        cause = exc or RetryLater("The handler asked for another attempt.", after_seconds=countdown or 0.0)
        raise RetryWanted(cause, countdown or 0.0) from exc

    def _claim(self, app: Flask) -> Row:
        process = process_of(app)
        limits = Limits.of(registry.get(self.name))
        how: dict[str, Any] = {
            "worker": worker_name(os.getpid()),
            "lease_seconds": app.config["LEASE_SECONDS"],
            "grace_seconds": app.config["HARD_TIMEOUT_GRACE"],
            "type_": self.name,
            "execute": process.connection.execute,
        }
        try:
            job_id = UUID(self.request.id)
            job = process.ahead.take(job_id)
            may_claim_ahead = limits == UNDECLARED and process.finisher.is_short(self.name)
            if job is None and may_claim_ahead and (waiting := waiting_jobs(self.name)):
                process.ahead.put(claim_together([job_id, *waiting], **how))
                job = process.ahead.take(job_id)
            if job is None:
                job = claim(job_id, limits=limits, **how)
        except SQLAlchemyError as error:
            # The job stays queued (or its lease runs out, had the claim been committed): it is rung again.
            log.error("could not claim job %s: %s", self.request.id, type(error).__name__)  # noqa: TRY400
            raise Ignore from None
        except ValueError:
            log.error("refused a message whose id is no job's id")  # noqa: TRY400
            raise Ignore from None
        if job is None:
            raise Ignore  # a doubled, late or forged ring
        return job

    def _end_well(self, app: Flask, job: Row, held: Claim, result: Any, context: JobContext) -> Row | None:
        """Finish. None: it is done in a moment, together with others, while the next job that waits here runs."""
        process = process_of(app)
        # What dies with a neighbour before its commit costs an attempt: at most the first, and never the last.
        nothing_else = not context.artifacts and not context.effects and job["attempt"] == 1 < job["max_attempts"]
        if nothing_else and job_is_waiting() and process.finisher.hand_over(held, to_jsonb(result), _log_fields(job)):
            return None
        return _persist(
            lambda: succeed(
                held,
                result,
                artifacts=context.artifacts,
                effects=context.effects,
                execute=process.connection.execute,
            )
        )

    def _run_handler(self, app: Flask, job: Row, held: Claim) -> tuple[Any, JobContext]:
        process = process_of(app)
        keeper = process.keeper
        with _scratch_folders() as make_scratch, keeper.watching(held, timeout_seconds=job["timeout_seconds"]) as watch:
            context = JobContext(
                job_id=job["id"],
                tenant_id=job["tenant_id"],
                job_type=job["type"],
                attempt=job["attempt"],
                max_attempts=job["max_attempts"],
                config=app.config,
                make_scratch=make_scratch,
                storage=process.storage,
                report_progress=watch.report,
                log=logging.LoggerAdapter(logging.getLogger("millrace.job"), _log_fields(job)),
            )
            try:
                arguments = registry.get(job["type"]).schema.load(job["args"])
            except ValidationError as error:
                message = f"The arguments do not fit the job type any more: {error.normalized_messages()}"
                raise PermanentFailure(message, kind="invalid_arguments") from None
            if not process.finisher.is_short(job["type"]):
                process.finisher.settle()  # which may take as long as the database is away: the lease is renewed here
            try:
                with keeper.interruptible(watch):
                    result = self._call_handler(context, arguments)
                process.finisher.note_seconds(job["type"], time.monotonic() - watch.started)
                _check_result(result, limit=app.config["RESULT_MAX_BYTES"])
            except BaseException:
                for artifact in context.artifacts:  # nothing was committed that names them
                    context.storage.delete(artifact.stored.key)
                raise
            finally:
                db.session.remove()  # what the handler left open in its own session is not ours to commit
            return result, context

    def _call_handler(self, context: JobContext, arguments: Mapping[str, Any]) -> Any:
        own_pid = os.getpid()
        try:
            return self.run(context, **arguments)
        finally:
            if os.getpid() != own_pid:
                os._exit(0)  # the handler forked, and its child came back from it: the attempt is the parent's to end

    def _end_interrupted(self, held: Claim, reason: Reason) -> NoReturn:
        try:
            if reason is Reason.CANCELLED:
                _persist(lambda: stop_cancelled(held))
                raise JobCancelled from None
            if reason is Reason.SHUTDOWN:
                log.info("job %s is given back: the worker is stopping", held.job_id)
                _persist(lambda: give_back(held))
                raise Ignore from None
        except ClaimLost:
            pass  # overtaken meanwhile: the same as a lost lease
        log.warning("job %s: this attempt lost its lease and was stopped", held.job_id)
        raise Ignore from None

    def _end_failed(self, held: Claim, job: Row, error: BaseException) -> NoReturn:
        cause, delay = self._verdict(error, job)
        told = _describe(cause)
        if isinstance(cause, SoftTimeLimitExceeded):
            told = {"type": "timeout", "message": f"The attempt took longer than its {job['timeout_seconds']} seconds."}
        text = storable("".join(traceback.format_exception(cause))[-20_000:])
        try:
            ended = _persist(lambda: fail(held, told, traceback=text, retry_after=delay))
        except ClaimLost:
            log.warning("job %s: this attempt was overtaken; nothing of it is kept", held.job_id)
            raise Ignore from None
        log.info(
            "job %s: attempt failed with %s, now %s",
            held.job_id,
            told["type"],
            ended["state"],
            extra=_log_fields(ended),
        )
        if ended["state"] == "retrying":
            raise Retry(exc=JobFailed(told["type"]), when=delay) from None
        if ended["state"] == "cancelled":
            raise JobCancelled from None
        raise JobFailed(told["type"]) from None

    def _verdict(self, error: BaseException, job: Row) -> tuple[BaseException, float | None]:
        """The failure's cause and the seconds until another attempt; None: no retry can mend it."""
        cause, delay = (error.cause, error.delay) if isinstance(error, RetryWanted) else (error, None)
        if isinstance(cause, RetryLater):
            return cause, max(cause.after_seconds, 0.0)
        if delay is None and isinstance(cause, SoftTimeLimitExceeded | MemoryError | SystemExit | KeyboardInterrupt):
            return cause, backoff_seconds(registry.get(job["type"]).retry, attempt=job["attempt"])
        return cause, delay


def _describe(cause: BaseException) -> dict[str, str]:
    """The job's error, whatever the exception makes of being asked."""
    kind = getattr(cause, "kind", None)
    kind = kind if isinstance(kind, str) else type(cause).__name__
    try:
        message = str(cause)
    except Exception:  # noqa: BLE001 - a handler's own exception may fail at that, too
        message = ""
    return {"type": storable(kind), "message": storable(message[:2000]) or storable(kind)}


def _persist(write: Callable[[], Row]) -> Row:
    try:
        return persist(write, between=db.session.remove)
    except (OperationalError, InterfaceError) as error:
        log.error("could not end an attempt: %s; its lease will run out", type(error).__name__)  # noqa: TRY400
        raise Ignore from None


class ResultRefused(PermanentFailure):
    """The handler returned something that cannot be a result."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="bad_result")


_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL in JSON text, and not the six characters that look like one after an escaped backslash."""


def _check_result(result: Any, *, limit: int) -> None:
    """Refuse, before it reaches the database, what is not JSON, is too large, or jsonb cannot hold."""
    try:
        encoded = orjson.dumps(result)
        orjson.dumps([[[[[[[[result]]]]]]]])  # answers and exports put it some levels deeper, and would fail at that
    except orjson.JSONEncodeError as error:
        raise ResultRefused(f"The handler's result is not JSON: {error}") from None
    if len(encoded) > limit:
        raise ResultRefused(f"The handler's result has {len(encoded):,} bytes; the limit is {limit:,}.")
    if _ESCAPED_NUL.search(encoded):
        raise ResultRefused("The handler's result has a NUL character in a string, which cannot be stored.")


@contextmanager
def _scratch_folders() -> Iterator[Callable[[], Path]]:
    """A maker of folders that are gone at the end. Most jobs ask for none, and one costs more than their statements."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="millrace-")))
        return made[-1]

    try:
        yield make
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def _log_fields(job: Row) -> dict[str, Any]:
    return {
        "job_id": str(job["id"]),
        "job_type": job["type"],
        "attempt": job["attempt"],
        "request_id": job["request_id"],
    }


def job(
    name: str,
    *,
    args: type[Schema],
    queue: str = Queue.DEFAULT,
    timeout: int = 60,
    max_attempts: int = 5,
    autoretry_for: tuple[type[Exception], ...] = (Exception,),
    retry_backoff: int = 1,
    retry_backoff_max: int = 600,
    retry_jitter: bool = True,
    max_running: int | None = None,
    max_running_per_key: int = 1,
    rate: tuple[int, float] | None = None,
    example: Mapping[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of job type `name`, and return it unchanged.

    Times in seconds. `timeout` bounds one attempt. The first wait between attempts is `retry_backoff`, doubling up to
    `retry_backoff_max`. Exceptions outside `autoretry_for`, and PermanentFailure always, end the job as failed.
    `max_running`, `max_running_per_key` and `rate` (count, seconds) bound how many run at a time and how often one
    starts, over all workers. `example` are arguments that load, for clients to see. Raises BadJobType.
    """

    def register(handler: Handler) -> Handler:
        policy = RetryPolicy(
            autoretry_for=autoretry_for,
            dont_autoretry_for=(PermanentFailure,),
            retry_backoff=retry_backoff,
            retry_backoff_max=retry_backoff_max,
            retry_jitter=retry_jitter,
        )
        registry.add(
            JobType(
                name=name,
                args=args,
                handler=handler,
                queue=Queue(queue) if queue in list(Queue) else queue,  # type: ignore[arg-type] # refused with its reason
                timeout_seconds=timeout,
                max_attempts=max_attempts,
                retry=policy,
                description=inspect.getdoc(handler) or "",
                max_running=max_running,
                max_running_per_key=max_running_per_key,
                rate=rate,
                example=example or {},
            )
        )
        shared_task(
            handler,
            name=name,
            base=JobTask,
            max_retries=max_attempts - 1,
            autoretry_for=policy.autoretry_for,
            dont_autoretry_for=policy.dont_autoretry_for,
            retry_backoff=policy.retry_backoff,
            retry_backoff_max=policy.retry_backoff_max,
            retry_jitter=policy.retry_jitter,
        )
        return handler

    return register
