"""What can be submitted and where it would wait: job types and queues."""

from datetime import UTC, datetime
from typing import Any

from flask.views import MethodView

from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint
from service.http.identity import principal, requires
from service.http.problems import not_found
from service.jobs.queries import live_workers, queue_depths
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
        return {"items": [describe_type(job_type) for job_type in registry]}


@blp.route("/job-types/<string:name>")
class OneJobType(MethodView):
    """One job type."""

    @requires(Scope.JOBS_READ)
    @blp.response(200, JobTypeSchema)
    def get(self, name: str) -> Any:
        """Look at one job type."""
        try:
            return describe_type(registry.get(name))
        except UnknownJobType:
            raise not_found("job type") from None


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
        for queue in _describe_queues():
            if queue["name"] == name:
                return queue
        raise not_found("queue")


def _describe_queues() -> list[dict[str, Any]]:
    with reading() as session:
        depths = queue_depths(session, principal().tenant_id)
        workers = live_workers(session)
    now = datetime.now(UTC)
    described = []
    for queue in Queue:
        waits = [row["oldest"] for row in depths if row["queue"] == queue and row["state"] == "queued"]
        described.append(
            {
                "name": queue.value,
                "depth": {row["state"]: row["jobs"] for row in depths if row["queue"] == queue},
                "oldest_wait_seconds": max((now - waits[0]).total_seconds(), 0.0) if waits else None,
                "workers": [worker for worker in workers if queue in worker["queues"]],
            }
        )
    return described
