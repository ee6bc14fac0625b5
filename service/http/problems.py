"""Errors: every one becomes `application/problem+json` (RFC 9457), in this one place."""

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, g, request
from marshmallow import Schema, fields
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, InternalServerError, RequestEntityTooLarge
from werkzeug.wrappers import Response as BaseResponse

from service.artifacts.storage import FileTooLarge
from service.group_commit import LeaderEnded, LineStalled
from service.jobs.cancel import JobNotFound
from service.jobs.new_job import InvalidJob
from service.jobs.submit import AnswerGone, IdempotencyKeyReused, UniqueKeyTaken
from service.jobs.waiting import RoomFull
from service.paging import BadCursor
from service.transaction import CommitUnsure

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
INVALID_REQUEST = "The request is not valid; `errors` says where."


class FieldErrorSchema(Schema):
    """One fault in a request's body or query."""

    pointer = fields.String(metadata={"description": "JSON Pointer (RFC 6901) to the place", "example": "/args/width"})
    message = fields.String()


class ProblemSchema(Schema):
    """RFC 9457."""

    type = fields.String(required=True, metadata={"description": "a stable URI that names the kind of problem"})
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String()
    request_id = fields.String()
    errors = fields.List(fields.Nested(FieldErrorSchema))


class Problem(Exception):
    """An answer other than success. `kind` is the last part of the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def problem_response(problem: Problem) -> Response:
    """The problem as an HTTP answer."""
    body: dict[str, Any] = {
        "type": f"urn:millrace:problem:{problem.kind}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": g.get("request_id"),
    }
    if problem.errors:
        body["errors"] = problem.errors
    text = current_app.json.dumps({**body, **problem.extra})
    return Response(text, status=problem.status, headers=problem.headers, mimetype=PROBLEM_JSON)


def pointers(errors: Any, path: str = "") -> Iterator[dict[str, str]]:
    """marshmallow's nested messages as JSON Pointers with one message each."""
    if isinstance(errors, Mapping):
        for key, inner in errors.items():
            step = str(key).replace("~", "~0").replace("/", "~1")
            yield from pointers(inner, path if key == "_schema" else f"{path}/{step}")
    elif isinstance(errors, list):
        for inner in errors:
            yield from pointers(inner, path)
    else:
        yield {"pointer": path, "message": str(errors)}


def register_error_handlers(app: Flask) -> None:
    """Last of all, after flask-smorest, which registers a handler of its own for the same exceptions."""
    app.register_error_handler(Problem, problem_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(InvalidJob, _invalid_job)
    app.register_error_handler(IdempotencyKeyReused, _key_reused)
    app.register_error_handler(AnswerGone, _answer_gone)
    app.register_error_handler(UniqueKeyTaken, _unique_key_taken)
    app.register_error_handler(JobNotFound, _not_found)
    app.register_error_handler(RoomFull, _room_full)
    app.register_error_handler(FileTooLarge, _too_large)
    app.register_error_handler(BadCursor, _bad_cursor)
    app.register_error_handler(SQLAlchemyError, _database_error)
    app.register_error_handler(LineStalled, _line_stalled)
    app.register_error_handler(CommitUnsure, _commit_unsure)
    app.register_error_handler(LeaderEnded, _commit_unsure)
    app.register_error_handler(InternalServerError, _crash)


def not_found(what: str = "job") -> Problem:
    """The same answer for an id that is unknown, malformed or another tenant's."""
    return Problem(404, "not-found", f"There is no such {what}.")


KINDS = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    409: "conflict",
    412: "precondition-failed",
    413: "too-large",
    415: "unsupported-media-type",
    416: "range-not-satisfiable",
    422: "invalid",
    428: "precondition-required",
    429: "too-many-requests",
    503: "unavailable",
}


def _http_error(error: HTTPException) -> BaseResponse:
    status = error.code or 500
    if error.response is not None or status < 400:  # noqa: PLR2004 - redirects are HTTPExceptions too
        return error.get_response(request.environ)
    data = getattr(error, "data", {})
    messages = data.get("messages") if isinstance(data, dict) else None
    errors = None
    if messages:
        # webargs puts the location (json, query, …) on top; the pointer is about what is inside.
        errors = [fault for location in messages.values() for fault in pointers(location)]
    detail = INVALID_REQUEST if errors else (error.description or "")
    if isinstance(error, RequestEntityTooLarge):
        detail = f"The request's body is larger than {request.max_content_length or 0:,} bytes."
    headers = {
        name: value
        for name, value in error.get_headers(request.environ)
        if name.lower() not in {"content-type", "content-length"}
    }
    return problem_response(Problem(status, KINDS.get(status, "error"), detail, errors=errors, headers=headers))


