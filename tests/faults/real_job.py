"""The model's operations on a real job: the product's own use cases, each on a connection of its own."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Flask
from sqlalchemy import text

from service.jobs.cancel import cancel
from service.jobs.dispatch import promote
from service.jobs.execution import Claim, ClaimLost, claim, fail, give_back, renew, succeed
from service.jobs.new_job import NewJob, check
from service.jobs.rescue import expire, rescue
from service.jobs.states import State
from service.jobs.submit import store
from service.transaction import reading, transaction
from tests.faults.model import Answer, ModelJob, Operation

ERROR = {"type": "test", "message": "as told"}


@dataclass(frozen=True)
class RealJob:
    """A job in a real database. Methods may be called from any thread."""

    app: Flask
    tenant_id: UUID
    id: UUID
    tokens: list[int] = field(default_factory=lambda: [0])
    """The real tokens by their number in the model, which counts claims: the real ones grow by leaps."""

    @classmethod
    def submit(cls, app: Flask, tenant_id: UUID, model: ModelJob) -> "RealJob":
        """Store a job that is as the model says."""
        delay = None if model.due else 3600.0
        new = NewJob(type="test.echo", args={}, max_attempts=model.max_attempts, delay=delay)
        with app.app_context(), transaction() as session:
            job = store(session, tenant_id, new, check(new)).job
        return cls(app, tenant_id, job["id"])

    def apply(self, operation: Operation, token: int) -> Answer:
        """Do it, through the use case; the answer in the model's words."""
        with self.app.app_context():
            try:
                return self._apply(operation, Claim(self.id, self.tokens[token] if token >= 0 else -1))
            except ClaimLost:
                return "lost"

    def _apply(self, operation: Operation, held: Claim) -> Answer:  # noqa: C901 - one case per operation
        match operation:
            case "claim":
                row = claim(self.id, worker="model:1", lease_seconds=600, grace_seconds=600)
                if row is None:
                    return "nothing"
                assert row["token"] > self.tokens[-1], "a token did not grow"
                self.tokens.append(row["token"])
                return "claimed"
            case "renew":
                return "cancel requested" if renew(held, lease_seconds=600) else "renewed"
            case "succeed":
                succeed(held, held.token, effects=[self._store_effect])
            case "fail":
                fail(held, ERROR, traceback=None, retry_after=3600)
            case "fail for good":
                fail(held, ERROR, traceback=None, retry_after=None)
            case "give back":
                give_back(held)
            case "rescue":
                return str(sum(job["id"] == self.id for job in rescue()))
            case "cancel":
                return cancel(self.tenant_id, self.id)[1]
            case "expire":
                return str(expire())
            case "promote":
                return str(promote())
        return "done"

    def _store_effect(self, session: Any) -> None:
        session.execute(text("INSERT INTO fault_effects (job_id, attempt) VALUES (:id, 0)"), {"id": self.id})

    def let_pass(self, column: str) -> None:
        """Let a moment of the job's be over: `lease_until`, `run_at` or `expires_at`."""
        statement = f"UPDATE jobs SET {column} = clock_timestamp() - interval '1 second' WHERE id = :id"  # noqa: S608
        with self.app.app_context(), transaction() as session:
            session.execute(text(statement), {"id": self.id})

    def observed(self, model: ModelJob) -> ModelJob:
        """What the database says of the job; what it cannot say (times) is taken from the model."""
        statement = text("SELECT * FROM jobs WHERE id = :id")
        with self.app.app_context(), reading() as session:
            row = session.execute(statement, {"id": self.id}).mappings().one()
        return ModelJob(
            state=State(row["state"]),
            attempt=row["attempt"],
            max_attempts=row["max_attempts"],
            token=self.tokens.index(row["token"]),
            events=row["event_seq"],
            lease_over=model.lease_over,
            due=model.due,
            expired=model.expired,
            cancel_requested=row["cancel_requested_at"] is not None,
        )
