"""Random operations on one job, alone and two at the same moment, against a pure model of what they may do."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from service.jobs.states import FINAL, State
from service.transaction import transaction
from tests.faults.checker import Facts, check_job
from tests.faults.job_types import EFFECTS_TABLE
from tests.faults.model import ModelJob, Operation, apply
from tests.faults.real_job import RealJob
from tests.support.client import KeyClient
from tests.support.threads import at_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

HOLDERS: list[Operation] = ["renew", "succeed", "fail", "fail for good", "give back"]
OTHERS: list[Operation] = ["claim", "rescue", "cancel", "expire", "promote"]
operations = st.one_of(
    st.tuples(st.sampled_from(HOLDERS), st.integers(0, 1)), st.tuples(st.sampled_from(OTHERS), st.just(0))
)
"""An operation, and how many tokens behind the current one its caller is."""


@pytest.fixture
def arena(app: Flask, client: KeyClient, config: dict[str, Any]) -> Iterator[tuple[KeyClient, str]]:
    """A client, and the database's URL as libpq wants it."""
    with app.app_context(), transaction() as session:
        session.execute(text(EFFECTS_TABLE))
    yield client, config["DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://")


class JobLife(RuleBasedStateMachine):
    """One job at a time; every step leaves model and database equal."""

    client: KeyClient
    url: str
    pool: ThreadPoolExecutor

    @initialize(due=st.booleans(), max_attempts=st.integers(1, 3))
    def submit(self, due: bool, max_attempts: int) -> None:  # noqa: FBT001 - hypothesis passes by name
        state = State.QUEUED if due else State.SCHEDULED
        self.model = ModelJob(state=state, due=due, max_attempts=max_attempts)
        with self.client.app.app_context(), transaction() as session:
            session.execute(text("TRUNCATE jobs, fault_effects CASCADE"))
        self.real = RealJob.submit(self.client.app, self.client.key.tenant_id, self.model)
        self.was = self.model

    @rule(step=operations)
    def alone(self, step: tuple[Operation, int]) -> None:
        operation, behind = step
        token = self.model.token - behind
        self.model, expected = apply(self.model, operation, token)

        assert self.pool.submit(self.real.apply, operation, token).result(30) == expected

    @rule(first=operations, second=operations)
    def at_the_same_moment(self, first: tuple[Operation, int], second: tuple[Operation, int]) -> None:
        steps = [(operation, self.model.token - behind) for operation, behind in (first, second)]

        answers = at_once([lambda step=step: self.real.apply(*step) for step in steps])

        seen = self.real.observed(self.model)
        possible = [serial(self.model, steps, order) for order in ((0, 1), (1, 0))]
        # `SKIP LOCKED`: the clock passes over a job that somebody else is about to change, and comes again.
        for index, other in ((0, 1), (1, 0)):
            if steps[index][0] in {"rescue", "expire", "promote"}:
                after, answer = apply(self.model, *steps[other])
                possible.append((after, ["0", answer] if index == 0 else [answer, "0"]))
        # What only the model knows (whether a date has passed) is not observed: compare the rest.
        fitting = [after for after, told in possible if told == answers and same(after, seen)]
        assert fitting, f"{steps} answered {answers} and left {seen}; possible were {possible}"
        self.model = fitting[0]

    @precondition(lambda self: self.model.state is State.RUNNING)
    @rule()
    def lease_runs_out(self) -> None:
        self.real.let_pass("lease_until")
        self.model = ModelJob(**{**vars(self.model), "lease_over": True})

    @precondition(lambda self: self.model.state in {State.SCHEDULED, State.RETRYING})
    @rule()
    def date_comes(self) -> None:
        self.real.let_pass("run_at")
        self.model = ModelJob(**{**vars(self.model), "due": True})

    @precondition(lambda self: not self.model.expired)
    @rule()
    def expiry_comes(self) -> None:
        self.real.let_pass("expires_at")
        self.model = ModelJob(**{**vars(self.model), "expired": True})

    @invariant()
    def model_and_database_agree(self) -> None:
        if not hasattr(self, "real"):
            return
        assert same(self.real.observed(self.model), self.model)

    @invariant()
    def the_promises_hold(self) -> None:
        if not hasattr(self, "real"):
            return
        facts = Facts.read(self.url)
        violations = [
            violation
            for violation in check_job(facts.jobs[self.real.id], facts)
            if violation.invariant != "I1"  # the job's life goes on
        ]
        assert not violations
        succeeded = self.model.state is State.SUCCEEDED
        assert len(facts.effects[self.real.id]) == int(succeeded)

    @invariant()
    def tokens_grow_and_final_is_final(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.model.token >= self.was.token
        assert self.was.state not in FINAL or self.model.state is self.was.state
        self.was = self.model


def serial(job: ModelJob, steps: list[tuple[Operation, int]], order: tuple[int, int]) -> tuple[ModelJob, list[str]]:
    """The job and the answers (in the steps' own order) when the steps are done one after the other."""
    answers = ["", ""]
    for index in order:
        job, answers[index] = apply(job, *steps[index])
    return job, answers


def same(one: ModelJob, other: ModelJob) -> bool:
    """Equal in everything that the database shows."""
    hidden = {"lease_over", "due", "expired"}
    return all(value == getattr(other, name) for name, value in vars(one).items() if name not in hidden)


@pytest.mark.parametrize(
    ("examples", "steps"),
    [pytest.param(25, 20, id="quick"), pytest.param(300, 40, id="long", marks=pytest.mark.slow)],
)
def test_every_life_of_a_job_follows_the_model(arena: tuple[KeyClient, str], examples: int, steps: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        machine = type("JobLifeHere", (JobLife,), {"client": arena[0], "url": arena[1], "pool": pool})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


RIVALS: list[Operation] = ["succeed", "claim", "rescue", "give back", "fail"]


@pytest.mark.parametrize(
    "races", [pytest.param(20, id="quick"), pytest.param(2000, id="long", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rival", RIVALS)
def test_of_a_cancel_and_a_rival_one_wins_and_both_answers_are_true(
    arena: tuple[KeyClient, str], rival: Operation, races: int
) -> None:
    client, url = arena
    winners = set()
    for _ in range(races):
        model = ModelJob()
        real = RealJob.submit(client.app, client.key.tenant_id, model)
        if rival != "claim":
            assert real.apply("claim", 0) == "claimed"
            model, _ = apply(model, "claim", 0)
        if rival == "rescue":
            real.let_pass("lease_until")
            model = ModelJob(**{**vars(model), "lease_over": True})
        steps: list[tuple[Operation, int]] = [("cancel", 0), (rival, model.token)]

        answers = at_once([lambda step=step: real.apply(*step) for step in steps])

        seen = real.observed(model)
        possible = [serial(model, steps, order) for order in itertools.permutations((0, 1))]
        if rival == "rescue":
            possible.append((apply(model, "cancel", 0)[0], ["requested", "0"]))
        assert any(told == answers and same(after, seen) for after, told in possible), (answers, seen, possible)
        winners.add((tuple(answers), seen.state))

    facts = Facts.read(url)
    violations = [fault for job in facts.jobs.values() for fault in check_job(job, facts) if fault.invariant != "I1"]
    assert not violations
    assert winners
