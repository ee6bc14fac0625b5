"""`POST /jobs/batch`: many jobs in one call."""

from typing import Any

from flask import current_app, g, request
from flask.views import MethodView
from marshmallow import ValidationError

from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint
from service.http.idempotency import idempotency_of_request
from service.http.identity import principal, requires
from service.http.problems import Problem, pointers
from service.jobs.batch import Batch, BatchItem, batch_answered_before, submit_batch
from service.jobs.new_job import InvalidJob, NewJob, check
from service.jobs.schemas import BatchSchema, NewBatchSchema, NewJobSchema
from service.jobs.submit import UniqueKeyTaken

blp = StrictBlueprint("batch", __name__, url_prefix="/api/v1", description="Many jobs in one call")

BYTES_PER_JOB = 2048
FAULTS_SHOWN = 100
"""Most faulty jobs that one refusal lists."""


@blp.before_request
def _allow_a_long_body() -> None:
    limit: int = current_app.config["BATCH_MAX_JOBS"] * BYTES_PER_JOB
    request.max_content_length = max(limit, current_app.config["MAX_CONTENT_LENGTH"])


@blp.route("/jobs/batch")
class JobBatch(MethodView):
    """A batch."""

    @requires(Scope.JOBS_WRITE)
    @blp.arguments(NewBatchSchema)
    @blp.response(202, BatchSchema)
    @blp.alt_response(207, schema=BatchSchema, description="not atomic, and some jobs were refused")
    def post(self, body: dict[str, Any]) -> Any:
        """Submit up to 10,000 jobs in one call, of at most 20 MB.

        Atomic: all or none, 422 with a pointer for each faulty job, 409 where a unique key is held and the job chose
        `reject`. Not atomic: the others are stored, together, and there is one answer per job, in order. One
        `Idempotency-Key` covers the call.
        """
        sent: list[Any] = body["jobs"]
        most: int = current_app.config["BATCH_MAX_JOBS"]
        if not 1 <= len(sent) <= most:
            fault = {"pointer": "/jobs", "message": f"A batch has 1 to {most:,} jobs; this one has {len(sent):,}."}
            raise Problem(422, "invalid", "The batch is not valid; `errors` says where.", errors=[fault])
        checked = [_checked(index, raw) for index, raw in enumerate(sent)]
        jobs = [item if isinstance(item, NewJob) else None for item in checked]
        faults = [item for item in checked if not isinstance(item, NewJob)]
        tenant_id, idempotency = principal().tenant_id, idempotency_of_request(lambda: body)
        batch: Batch | None
        if faults and (body["atomic"] or len(faults) == len(sent)):
            # They may have been valid when they were first sent: a release between may have changed their types.
            batch = batch_answered_before(tenant_id, idempotency, count=len(sent)) if idempotency else None
            if batch is None:
                listed = [fault for item in faults[:FAULTS_SHOWN] for fault in item]
                detail = f"{len(faults):,} of {len(sent):,} jobs are not valid; nothing was stored."
                raise Problem(422, "invalid", detail, errors=listed)
        else:
            batch = submit_batch(
                current_app.extensions["bell"],
                tenant_id,
                jobs,
                atomic=body["atomic"],
                idempotency=idempotency,
                request_id=g.request_id,
            )
        items = [_shown(index, item, checked[index]) for index, item in enumerate(batch.items)]
        answer = current_app.json.response({"items": items})  # a schema has nothing to add, and takes its time
        answer.status_code = 207 if any("errors" in item for item in items) else 202
        if batch.is_replay:
            answer.headers["Idempotent-Replayed"] = "true"
        return answer


_schema = NewJobSchema()


def _checked(index: int, raw: Any) -> NewJob | list[dict[str, str]]:
    """The job, or its faults with pointers into the batch."""
    try:
        new = NewJob(**_schema.load(raw))
        if new.on_conflict == "replace":
            raise InvalidJob({"on_conflict": ["A batch replaces nothing; submit this job alone."]})
        check(new)
    except ValidationError as error:
        return list(pointers(error.normalized_messages(), f"/jobs/{index}"))
    except InvalidJob as error:
        return list(pointers(error.errors, f"/jobs/{index}"))
    return new


def _shown(index: int, item: BatchItem | None, checked: NewJob | list[dict[str, str]]) -> dict[str, Any]:
    """One job's answer: what became of it, or why it is not stored."""
    if item is not None and item.outcome != "conflict":
        return {"status": 202 if item.outcome == "created" else 200, "id": item.id, "state": item.state}
    if item is not None:
        fault = {"pointer": f"/jobs/{index}/unique_key", "message": str(UniqueKeyTaken(item.id))}
        return {"status": 409, "job_id": item.id, "errors": [fault]}
    if not isinstance(checked, NewJob):
        return {"status": 422, "errors": checked}
    # A repeat: it was not valid then, or its unique key was held.
    message = "This job was refused when the batch was first sent. Submit it with another Idempotency-Key."
    return {"status": 409, "errors": [{"pointer": f"/jobs/{index}", "message": message}]}
