"""What can be submitted and where it would wait: job types and queues, and pausing them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask.views import MethodView

from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint
from service.http.identity import principal, requires
from service.http.problems import not_found
from service.jobs.queries import live_workers, queue_depths
from service.jobs.rules import Kind, UnknownTarget, list_rules, pause, resume
from service.jobs.schemas import JobTypeListSchema, JobTypeSchema, QueueListSchema, QueueSchema
from service.jobs.type_catalogue import describe_type
from service.jobs.types import UnknownJobType, registry
from service.queues import Queue
from service.transaction import reading

blp = StrictBlueprint("catalogue", __name__, url_prefix="/api/v1", description="Job types and queues")


@blp.route("/job-types")
class JobTypes(MethodView):
    """All job types."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, JobTypeListSchema)
    def get(self) -> Any:
        """List the job types, each with the schema of its arguments, an example and its policy."""
        paused = _paused("type")
        return {"items": [{**describe_type(job_type), "paused": job_type.name in paused} for job_type in registry]}


@blp.route("/job-types/<string:name>")
class OneJobType(MethodView):
    """One job type."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, JobTypeSchema)
    def get(self, name: str) -> Any:
        """Look at one job type."""
        return _describe_type(name)


@blp.route("/job-types/<string:name>/pause")
class JobTypePause(MethodView):
    """Pause a job type."""

    @requires(Scope.OPERATOR)
    @blp.response(200, JobTypeSchema)
    def post(self, name: str) -> Any:
        """Start no more jobs of this type, of any tenant, until it is resumed. Running ones go on."""
        return _steer(pause, "type", name, _describe_type)


@blp.route("/job-types/<string:name>/resume")
class JobTypeResume(MethodView):
    """Resume a job type."""

    @requires(Scope.OPERATOR)
    @blp.response(200, JobTypeSchema)
    def post(self, name: str) -> Any:
        """Start jobs of this type again."""
        return _steer(resume, "type", name, _describe_type)


@blp.route("/queues")
class Queues(MethodView):
    """All queues."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, QueueListSchema)
    def get(self) -> Any:
        """List the queues: your unfinished jobs by state, the oldest wait, and the workers that consume each."""
        return {"items": _describe_queues()}


@blp.route("/queues/<string:name>")
class OneQueue(MethodView):
    """One queue."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, QueueSchema)
    def get(self, name: str) -> Any:
        """Look at one queue."""
        return _describe_queue(name)


@blp.route("/queues/<string:name>/pause")
class QueuePause(MethodView):
    """Pause a queue."""

    @requires(Scope.OPERATOR)
    @blp.response(200, QueueSchema)
    def post(self, name: str) -> Any:
        """Start no more jobs of this queue, of any tenant, until it is resumed. Running ones go on."""
        return _steer(pause, "queue", name, _describe_queue)


@blp.route("/queues/<string:name>/resume")
class QueueResume(MethodView):
    """Resume a queue."""

    @requires(Scope.OPERATOR)
    @blp.response(200, QueueSchema)
    def post(self, name: str) -> Any:
        """Start jobs of this queue again."""
        return _steer(resume, "queue", name, _describe_queue)


def _steer(
    act: Callable[[Kind, str], None], kind: Kind, name: str, describe: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    try:
        act(kind, name)
    except UnknownTarget:
        raise not_found("queue" if kind == "queue" else "job type") from None
    return describe(name)


def _paused(kind: Kind) -> set[str]:
    return {rule["name"] for rule in list_rules() if rule["kind"] == kind and rule["paused_at"]}


def _describe_type(name: str) -> dict[str, Any]:
    try:
        return {**describe_type(registry.get(name)), "paused": name in _paused("type")}
    except UnknownJobType:
        raise not_found("job type") from None


def _describe_queue(name: str) -> dict[str, Any]:
    for queue in _describe_queues():
        if queue["name"] == name:
            return queue
    raise not_found("queue")


def _describe_queues() -> list[dict[str, Any]]:
    with reading() as session:
        depths = queue_depths(session, principal().tenant_id)
        workers = live_workers(session)
    paused = _paused("queue")
    now = datetime.now(UTC)
    described: list[dict[str, Any]] = []
    for queue in Queue:
        waits = [row["oldest"] for row in depths if row["queue"] == queue and row["state"] == "queued"]
        described.append(
            {
                "name": queue.value,
                "paused": queue.value in paused,
                "depth": {row["state"]: row["jobs"] for row in depths if row["queue"] == queue},
                "oldest_wait_seconds": max((now - waits[0]).total_seconds(), 0.0) if waits else None,
                "workers": [worker for worker in workers if queue in worker["queues"]],
            }
        )
    return described
