"""What became of a job: its result, attempts and events; events also as a live stream."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
from celery.result import AsyncResult
from flask import Response, current_app, request, stream_with_context
from flask.views import MethodView

from service.accounts.keys import is_good_key
from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint
from service.http.identity import principal, requires
from service.http.problems import Problem, ProblemSchema
from service.jobs.ownership import owned_job
from service.jobs.presentation import polling_interval
from service.jobs.queries import Pulse, list_attempts, list_events
from service.jobs.schemas import AttemptListSchema, EventListSchema, EventSchema, EventsQuery
from service.jobs.states import FINAL, State
from service.jobs.waiting import WaitingRoom
from service.statements import Row
from service.transaction import reading

blp = StrictBlueprint("jobs_history", __name__, url_prefix="/api/v1", description="What became of a job")

KEEP_ALIVE_SECONDS = 15.0


@blp.route("/jobs/<string:job_id>/result")
class JobResult(MethodView):
    """The bare result."""

    @requires(Scope.JOBS_READ)
    @blp.doc(responses={"200": {"description": "the result", "content": {"application/json": {"schema": {}}}}})
    @blp.response(200, description="the result, as the handler returned it")
    @blp.alt_response(409, description="not finished yet (with Retry-After), or ended without a result")
    def get(self, job_id: str) -> Any:
        """Fetch a job's result.

        409 while there is none: with `Retry-After` when it may come, with the job's error when it will not.
        """
        job = owned_job(job_id)
        if State(job["state"]) not in FINAL:
            headers = {"Retry-After": str(polling_interval(job))}
            raise Problem(409, "not-finished", f"The job is {job['state']}.", headers=headers)
        outcome = AsyncResult(str(job["id"]), app=current_app.extensions["celery"])  # it does not change any more
        if outcome.successful():
            return current_app.json.response(outcome.result)
        extra = {"state": job["state"], "error": job["error"]}
        raise Problem(409, f"job-{job['state']}", f"The job ended without a result: it is {job['state']}.", extra=extra)


@blp.route("/jobs/<string:job_id>/attempts")
class JobAttempts(MethodView):
    """A job's attempts."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, AttemptListSchema)
    def get(self, job_id: str) -> Any:
        """List a job's attempts. Tracebacks only for keys with the scope `admin`."""
        job = owned_job(job_id)
        with reading() as session:
            attempts = [dict(row) for row in list_attempts(session, job["tenant_id"], job["id"])]
        if not principal().may(Scope.ADMIN):
            for attempt in attempts:
                del attempt["traceback"]
        return {"items": attempts}


@blp.route("/jobs/<string:job_id>/events")
class JobEvents(MethodView):
    """A job's history."""

    @requires(Scope.JOBS_READ)
    @blp.arguments(EventsQuery, location="query")
    @blp.doc(
        responses={
            "200": {"description": "the events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
        }
    )
    @blp.response(200, EventListSchema)
    @blp.alt_response(204, description="`text/event-stream` only: the job has ended, and there is nothing left to send")
    @blp.alt_response(429, schema=ProblemSchema, description="you follow or wait for too many jobs at this moment")
    def get(self, query: dict[str, Any], job_id: str) -> Any:
        """List a job's events, or follow them live with `Accept: text/event-stream`.

        The stream replays from `Last-Event-ID` (or `after`), sends `progress` between events, a comment every 15
        seconds, and closes after the final event. Who has seen that one is answered 204, which tells an EventSource
        not to connect again. A stream also ends after five minutes, for the client to connect anew with
        `Last-Event-ID`, as an EventSource does by itself.
        """
        job = owned_job(job_id)
        after = query["after"]
        if request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream":
            sent = request.headers.get("Last-Event-ID", "")
            after = max(after, int(sent)) if sent.isdecimal() and len(sent) < 10 else after  # noqa: PLR2004 - int4
            if State(job["state"]) in FINAL and after >= job["event_seq"]:
                return Response(status=204)
            return _event_stream(job, after)
        with reading() as session:
            return {"items": list_events(session, job["tenant_id"], job["id"], after=after)}


def _event_stream(job: Row, after: int) -> Response:
    room: WaitingRoom = current_app.extensions["waiting_room"]
    held = ExitStack()
    held.enter_context(room.place(job["tenant_id"]))
    response = Response(stream_with_context(_follow(room, job, after)), mimetype="text/event-stream")
    response.call_on_close(held.close)  # also where the client is gone before the first line
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the events back
    return response


def _follow(room: WaitingRoom, job: Row, after: int) -> Iterator[str]:
    schema = EventSchema()
    known: Pulse | None = None
    ends = time.monotonic() + current_app.config["STREAM_SECONDS"]
    key_id = principal().key_id
    yield ": following\n\n"
    while time.monotonic() < ends:
        with reading() as session:
            events = list_events(session, job["tenant_id"], job["id"], after=after)
        for event in events:
            after = event["seq"]
            data = orjson.dumps(schema.dump(event)).decode()
            yield f"id: {after}\nevent: {event['name']}\ndata: {data}\n\n"
            if State(event["state"]) in FINAL:
                return
        if not events and known is not None and State(known.state) in FINAL:
            return  # the client says that it has seen more than there is
        pulse = room.wait(job["id"], known, seconds=KEEP_ALIVE_SECONDS)
        if not is_good_key(key_id):
            return
        if pulse is None or pulse == known:
            yield ": still here\n\n"
            continue
        if pulse.progress_percent is not None and (
            known is None
            or (pulse.progress_percent, pulse.progress_message) != (known.progress_percent, known.progress_message)
        ):
            data = orjson.dumps({"percent": pulse.progress_percent, "message": pulse.progress_message}).decode()
            yield f"event: progress\ndata: {data}\n\n"
        known = pulse
