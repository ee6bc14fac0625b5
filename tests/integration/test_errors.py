"""Errors are problems that give nothing away, whatever broke; health tells what is missing; ids go through."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from service.extensions import db
from service.transaction import reading
from tests.support.apps import app_with
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.ports import closed_port


@pytest.fixture
def app(config: dict[str, Any]) -> Iterator[Flask]:
    """As in production: a crash is a 500 and not an exception in the test."""
    with app_with(config, PROPAGATE_EXCEPTIONS=False) as app:
        yield app


def crash() -> None:
    raise ZeroDivisionError("the secret of acme")


@pytest.fixture
def without_database(config: dict[str, Any]) -> Iterator[Flask]:
    url = config["DATABASE_URL"]
    with closed_port() as port:
        gone = f"{url.rpartition('@')[0]}@127.0.0.1:{port}/none"
        with app_with(config, DATABASE_URL=gone, PROPAGATE_EXCEPTIONS=False) as app:
            yield app


def assert_problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = response.get_json()
    assert problem["type"] == f"urn:millrace:problem:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem


def test_a_crash_gives_nothing_away(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.view_functions, "health.livez", crash)

    response = app.test_client().get("/livez")

    assert_problem(response, 500, "internal")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    for word in ("ZeroDivisionError", "secret", "Traceback", "crash"):
        assert word not in response.text


def test_a_database_error_gives_nothing_away(app: Flask, client: KeyClient) -> None:
    execute(app, "ALTER TABLE jobs RENAME COLUMN progress_message TO gone")

    response = client.get("/jobs")

    assert_problem(response, 500, "internal")
    for word in ("SELECT", "progress_message", "psycopg", "ProgrammingError", "sqlalche.me"):
        assert word not in response.text


def test_a_database_that_is_down_is_for_later(without_database: Flask) -> None:
    headers = {"Authorization": "Bearer mr_abc_def"}
    client = without_database.test_client()

    answers = [
        client.get("/api/v1/jobs", headers=headers),
        client.post("/api/v1/jobs", headers=headers, json={"type": "test.echo"}),
        client.get("/api/v1/queues", headers=headers),
    ]

    for response in answers:
        problem = assert_problem(response, 503, "unavailable")
        assert int(response.headers["Retry-After"]) >= 1
        assert "127.0.0.1" not in response.text
        assert "Idempotency-Key" in problem["detail"]


def test_a_statement_that_takes_too_long_is_for_later(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with app_with(config, DATABASE_STATEMENT_TIMEOUT=0.05, PROPAGATE_EXCEPTIONS=False) as app:

        def slow() -> None:
            with reading() as session:
                session.execute(text("SELECT pg_sleep(30)"))

        monkeypatch.setitem(app.view_functions, "health.livez", slow)

        assert_problem(app.test_client().get("/livez"), 503, "unavailable")


def test_a_connection_that_was_cut_is_replaced(app: Flask, client: KeyClient) -> None:
    client.submit()
    with app.app_context(), reading() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        session.connection().invalidate()

    assert client.get("/jobs").status_code == 200


def test_a_standby_that_refuses_writes_is_for_later(app: Flask, client: KeyClient) -> None:
    client.get("/jobs")  # the key's use is on record now, so that only the job is left to be written
    database = app.config["DATABASE_URL"].rpartition("/")[2]
    execute(app, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with app.app_context():
        db.engine.dispose()  # connections made before still write

    assert_problem(client.post("/jobs", json={"type": "test.echo"}), 503, "unavailable")


def test_liveness_needs_nothing(without_database: Flask) -> None:
    response = without_database.test_client().get("/livez")

    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})


def test_without_a_database_it_is_not_ready_and_says_so(without_database: Flask) -> None:
    response = without_database.test_client().get("/readyz")

    assert response.status_code == 503
    assert response.get_json()["status"] == "unavailable"
    assert response.get_json()["checks"]["database"].startswith("down")
    assert response.get_json()["checks"]["broker"] == "ok"


def test_without_a_broker_it_is_ready_but_degraded(config: dict[str, Any]) -> None:
    with closed_port() as port, app_with(config, BROKER_URL=f"redis://127.0.0.1:{port}/0") as app:
        response = app.test_client().get("/readyz")

    assert response.status_code == 200
    assert response.get_json()["status"] == "degraded"
    assert response.get_json()["checks"]["broker"].startswith("down")
    assert response.get_json()["checks"]["database"] == "ok"


def test_with_everything_it_is_ready(app: Flask) -> None:
    checks = {"database": "ok", "broker": "ok"}
    assert app.test_client().get("/readyz").get_json() == {"status": "ok", "checks": checks}


@pytest.mark.parametrize(("verb", "path"), [("PUT", "/api/v1/jobs"), ("DELETE", "/api/v1/jobs/x"), ("POST", "/livez")])
def test_another_verb_is_told_the_right_ones(app: Flask, verb: str, path: str) -> None:
    response = app.test_client().open(path, method=verb)

    assert_problem(response, 405, "method-not-allowed")
    allowed = set(response.headers["Allow"].split(", "))
    assert "GET" in allowed
    assert verb not in allowed


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/api/v2/jobs", "/api/v1/jobs/a/b/c", "/admin"])
def test_an_unknown_path_is_a_problem_too(app: Flask, path: str) -> None:
    assert_problem(app.test_client().get(path), 404, "not-found")


@pytest.mark.parametrize("sent", ["abc", "0193d5a0-7c00-7000-8000-000000000000", "a.b_c:d/e+f=", "x" * 128])
def test_a_request_id_goes_through(client: KeyClient, sent: str) -> None:
    response = client.post("/jobs", json={"type": "test.echo"}, headers={"X-Request-ID": sent})

    assert response.headers["X-Request-ID"] == sent
    (stored,) = execute(client.app, "SELECT request_id FROM jobs")
    assert stored.request_id == sent


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129, "é", "<script>", '"quoted"', "a;b"])
def test_a_malformed_request_id_is_replaced(client: KeyClient, sent: str) -> None:
    response = client.get("/jobs/none", headers={"X-Request-ID": sent})

    problem = assert_problem(response, 404, "not-found")
    assert problem["request_id"] != sent
    assert len(problem["request_id"]) == 36


def test_every_request_has_an_id_of_its_own(client: KeyClient) -> None:
    assert len({client.get("/jobs").headers["X-Request-ID"] for _ in range(3)}) == 3


@pytest.mark.parametrize("path", ["/livez", "/nothing", "/api/v1/jobs", "/docs/"])
def test_every_answer_is_guarded_by_its_headers(app: Flask, path: str) -> None:
    response = app.test_client().get(path, buffered=True)

    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Referrer-Policy"] == "same-origin"
    assert "Server" not in response.headers or "Python" not in response.headers["Server"]
    assert "Strict-Transport-Security" not in response.headers
    secure = app.test_client().get(path, base_url="https://localhost", buffered=True)
    assert "max-age" in secure.headers["Strict-Transport-Security"]


def test_a_problem_is_plain_json(client: KeyClient) -> None:
    problem = json.loads(client.get("/jobs/none").text)

    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
