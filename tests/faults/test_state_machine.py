"""Random operations on one job, alone and two at the same moment, against a pure model of what they may do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from service.failpoints import arm
from service.jobs.dispatch import promote
from service.jobs.rescue import expire, rescue
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
def arena(app: Flask, client: KeyClient, config: dict[str, Any]) -> tuple[KeyClient, str]:
    """A client, and the database's URL as libpq wants it."""
    with app.app_context(), transaction() as session:
        session.execute(text(EFFECTS_TABLE))
    return client, config["DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://")


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

        answers = at_once([partial(self.real.apply, *step) for step in steps])

        seen = self.real.observed(self.model)
        possible = outcomes(self.model, steps)
        fitting = [after for after, told in possible if told == answers and same(after, seen)]
        assert fitting, f"{steps} answered {answers} and left {seen}; possible were {possible}"
        self.model = fitting[0]

    # No preconditions: which of two rivals won differs from run to run, and hypothesis wants to draw the same again.

    @rule()
    def lease_runs_out(self) -> None:
        if self.model.state is not State.RUNNING:
            return
        self.real.let_pass("lease_until")
        self.model = replace(self.model, lease_over=True)

    @rule()
    def date_comes(self) -> None:
        if self.model.state not in {State.SCHEDULED, State.RETRYING}:
            return
        self.real.let_pass("run_at")
        self.model = replace(self.model, due=True)

    @rule()
    def expiry_comes(self) -> None:
        self.real.let_pass("expires_at")
        self.model = replace(self.model, expired=True)

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


def outcomes(job: ModelJob, steps: list[tuple[Operation, int]]) -> list[tuple[ModelJob, list[str]]]:
    """Every way in which two steps at the same moment may end: as if one came first.

    Or, with the clock's `SKIP LOCKED`, as if it had not looked: it passes over a job that somebody else is about to
    change, and comes again.
    """
    possible = [serial(job, steps, (0, 1)), serial(job, steps, (1, 0))]
    for index, other in ((0, 1), (1, 0)):
        if steps[index][0] in {"rescue", "expire", "promote"}:
            after, answer = apply(job, *steps[other])
            possible.append((after, ["0", answer] if index == 0 else [answer, "0"]))
    return possible


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
    [pytest.param(10, 15, id="quick"), pytest.param(100, 30, id="long", marks=pytest.mark.slow)],
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


PAIRS: list[tuple[Operation, Operation]] = [
    *(("cancel", rival) for rival in ("succeed", "claim", "rescue", "give back", "fail", "expire", "promote")),
    *(("rescue", rival) for rival in ("rescue", "succeed", "fail", "renew")),
    *((twice, twice) for twice in ("claim", "succeed", "promote", "expire", "cancel")),
    ("expire", "claim"),
    ("expire", "promote"),
]
COMMIT_OF = {"fail for good": "fail", "give back": "give_back"}
"""Operations whose transaction has another name."""


def prepared(client: KeyClient, pair: tuple[Operation, Operation], *, max_attempts: int) -> tuple[ModelJob, RealJob]:
    """A job that both operations could do something to; nothing is left of those before that the clock passed over."""
    with client.app.app_context():
        rescue()
        expire()
        promote()
    model = ModelJob(max_attempts=max_attempts)
    if "promote" in pair:
        model = replace(model, state=State.SCHEDULED, due=False)
    real = RealJob.submit(client.app, client.key.tenant_id, model)
    if "promote" in pair:
        real.let_pass("run_at")
        model = replace(model, due=True)
    if not {"claim", "expire", "promote"} & {*pair} and pair != ("cancel", "cancel"):
        assert real.apply("claim", 0) == "claimed"
        model, _ = apply(model, "claim", 0)
    if "rescue" in pair:
        real.let_pass("lease_until")
        model = replace(model, lease_over=True)
    if "expire" in pair:
        real.let_pass("expires_at")
        model = replace(model, expired=True)
    return model, real


@pytest.mark.parametrize("races", [pytest.param(8, id="quick"), pytest.param(600, id="long", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pair", PAIRS, ids=" against ".join)
def test_of_two_rivals_one_wins_and_both_answers_are_true(
    arena: tuple[KeyClient, str], pair: tuple[Operation, Operation], races: int
) -> None:
    client, url = arena
    for race in range(races):
        model, real = prepared(client, pair, max_attempts=1 + race // 4 % 2)  # the last attempt, or one before it
        steps = [(operation, model.token) for operation in pair]
        # One of the two holds its locks for a moment before it commits, so that the other runs into them.
        slow = pair[race % 2]
        arm(f"{COMMIT_OF.get(slow, slow)}.before_commit=sleep:0.01,times=1" if race % 4 < 2 else "")

        answers = at_once([partial(real.apply, *step) for step in steps])

        seen = real.observed(model)
        possible = outcomes(model, steps)
        assert any(told == answers and same(after, seen) for after, told in possible), (answers, seen, possible)

    arm("")
    facts = Facts.read(url)
    violations = [fault for job in facts.jobs.values() for fault in check_job(job, facts) if fault.invariant != "I1"]
    assert not violations


@pytest.mark.parametrize("operation", HOLDERS)
def test_whatever_an_overtaken_attempt_does_is_refused(arena: tuple[KeyClient, str], operation: Operation) -> None:
    client, _ = arena
    real = RealJob.submit(client.app, client.key.tenant_id, ModelJob())
    real.apply("claim", 0)
    real.let_pass("lease_until")
    real.apply("rescue", 0)
    assert real.apply("claim", 0) == "claimed"
    heir = real.observed(ModelJob())

    assert real.apply(operation, 1) == "lost"

    assert real.observed(ModelJob()) == heir
