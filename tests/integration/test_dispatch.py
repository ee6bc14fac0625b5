"""The dispatch window: what is rung next, and what is held back."""

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis
from flask import Flask
from sqlalchemy import text

from service.jobs import rules
from service.jobs.dispatch import Dispatcher
from service.jobs.execution import Claim, claim, succeed
from service.jobs.lanes import _NEXT
from service.jobs.limits import Limits
from service.jobs.new_job import NewJob, check
from service.jobs.ring import Bell
from service.jobs.submit import store
from service.jobs.types import registry
from service.queues import Queue
from service.transaction import reading, transaction
from tests.support.client import KeyClient


@pytest.fixture
def broker(config: dict[str, Any]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(config["BROKER_URL"]) as client:
        yield client


def dispatcher(app: Flask, *, window: int = 10) -> Dispatcher:
    celery = app.extensions["celery"]
    return Dispatcher(Bell(celery, hard_timeout_grace=10), window=window, ring_again_seconds=30)


def store_many(client: KeyClient, count: int, **values: Any) -> list[str]:
    """A backlog, stored without a ring, as while there is one."""
    new = NewJob(**{"type": "test.echo", "args": {}, **values})
    with client.app.app_context(), transaction() as session:
        job_type = check(new)
        return [str(store(session, client.key.tenant_id, new, job_type).job["id"]) for _ in range(count)]


def rung(app: Flask) -> Counter[str]:
    """Ids of the jobs that are rung and not claimed."""
    with app.app_context(), reading() as session:
        rows = session.execute(text("SELECT id FROM jobs WHERE state = 'queued' AND rung_at IS NOT NULL"))
        return Counter(str(row.id) for row in rows)


def take(job_id: str) -> Claim | None:
    job = claim(UUID(job_id), worker="test:1", lease_seconds=30, grace_seconds=10, limits=limits_of("test.echo"))
    return Claim(job["id"], job["token"]) if job is not None else None


def limits_of(name: str) -> Limits:
    return Limits.of(registry.get(name))


def test_the_broker_holds_no_more_than_a_window(app: Flask, client: KeyClient, broker: redis.Redis) -> None:
    store_many(client, 25)

    with app.app_context():
        clock = dispatcher(app, window=10)
        clock.round()
        clock.round()

    assert broker.llen("default") == 10
    assert len(rung(app)) == 10


def test_with_a_backlog_the_api_rings_nothing_itself(app: Flask, client: KeyClient, broker: redis.Redis) -> None:
    store_many(client, 25)
    with app.app_context():
        dispatcher(app, window=10).round()

    client.submit()

    assert broker.llen("default") == 10


def test_an_idle_queue_is_rung_directly(app: Flask, client: KeyClient, broker: redis.Redis) -> None:
    with app.app_context():
        dispatcher(app, window=10).round()

    client.submit()

    assert broker.llen("default") == 1


def test_higher_priority_is_rung_first_then_age(app: Flask, client: KeyClient, broker: redis.Redis) -> None:
    low = store_many(client, 5, priority=-1)
    normal = store_many(client, 5)
    high = store_many(client, 5, priority=7)

    with app.app_context():
        dispatcher(app, window=7).round()

    assert set(rung(app)) == {*high, *normal[:2]}
    assert not set(rung(app)) & set(low)


def test_one_tenants_backlog_does_not_hold_up_another_tenants_job(
    app: Flask, client: KeyClient, other_client: KeyClient
) -> None:
    store_many(client, 50, priority=9)
    single = store_many(other_client, 1)

    with app.app_context():
        dispatcher(app, window=10).round()

    assert single[0] in rung(app)
    assert len(rung(app)) == 10


@pytest.mark.parametrize(("kind", "name"), [("queue", "default"), ("type", "test.echo")])
def test_what_is_paused_is_neither_rung_nor_claimed(
    app: Flask, client: KeyClient, broker: redis.Redis, kind: rules.Kind, name: str
) -> None:
    before = client.submit()["id"]
    with app.app_context():
        rules.pause(kind, name)
        after = client.submit()["id"]
        assert take(before) is None
        dispatcher(app).round()
        assert not rung(app)
        assert client.job(after)["waiting_for"]["reason"] == "paused"

        rules.resume(kind, name)
        dispatcher(app).round()
        assert set(rung(app)) == {before, after}
        assert take(before) is not None


def test_other_types_go_on_beside_a_paused_one(app: Flask, client: KeyClient) -> None:
    store_many(client, 30)
    other = store_many(client, 3, type="test.sleep", args={})

    with app.app_context():
        rules.pause("type", "test.echo")
        dispatcher(app).round()

    assert set(rung(app)) == set(other)


@pytest.mark.parametrize(("kind", "name"), [("queue", "default"), ("type", "test.echo")])
def test_a_limit_bounds_what_runs_at_a_time(app: Flask, client: KeyClient, kind: rules.Kind, name: str) -> None:
    with app.app_context():
        rules.limit(kind, name, max_running=2)
        store_many(client, 5)
        clock = dispatcher(app)
        clock.round()
        first_two = set(rung(app))
        assert len(first_two) == 2
        held = [take(job_id) for job_id in first_two]
        clock.round()
        assert not rung(app)

        assert held[0] is not None
        succeed(held[0], None)
        clock.round()

        assert len(rung(app)) == 1


def test_a_claim_beyond_the_limit_is_refused_even_if_it_was_rung(app: Flask, client: KeyClient) -> None:
    jobs = [client.submit()["id"] for _ in range(3)]  # all rung before the limit was set
    with app.app_context():
        rules.limit("type", "test.echo", max_running=1)
        claims = [take(job_id) for job_id in jobs]

    assert [taken is not None for taken in claims] == [True, False, False]
    assert not rung(app)
    assert client.job(jobs[1])["waiting_for"]["reason"] in {"concurrency", "no_worker"}


def test_jobs_with_one_concurrency_key_run_one_at_a_time(
    app: Flask, client: KeyClient, other_client: KeyClient
) -> None:
    same = store_many(client, 4, concurrency_key="customer-7")
    other_key = store_many(client, 1, concurrency_key="customer-8")
    other_tenant = store_many(other_client, 1, concurrency_key="customer-7")

    with app.app_context():
        clock = dispatcher(app)
        clock.round()
        assert set(rung(app)) == {same[0], *other_key, *other_tenant}
        held = take(same[0])
        assert held is not None
        assert take(same[1]) is None  # rung by whomever: the claim itself refuses
        clock.round()
        assert same[1] not in rung(app)

        succeed(held, None)
        clock.round()

        assert same[1] in rung(app)


def test_a_rate_limit_bounds_how_many_start(app: Flask, client: KeyClient) -> None:
    with app.app_context():
        rules.limit("type", "test.echo", max_running=None, rate=rules.Rate(3, 3600))
        store_many(client, 10)
        clock = dispatcher(app)
        clock.round()
        clock.round()

        assert len(rung(app)) == 3

        with transaction() as session:  # half a period later
            session.execute(text("UPDATE rate_buckets SET filled_at = filled_at - interval '25 minutes'"))
        clock.round()
        assert len(rung(app)) == 4


def test_many_lanes_are_all_served_in_turn(app: Flask, client: KeyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.lanes.LANES_AT_A_TIME", 7)
    jobs = [store_many(client, 1, concurrency_key=f"key-{number:02}")[0] for number in range(20)]

    with app.app_context():
        clock = dispatcher(app, window=100)
        for _ in range(3):
            clock.round()

    assert set(rung(app)) == set(jobs)


def test_the_search_for_the_next_jobs_stays_on_its_index(app: Flask, client: KeyClient) -> None:
    store_many(client, 200)
    with app.app_context(), transaction() as session:
        session.execute(text("ANALYZE jobs"))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        parameters = {
            "queue": Queue.DEFAULT,
            "room": 10,
            "lanes": 10,
            "rows": 100,
            "held_types": [],
            "after_type": "",
            "after_tenant": "00000000-0000-0000-0000-000000000000",
            "after_key": "",
        }
        plans = [str(row[0]) for row in session.execute(text("EXPLAIN ANALYZE " + _NEXT.text), parameters)]

    plan = "\n".join(plans)
    assert "ix_jobs_lanes" in plan, plan
    assert "Seq Scan on jobs" not in plan, plan
    assert "Sort Key: jobs.priority" not in plan, plan  # the best of a lane come in order from the index