def _invalid_job(error: InvalidJob) -> Response:
    faults = list(pointers(error.errors))
    return problem_response(Problem(422, "invalid", "The job is not valid; `errors` says where.", errors=faults))


def _key_reused(_: IdempotencyKeyReused) -> Response:
    detail = "This Idempotency-Key was used before with another request. Use a new key for a new request."
    return problem_response(Problem(422, "idempotency-key-reused", detail))


def _answer_gone(_: AnswerGone) -> Response:
    detail = "This request was answered before, and its job has been deleted since. Use a new key for a new job."
    return problem_response(Problem(410, "gone", detail))


def _unique_key_taken(error: UniqueKeyTaken) -> Response:
    extra = {"job_id": str(error.job_id)} if error.job_id else {}
    errors = None
    if error.position is not None:
        errors = [{"pointer": f"/jobs/{error.position}/unique_key", "message": str(error)}]
    return problem_response(Problem(409, "unique-key-taken", str(error), errors=errors, extra=extra))


def _not_found(_: LookupError) -> Response:
    return problem_response(not_found())


def _room_full(error: RoomFull) -> Response:
    return problem_response(Problem(429, "too-many-requests", str(error), headers={"Retry-After": "5"}))


def _too_large(error: FileTooLarge) -> Response:
    return problem_response(Problem(413, "too-large", str(error)))


def _bad_cursor(_: BadCursor) -> Response:
    fault = {"pointer": "/cursor", "message": "This is not a cursor of ours. Take it from next_cursor as it is."}
    return problem_response(Problem(422, "invalid", INVALID_REQUEST, errors=[fault]))


# Conditions that pass by themselves: the request may simply be repeated, with the same Idempotency-Key.
_PASSING = (
    pg.LockNotAvailable,
    pg.QueryCanceled,
    pg.SerializationFailure,
    pg.DeadlockDetected,
    pg.InsufficientResources,
    pg.ReadOnlySqlTransaction,  # the old primary, for a moment during a failover
)


def _database_error(error: SQLAlchemyError) -> Response:
    original = error.orig if isinstance(error, DBAPIError) else None
    is_disconnected = isinstance(error, DBAPIError) and error.connection_invalidated
    if isinstance(original, pg.LockNotAvailable) and "idempotency_keys" in (original.diag.context or ""):
        detail = "A request with this Idempotency-Key is still under way. Repeat yours in a moment."
        return problem_response(Problem(409, "request-in-progress", detail, headers={"Retry-After": "2"}))
    if isinstance(error, OperationalError | PoolTimeout) or isinstance(original, _PASSING) or is_disconnected:
        return _unavailable(original or error)
    if isinstance(original, pg.DataError):
        # A value that passed our checks and that PostgreSQL cannot hold. Ours to mend, but the client's to change.
        log.error("PostgreSQL refused a value: %s", type(original).__name__)
        return problem_response(Problem(422, "invalid", "A value of the request cannot be stored."))
    raise error


def _line_stalled(error: LineStalled) -> Response:
    return _unavailable(error)


def _unavailable(error: BaseException) -> Response:
    log.error("the database did not answer in time: %s", type(error).__name__)
    detail = "The database is not available at the moment. Repeat the request, with the same Idempotency-Key."
    return problem_response(Problem(503, "unavailable", detail, headers={"Retry-After": "2"}))


def _commit_unsure(error: CommitUnsure | LeaderEnded) -> Response:
    log.error("a commit was not confirmed: %s %s", type(error).__name__, error)
    detail = "What you sent may not be safe yet. Repeat the request, with the same Idempotency-Key."
    return problem_response(Problem(503, "unavailable", detail, headers={"Retry-After": "2"}))


def _crash(error: InternalServerError) -> Response:
    """Flask logged the exception already (and Sentry saw it): here only the answer is made."""
    log.debug("answering 500 for %r", error.original_exception)
    detail = "Something went wrong on our side. The request id helps us to find out what."
    return problem_response(Problem(500, "internal", detail))
