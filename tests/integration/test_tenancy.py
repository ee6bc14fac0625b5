"""Who may see what, for every route there is: generated from the URL map, so that a new route cannot be forgotten."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from service.accounts.keys import create_key, revoke_key
from service.accounts.scopes import Scope
from service.http.identity import PUBLIC_ENDPOINTS, required_scope
from service.ids import uuid7
from service.queues import Queue
from tests.support.apps import app_with
from tests.support.attempts import finish
from tests.support.client import KeyClient

VERBS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
SHARED = {"type", "name"}
"""Parameters that name what all tenants share: job types and queues."""


@pytest.fixture
def app(config: dict[str, Any]) -> Iterator[Flask]:
    """As in production: a crash is a 500 and not an exception in the test."""
    with app_with(config, PROPAGATE_EXCEPTIONS=False) as app:
        yield app


def operations(app: Flask) -> list[tuple[str, str, str]]:
    """Every (verb, path below the root, endpoint) of the app."""
    return [
        (verb, rule.rule, rule.endpoint)
        for rule in app.url_map.iter_rules()
        for verb in sorted((rule.methods or set()) & VERBS)
    ]


def owned_operations(app: Flask) -> list[tuple[str, str]]:
    """Every (verb, path) with the id of something that belongs to a tenant."""
    return [
        (verb, rule.rule.removeprefix("/api/v1"))
        for rule in app.url_map.iter_rules()
        for verb in sorted((rule.methods or set()) & VERBS)
        if rule.arguments - SHARED - {"filename"}
    ]


def filled(path: str, ids: dict[str, str]) -> str:
    """The path with these ids in the place of its parameters."""
    for name, value in ids.items():
        path = path.replace(f"<string:{name}>", value)
    assert "<" not in path, f"{path} has a parameter that this test does not know"
    return path


def upload(client: KeyClient) -> str:
    return str(client.post("/artifacts", data=b"ours", content_type="text/plain").get_json()["id"])


def without_request_id(response: Any) -> Any:
    return {name: value for name, value in response.get_json().items() if name != "request_id"}


def test_another_tenants_ids_are_answered_like_unknown_ones(
    app: Flask, client: KeyClient, other_client: KeyClient
) -> None:
    job = client.submit()
    finish(app, job["id"], "secret")
    theirs = {"job_id": job["id"], "artifact_id": upload(client)}
    unknown = dict.fromkeys(theirs, str(uuid7()))
    malformed = dict.fromkeys(theirs, "no-id")
    routes = owned_operations(app)
    assert len(routes) >= 9

    for verb, path in routes:
        answers = [other_client.open(verb, filled(path, ids)) for ids in (theirs, unknown, malformed)]
        assert [answer.status_code for answer in answers] == [404, 404, 404], f"{verb} {path}"
        bodies = [without_request_id(answer) for answer in answers]
        assert bodies[0] == bodies[1] == bodies[2], f"{verb} {path}"

    assert client.job(job["id"])["state"] == "succeeded"
    assert client.get(f"/artifacts/{theirs['artifact_id']}/content", buffered=True).data == b"ours"


def test_an_event_stream_of_another_tenants_job_is_not_found(client: KeyClient, other_client: KeyClient) -> None:
    job = client.submit()

    response = other_client.get(f"/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})

    assert response.status_code == 404


def test_lists_never_leak(client: KeyClient, other_client: KeyClient) -> None:
    job = client.submit(tags=["a"])
    ours = other_client.submit()
    cursor_of_theirs = client.get("/jobs?limit=1").get_json()

    for query in ("", "?type=test.echo", "?tag=a", "?state=queued", "?queue=default"):
        for accept in ("application/json", "text/csv", "application/x-ndjson"):
            text = other_client.get(f"/jobs{query}", headers={"Accept": accept}).text
            assert job["id"] not in text
            assert (ours["id"] in text) == (query != "?tag=a")

    assert cursor_of_theirs["items"][0]["id"] == job["id"]
    depths = {queue["name"]: queue["depth"] for queue in other_client.get("/queues").get_json()["items"]}
    assert depths[Queue.DEFAULT.value] == {"queued": 1}


def test_a_job_cannot_be_given_another_tenants_file_to_block_its_deletion(
    client: KeyClient, other_client: KeyClient
) -> None:
    artifact = upload(client)
    other_client.submit("test.echo", args={"value": {"artifact_id": artifact}})

    assert client.delete(f"/artifacts/{artifact}").status_code == 204


def test_every_route_is_public_by_name_or_asks_for_a_scope(app: Flask) -> None:
    for verb, path, endpoint in operations(app):
        is_guarded = required_scope(app, endpoint, verb) is not None
        assert is_guarded != (endpoint in PUBLIC_ENDPOINTS), f"{verb} {path}"


def test_every_public_endpoint_exists(app: Flask) -> None:
    assert app.view_functions.keys() >= PUBLIC_ENDPOINTS


def guarded_operations(app: Flask) -> list[tuple[str, str, str]]:
    return [operation for operation in operations(app) if operation[2] not in PUBLIC_ENDPOINTS]


def any_path(path: str) -> str:
    """The path with some value for each parameter."""
    while "<" in path:
        before, _, rest = path.partition("<")
        path = before + str(uuid7()) + rest.partition(">")[2]
    return path


BAD_CREDENTIALS = {
    "none": "",
    "no kind": "{key}",
    "another kind": "Basic {key}",
    "nothing after the kind": "Bearer ",
    "a word": "Bearer letmein",
    "an empty key": "Bearer mr__",
    "another secret": "Bearer {prefix}_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "half a key": "Bearer {prefix}_",
    "upper case": "Bearer {upper}",
    "two keys": "Bearer {key} {key}",
    "SQL": "Bearer mr_' OR 1=1 --_x",
    "NUL": "Bearer mr_\0_\0",
    "odd bytes": "Bearer mr_\xff_\xfe",
    "very long": "Bearer mr_" + "a" * 100_000,
}


@pytest.mark.parametrize("credential", BAD_CREDENTIALS.values(), ids=BAD_CREDENTIALS)
def test_a_bad_credential_is_refused_everywhere(app: Flask, client: KeyClient, credential: str) -> None:
    key = client.key.key
    value = credential.format(key=key, prefix=key.rpartition("_")[0], upper=key.upper())
    for verb, path, _ in guarded_operations(app):
        response = app.test_client().open(
            any_path(path), method=verb, headers={"Authorization": value} if value else None
        )

        assert response.status_code == 401, f"{verb} {path}"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.mimetype == "application/problem+json"
        assert key not in response.text


def test_a_key_in_the_query_does_not_count(app: Flask, client: KeyClient) -> None:
    query = {"api_key": client.key.key, "key": client.key.key, "access_token": client.key.key, "token": client.key.key}

    response = app.test_client().get("/api/v1/jobs", query_string=query)

    assert response.status_code == 401
    assert client.key.key not in response.text


def test_a_revoked_key_is_refused_from_then_on(app: Flask, client: KeyClient) -> None:
    before = client.get("/jobs")
    with app.app_context():
        assert revoke_key(client.key.key.split("_")[1])
        assert not revoke_key(client.key.key.split("_")[1])

    after = client.get("/jobs")

    assert (before.status_code, after.status_code) == (200, 401)


def test_an_expired_key_is_refused(app: Flask) -> None:
    now = datetime.now(UTC)
    statuses = {}
    for expires_at in (now - timedelta(seconds=1), now + timedelta(hours=1)):
        with app.app_context():
            key = create_key("acme", expires_at=expires_at).key
        response = app.test_client().get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"})
        statuses[expires_at > now] = response.status_code

    assert statuses == {False: 401, True: 200}


def test_the_kind_of_credential_is_read_in_any_case(app: Flask, client: KeyClient) -> None:
    response = app.test_client().get("/api/v1/jobs", headers={"Authorization": f"bEARER  {client.key.key} "})

    assert response.status_code == 200


def test_a_key_that_lacks_the_scope_is_refused(app: Flask) -> None:
    clients = {
        scope: KeyClient(app, "acme", tuple(other for other in Scope if other not in {scope, Scope.ADMIN}))
        for scope in Scope
    }
    for verb, path, endpoint in guarded_operations(app):
        scope = required_scope(app, endpoint, verb)
        assert scope is not None

        response = clients[scope].open(verb, any_path(path).removeprefix("/api/v1"))

        assert response.status_code == 403, f"{verb} {path}"
        assert scope in response.get_json()["detail"]


def test_the_one_scope_that_a_route_asks_for_is_enough(app: Flask) -> None:
    clients = {scope: KeyClient(app, "acme", (scope,)) for scope in Scope}
    for verb, path, endpoint in guarded_operations(app):
        scope = required_scope(app, endpoint, verb)
        assert scope is not None

        for granted in {scope} | ({Scope.ADMIN} if scope is not Scope.OPERATOR else set()):
            response = clients[granted].open(verb, any_path(path).removeprefix("/api/v1"))
            assert response.status_code not in {401, 403, 500}, f"{verb} {path}"


def test_a_reading_key_cannot_write(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    reader = KeyClient(app, "acme", (Scope.JOBS_READ, Scope.ARTIFACTS_READ))

    refused = [
        reader.post("/jobs", json={"type": "test.echo"}),
        reader.post("/jobs?validate_only=true", json={"type": "test.echo"}),
        reader.post(f"/jobs/{job['id']}/cancel"),
        reader.post("/artifacts", data={"file": (io.BytesIO(b"x"), "x.txt")}),
    ]

    assert [response.status_code for response in refused] == [403] * 4
    assert client.job(job["id"])["state"] == "queued"
