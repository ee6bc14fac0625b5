"""The shapes of the jobs endpoints: what validates is what is documented."""

from datetime import UTC, datetime
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from service.http.problems import FieldErrorSchema
from service.jobs.states import State
from service.jobs.types import MAX_ATTEMPTS, MAX_TIMEOUT_SECONDS
from service.queues import Queue

MAX_DELAY_SECONDS = 366 * 24 * 3600


def moment(value: datetime | None) -> str | None:
    """A timestamp as RFC 3339 in UTC, to the microsecond."""
    return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


class Moment(fields.AwareDateTime):
    """A timestamp, RFC 3339, in UTC on the way out. Refuses one that is in no year from 1 to 9999 of UTC."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(format="iso", default_timezone=None, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        moment: datetime = super()._deserialize(value, attr, data, **kwargs)
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return moment(value)


class StrictSchema(Schema):
    """Refuses what it does not know, so that a typing mistake is an answer and not a surprise."""

    class Meta:
        """Unknown fields are errors."""

        unknown = RAISE


class NewJobSchema(StrictSchema):
    """A job to be submitted. Only `type` is required; what is left out comes from the job type."""

    type = fields.String(required=True, metadata={"example": "http.request"})
    args = fields.Dict(keys=fields.String(), load_default=dict, metadata={"description": "see the job type's schema"})
    queue = fields.String(validate=validate.OneOf([queue.value for queue in Queue]))
    priority = fields.Integer(
        strict=True, validate=validate.Range(-100, 100), metadata={"description": "higher is sooner"}
    )
    run_at = Moment(metadata={"description": "not before this moment; excludes `delay`"})
    delay = fields.Float(validate=validate.Range(0, MAX_DELAY_SECONDS), metadata={"description": "seconds from now"})
    expires_at = Moment(metadata={"description": "a job that has not started by then ends as expired"})
    timeout = fields.Integer(
        strict=True, validate=validate.Range(1, MAX_TIMEOUT_SECONDS), metadata={"description": "seconds per attempt"}
    )
    max_attempts = fields.Integer(strict=True, validate=validate.Range(1, MAX_ATTEMPTS))
    unique_key = fields.String(validate=validate.Length(1, 255))
    concurrency_key = fields.String(
        validate=validate.Length(1, 255),
        metadata={
            "description": "of the jobs of one type with the same key only so many run at a time; one by default"
        },
    )
    on_conflict = fields.String(validate=validate.OneOf(["use_existing", "reject", "replace"]))
    tags = fields.List(fields.String(validate=validate.Length(1, 100)), validate=validate.Length(max=20))
    metadata = fields.Dict(keys=fields.String(), metadata={"description": "any JSON of yours, handed back as it is"})

    def load(self, data: Any, **kwargs: Any) -> Any:
        """As marshmallow's, which has nothing to do for a type and arguments alone: what most clients send."""
        if (
            type(data) is dict
            and data.keys() == {"type", "args"}
            and type(data["type"]) is str
            and type(data["args"]) is dict
        ):
            return data.copy()
        return super().load(data, **kwargs)

    @validates_schema
    def _one_time(self, data: dict[str, Any], **_: Any) -> None:
        if "run_at" in data and "delay" in data:
            raise ValidationError("Give run_at or delay, not both.", "delay")


class NewBatchSchema(StrictSchema):
    """Many jobs in one call."""

    jobs = fields.List(fields.Raw(), required=True, metadata={"description": "up to 10,000; each as for `POST /jobs`"})
    atomic = fields.Boolean(
        load_default=True, metadata={"description": "all or none; otherwise the valid ones, and one answer for each"}
    )


class BatchItemSchema(Schema):
    """What became of one job of a batch."""

    status = fields.Integer(
        metadata={"description": "202 made, 200 existed already, 409 its unique key is held, 422 not valid"}
    )
    id = fields.UUID()
    state = fields.String()
    job_id = fields.UUID(metadata={"description": "with 409: the unfinished job that holds the unique key"})
    errors = fields.List(fields.Nested(FieldErrorSchema))


class BatchSchema(Schema):
    """The answer to a batch, one item per job, in order."""

    items = fields.List(fields.Nested(BatchItemSchema))


class QuerySchema(StrictSchema):
    """A request's query, which most requests come without."""

    def load(self, data: Any, **kwargs: Any) -> Any:
        """As marshmallow's; for an empty query its answer of the first time."""
        if data:
            return super().load(data, **kwargs)
        if self._of_nothing is None:
            self._of_nothing = super().load({}, **kwargs)
        return dict(self._of_nothing)

    _of_nothing: dict[str, Any] | None = None


class SubmitQuery(QuerySchema):
    """How to submit."""

    validate_only = fields.Boolean(
        load_default=False, metadata={"description": "answer what the job would be, store nothing"}
    )


class ProgressSchema(Schema):
    """How far a running job is."""

    percent = fields.Float()
    message = fields.String(allow_none=True)


class JobErrorSchema(Schema):
    """Why an attempt failed: `type` is for programs, `message` for people."""

    type = fields.String()
    message = fields.String()
    attempt = fields.Integer()


