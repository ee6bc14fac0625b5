"""The jobs endpoints: submit, look, list, cancel, retry."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlencode

from flask import Response, current_app, g, request
from flask.views import MethodView
from sqlalchemy.exc import SQLAlchemyError

from service.accounts.keys import KeyRefused
from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint, sent_json
from service.http.idempotency import idempotency_of_request
from service.http.identity import caller_to_confirm, confirmed, key_refused, principal, requires
from service.http.problems import Problem
from service.jobs.cancel import cancel
from service.jobs.export import export_format, export_jobs
from service.jobs.new_job import NewJob, check
from service.jobs.ownership import job_id_from, owned_job_of_known_key
from service.jobs.presentation import etag_of, explain_waiting, polling_interval, present, preview, state_in_etag
from service.jobs.queries import JobFilter, Pulse, list_jobs, look_at_job
from service.jobs.resubmit import JobNotFinal, resubmit
from service.jobs.schemas import (
    JobListQuery,
    JobListSchema,
    JobSchema,
    NewJobSchema,
    RetrySchema,
    SubmitQuery,
    WaitQuery,
)
from service.jobs.states import FINAL, State
from service.jobs.submit import Intake, Submitted
from service.jobs.waiting import RoomFull, WaitingRoom
from service.paging import decode_cursor, encode_cursor
from service.transaction import reading

log = logging.getLogger(__name__)

blp = StrictBlueprint("jobs", __name__, url_prefix="/api/v1", description="Submit jobs and follow them")


@blp.route("/jobs")
class Jobs(MethodView):
    """All jobs of the tenant."""

    @requires(Scope.JOBS_WRITE, confirms_key=True)
    @blp.arguments(NewJobSchema)
    @blp.arguments(SubmitQuery, location="query")
    @blp.response(202, JobSchema)
    @blp.alt_response(200, schema=JobSchema, description="finished within `Prefer: wait`, existing, or only validated")
    def post(self, body: dict[str, Any], query: dict[str, Any]) -> Any:
        """Submit a job.

        What was answered with 2xx is kept. After a timeout or a 5xx, repeat the request with the same
        `Idempotency-Key`: however often it is repeated, there is one job. `Prefer: wait=N` waits up to N seconds for
        the result.
        """
        new = NewJob(**body)
        caller = caller_to_confirm()
        if query["validate_only"]:
            return as_json(preview(caller.tenant_id, new, check(new)), 200, {})
        try:
            submitted = _intake().submit(
                caller.tenant_id,
                new,
                idempotency=idempotency_of_request(sent_json),
                request_id=g.request_id,
                key_id=caller.key_id,
            )
        except KeyRefused:
            raise key_refused() from None
        confirmed()
        return answer_submitted(submitted)

    @requires(Scope.JOBS_READ)
    @blp.arguments(JobListQuery, location="query")
    @blp.doc(
        responses={
            "200": {
                "description": "a page, or all of them as an export",
                "content": {
                    "text/csv": {"schema": {"type": "string"}},
                    "application/x-ndjson": {"schema": {"type": "string"}},
                },
            }
        }
    )
    @blp.response(200, JobListSchema)
    def get(self, query: dict[str, Any]) -> Any:
        """List jobs, newest first.

        Pages neither repeat nor skip while jobs arrive; one of large jobs has fewer than `limit`. With
        `Accept: text/csv` or `application/x-ndjson` all jobs that match are sent as a stream, whatever `limit` says.
        """
        limit, cursor = query.pop("limit"), query.pop("cursor", None)
        wanted = JobFilter(states=tuple(query.pop("state", ())), **query)
        before = decode_cursor(cursor) if cursor else None
        if (kind := export_format(request.accept_mimetypes)) is not None:
            return export_jobs(principal().tenant_id, wanted, kind, before=before)
        with reading() as session:
            jobs, has_more = list_jobs(session, principal().tenant_id, wanted, before=before, limit=limit)
        next_cursor = encode_cursor(jobs[-1]["id"]) if has_more else None
        headers = {}
        if next_cursor:
            parameters = {**request.args.to_dict(flat=False), "cursor": next_cursor}
            headers["Link"] = f'<{request.path}?{urlencode(parameters, doseq=True)}>; rel="next"'
        return as_json({"items": [present(job) for job in jobs], "next_cursor": next_cursor}, 200, headers)


@blp.route("/jobs/<string:job_id>")
class Job(MethodView):
    """One job."""

    @requires(Scope.JOBS_READ, confirms_key=True)
    @blp.arguments(WaitQuery, location="query")
    @blp.response(200, JobSchema)
    @blp.alt_response(304, description="the job is as it was at the tag in If-None-Match")
    def get(self, query: dict[str, Any], job_id: str) -> Any:
        """Look at a job.

        With `?wait=N` the answer is held for up to N seconds until the job's state differs from the one in
        `If-None-Match`; without that header, until the job ends.
        """
        job: Mapping[Any, Any] = owned_job_of_known_key(job_id)
        if query.get("wait"):
            tags = request.if_none_match.as_set(include_weak=True)
            known_state = next((state_in_etag(tag) for tag in tags), None)
            seconds = min(query["wait"], current_app.config["WAIT_MAX_SECONDS"])
            job = wait_until(job, lambda state: state in FINAL or state != (known_state or state), seconds)
        return answer_job(job)


@blp.route("/jobs/<string:job_id>/cancel")
class JobCancel(MethodView):
    """Cancel a job."""

    @requires(Scope.JOBS_WRITE)
    @blp.response(200, JobSchema)
    @blp.alt_response(202, schema=JobSchema, description="the job is running and was asked to stop")
    def post(self, job_id: str) -> Any:
        """Cancel a job: at once while it waits, by request while it runs.

        409 when it has ended already; the answer says how.
        """
        job, outcome = cancel(principal().tenant_id, job_id_from(job_id))
        if outcome == "already_final":
            detail = f"The job has already ended: it is {job['state']}."
            raise Problem(409, "already-final", detail, extra={"state": job["state"]})
        if outcome == "requested":
            return as_json(present(job), 202, {"Retry-After": "1", "ETag": f'"{etag_of(job)}"'})
        return as_json(present(job), 200, {"ETag": f'"{etag_of(job)}"'})


@blp.route("/jobs/<string:job_id>/retry")
class JobRetry(MethodView):
    """Retry a job by hand."""

    @requires(Scope.JOBS_WRITE)
    @blp.arguments(RetrySchema, required=False)
    @blp.response(202, JobSchema)
    def post(self, body: dict[str, Any], job_id: str) -> Any:
        """Submit a job that has ended anew, with other arguments if some are given.

        The new job names the old one as its `origin_id`; the old one stays as it is.
        """
        try:
            submitted = resubmit(
                _intake(),
                principal().tenant_id,
                job_id_from(job_id),
                args=body.get("args"),
                idempotency=idempotency_of_request(lambda: body),
                request_id=g.request_id,
            )
        except JobNotFinal as error:
            raise Problem(409, "not-final", str(error)) from None
        return answer_submitted(submitted)


def answer_submitted(submitted: Submitted) -> Response:
    """202 with the job, or 200 with a job that exists already or ends within `Prefer: wait=N`."""
    job: Mapping[Any, Any] = submitted.job
    headers = {}
    if submitted.is_replay:
        headers["Idempotent-Replayed"] = "true"
    status = 200 if submitted.outcome == "existing" else 202
    if (seconds := _preferred_wait()) is not None:
        try:
            job = wait_until(job, FINAL.__contains__, seconds)
            headers["Preference-Applied"] = f"wait={seconds}"
        except (RoomFull, SQLAlchemyError) as error:  # the job is stored, and its client must learn of it
            log.warning("could not wait for job %s: %s", job["id"], type(error).__name__)
        status = 200 if State(job["state"]) in FINAL else status
    shown = present(job)
    return as_json(shown, status, {**_headers_of(job, etag_of(job)), **headers, "Location": shown["links"]["self"]})


def answer_job(job: Mapping[Any, Any]) -> Response:
    """The job with its headers, or 304 where the client has it already."""
    # If-None-Match compares weakly (RFC 9110, 13.1.2): a proxy that compresses makes our strong tags weak ones.
    etag = etag_of(job)
    if request.if_none_match.contains_weak(etag):
        response = Response(status=304)
        response.set_etag(etag)
        return response
    waiting_for = None if State(job["state"]) in FINAL else explain_waiting(job)
    return as_json(present(job, waiting_for=waiting_for), 200, _headers_of(job, etag))


def _headers_of(job: Mapping[Any, Any], etag: str) -> dict[str, str]:
    headers = {"ETag": f'"{etag}"'}
    if State(job["state"]) not in FINAL:
        headers["Retry-After"] = str(polling_interval(job))
    return headers


def as_json(body: dict[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    """The answer as it is: a view's schema is its documentation, and need not dump what was made to fit it."""
    response = cast("Response", current_app.json.response(body))
    response.status_code = status
    response.headers.update(headers)
    return response


def wait_until(job: Mapping[Any, Any], is_enough: Callable[[State], bool], seconds: float) -> Mapping[Any, Any]:
    """Hold the request until the job's state is enough or the time is over; returns the job as it stands then.

    Raises RoomFull.
    """
    room: WaitingRoom = current_app.extensions["waiting_room"]
    deadline = time.monotonic() + seconds
    state: State = State(job["state"])
    known: Pulse | None = None
    with room.place(job["tenant_id"]):
        while not is_enough(state) and (remaining := deadline - time.monotonic()) > 0:
            known = room.wait(job["id"], known, seconds=remaining) or known
            state = State(known.state) if known else state
    return look_at_job(job["tenant_id"], job["id"]) or job


_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,4})")


def _preferred_wait() -> int | None:
    """N of `Prefer: wait=N` (RFC 7240), at most the configured maximum."""
    match = _PREFER_WAIT.search(request.headers.get("Prefer", ""))
    return min(int(match[1]), current_app.config["WAIT_MAX_SECONDS"]) if match else None


def _intake() -> Intake:
    intake: Intake = current_app.extensions["intake"]
    return intake
