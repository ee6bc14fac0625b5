"""A job as a pure model: what each operation may do to it, and what it answers. No SQL, no clock."""

from dataclasses import dataclass, replace
from typing import Literal

from service.jobs.states import FINAL, IDLE, State

Answer = str


@dataclass(frozen=True)
class ModelJob:
    """One job. Times are abstract: a lease or a date has passed, or it has not."""

    state: State = State.QUEUED
    attempt: int = 0
    max_attempts: int = 2
    token: int = 0
    events: int = 1
    lease_over: bool = False
    due: bool = True
    expired: bool = False
    cancel_requested: bool = False

    def moved(self, state: State, **changes: object) -> "ModelJob":
        """The job after an event that brought it into the state."""
        values: dict[str, object] = {"state": state, "events": self.events + 1, "lease_over": False, **changes}
        return replace(self, **values)  # type: ignore[arg-type]


Operation = Literal[
    "claim", "renew", "succeed", "fail", "fail for good", "give back", "rescue", "cancel", "expire", "promote"
]


def apply(  # noqa: C901, PLR0911, PLR0912 - one case per operation, each on its own
    job: ModelJob, operation: Operation, token: int
) -> tuple[ModelJob, Answer]:
    """The job after the operation, and its answer; `token` is what an attempt's holder believes to hold."""
    holds = job.state is State.RUNNING and token == job.token
    match operation:
        case "claim":
            may = job.state is State.QUEUED and job.due and not job.expired and job.attempt < job.max_attempts
            if not may:
                return job, "nothing"
            return job.moved(State.RUNNING, token=job.token + 1, attempt=job.attempt + 1), "claimed"
        case "renew":
            if not holds or job.lease_over:
                return job, "lost"
            return job, "cancel requested" if job.cancel_requested else "renewed"
        case "succeed":
            return (job.moved(State.SUCCEEDED), "done") if holds else (job, "lost")
        case "fail":
            return (job.moved(_after_failure(job, State.RETRYING), due=False), "done") if holds else (job, "lost")
        case "fail for good":
            return (job.moved(State.FAILED), "done") if holds else (job, "lost")
        case "give back":
            after = State.CANCELLED if job.cancel_requested else State.QUEUED
            return (job.moved(after, attempt=job.attempt - 1), "done") if holds else (job, "lost")
        case "rescue":
            if job.state is State.RUNNING and job.lease_over:
                return job.moved(_after_failure(job, State.QUEUED)), "1"
            return job, "0"
        case "cancel":
            if job.state in IDLE:
                return job.moved(State.CANCELLED, cancel_requested=True), "cancelled"
            if job.state in FINAL:
                return job, "already_final"
            events = job.events if job.cancel_requested else job.events + 1
            return replace(job, cancel_requested=True, events=events), "requested"
        case "expire":
            return (job.moved(State.EXPIRED), "1") if job.expired and job.state in IDLE else (job, "0")
        case "promote":
            if job.state in {State.SCHEDULED, State.RETRYING} and job.due:
                return job.moved(State.QUEUED), "1"
            return job, "0"


def _after_failure(job: ModelJob, otherwise: State) -> State:
    if job.cancel_requested:
        return State.CANCELLED
    return State.FAILED if job.attempt >= job.max_attempts else otherwise