class WaitingForSchema(Schema):
    """Why a job does not run yet."""

    reason = fields.String(
        validate=validate.OneOf(["run_at", "retry_backoff", "paused", "concurrency", "rate", "no_worker", "behind"])
    )
    detail = fields.String()
    ahead = fields.Integer(allow_none=True)
    estimated_start = Moment(allow_none=True)


class JobLinksSchema(Schema):
    """Where to go from here."""

    self = fields.String()
    result = fields.String()
    events = fields.String()
    attempts = fields.String()
    artifacts = fields.String()


class JobSchema(Schema):
    """A job."""

    id = fields.UUID()
    type = fields.String()
    state = fields.String(validate=validate.OneOf([state.value for state in State]))
    queue = fields.String()
    priority = fields.Integer()
    args = fields.Dict()
    tags = fields.List(fields.String())
    metadata = fields.Dict()
    unique_key = fields.String(allow_none=True)
    concurrency_key = fields.String(allow_none=True)
    attempt = fields.Integer()
    max_attempts = fields.Integer()
    timeout = fields.Integer(attribute="timeout_seconds")
    created_at = Moment()
    run_at = Moment()
    started_at = Moment(allow_none=True)
    finished_at = Moment(allow_none=True)
    expires_at = Moment(allow_none=True)
    cancel_requested_at = Moment(allow_none=True)
    progress = fields.Nested(ProgressSchema, allow_none=True)
    result = fields.Raw(allow_none=True)
    error = fields.Nested(JobErrorSchema, allow_none=True)
    celery_state = fields.String(metadata={"description": "what `AsyncResult(id).state` says"})
    waiting_for = fields.Nested(WaitingForSchema, allow_none=True)
    origin_id = fields.UUID(allow_none=True)
    schedule_id = fields.UUID(allow_none=True)
    links = fields.Nested(JobLinksSchema)


class WaitQuery(QuerySchema):
    """Whether to hold the answer."""

    wait = fields.Float(
        validate=validate.Range(0, 60),
        metadata={
            "description": "seconds to hold the answer until the job changes from the state in If-None-Match, or ends"
        },
    )


class JobListQuery(QuerySchema):
    """Which jobs to list."""

    state = fields.List(fields.String(validate=validate.OneOf([state.value for state in State])))
    type = fields.String()
    queue = fields.String()
    tag = fields.String()
    schedule_id = fields.UUID()
    created_after = Moment()
    created_before = Moment()
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    cursor = fields.String(validate=validate.Length(max=200))


class JobListSchema(Schema):
    """A page of jobs, newest first."""

    items = fields.List(fields.Nested(JobSchema))
    next_cursor = fields.String(allow_none=True)


class AttemptSchema(Schema):
    """One try at running a job."""

    attempt = fields.Integer()
    token = fields.Integer(metadata={"description": "the fencing token; grows with every claim"})
    worker = fields.String()
    started_at = Moment()
    finished_at = Moment(allow_none=True)
    outcome = fields.String(
        allow_none=True, validate=validate.OneOf(["succeeded", "failed", "cancelled", "lost", "given_back"])
    )
    error = fields.Nested(JobErrorSchema, allow_none=True)
    traceback = fields.String(metadata={"description": "only for keys with the scope admin"})


class AttemptListSchema(Schema):
    """A job's attempts, in order."""

    items = fields.List(fields.Nested(AttemptSchema))


class EventSchema(Schema):
    """A numbered entry in a job's history."""

    seq = fields.Integer()
    at = Moment()
    name = fields.String()
    state = fields.String()
    data = fields.Dict()


class EventListSchema(Schema):
    """A job's events, in order."""

    items = fields.List(fields.Nested(EventSchema))


class EventsQuery(QuerySchema):
    """From where to read a job's history."""

    after = fields.Integer(load_default=0, validate=validate.Range(0, 2**31 - 1))


class RetrySchema(StrictSchema):
    """A manual retry; `args` replace the old ones."""

    args = fields.Dict(keys=fields.String())


class JobTypeSchema(Schema):
    """A kind of job."""

    name = fields.String()
    paused = fields.Boolean()
    description = fields.String()
    queue = fields.String()
    timeout = fields.Integer(metadata={"description": "seconds per attempt"})
    max_attempts = fields.Integer()
    retry = fields.Dict()
    args_schema = fields.Dict(metadata={"description": "JSON Schema of the arguments"})
    example = fields.Dict()


class JobTypeListSchema(Schema):
    """The job types of this installation."""

    items = fields.List(fields.Nested(JobTypeSchema))


class QueueWorkerSchema(Schema):
    """A worker that consumes a queue."""

    name = fields.String()
    concurrency = fields.Integer()
    seen_at = Moment()


class QueueSchema(Schema):
    """A queue as the tenant sees it: its own jobs, everybody's workers."""

    name = fields.String()
    paused = fields.Boolean()
    depth = fields.Dict(keys=fields.String(), values=fields.Integer(), metadata={"description": "jobs by state"})
    oldest_wait_seconds = fields.Float(allow_none=True)
    workers = fields.List(fields.Nested(QueueWorkerSchema))


class QueueListSchema(Schema):
    """The queues."""

    items = fields.List(fields.Nested(QueueSchema))
