"""A key that was verified a moment ago saves a round trip, and is of no use once it is revoked."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from service.accounts.keys import KnownKeys, Principal, revoke_key
from service.accounts.scopes import Scope
from service.ids import uuid7
from service.transaction import transaction
from tests.support.client import KeyClient
from tests.support.database import count_jobs

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "submit": ("POST", "/jobs", {"type": "test.echo"}),
    "submit with a unique key": ("POST", "/jobs", {"type": "test.echo", "unique_key": "one"}),
    "submit nonsense": ("POST", "/jobs", {"type": "no such type"}),
    "only validate": ("POST", "/jobs?validate_only=true", {"type": "test.echo"}),
    "look": ("GET", "/jobs/{id}", None),
    "look at nothing": ("GET", f"/jobs/{uuid7()}", None),
    "list": ("GET", "/jobs", None),
}


@pytest.fixture
def known(client: KeyClient) -> KeyClient:
    """A client whose key the process knows, with a job."""
    client.submit()
    client.submit()
    return client


@pytest.mark.parametrize("name", REQUESTS)
def test_a_key_that_was_revoked_a_moment_ago_is_refused(app: Flask, known: KeyClient, name: str) -> None:
    method, path, body = REQUESTS[name]
    path = path.format(id=known.get("/jobs").get_json()["items"][0]["id"])
    assert known.open(method, path, json=body).status_code < 500
    jobs = count_jobs(app)
    with app.app_context():
        assert revoke_key(known.key.key.split("_")[1])

    response = known.open(method, path, json=body)

    assert response.status_code == 401, response.text
    assert "WWW-Authenticate" in response.headers
    assert count_jobs(app) == jobs


def test_a_key_that_expired_a_moment_ago_is_refused_and_leaves_no_idempotency_record(
    app: Flask, known: KeyClient
) -> None:
    with app.app_context(), transaction() as session:
        session.execute(text("UPDATE api_keys SET expires_at = clock_timestamp()"))

    response = known.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": "late"})

    assert response.status_code == 401
    with app.app_context(), transaction() as session:
        assert session.execute(text("SELECT count(*) FROM idempotency_keys")).scalar_one() == 0


def test_a_known_key_is_forgotten_in_time_and_never_too_many_are_kept() -> None:
    caller = Principal(uuid7(), uuid7(), frozenset({Scope.JOBS_READ}))
    brief, few = KnownKeys(seconds=0), KnownKeys(at_most=2)

    brief.add("one", caller)
    for key in ("one", "two", "three"):
        few.add(key, caller)

    assert brief.find("one") is None
    assert [few.find(key) for key in ("one", "two", "three")] == [None, None, caller]
