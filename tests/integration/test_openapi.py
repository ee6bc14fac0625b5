"""The OpenAPI document tells the truth: well-formed, complete, and no status that it does not know."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from marshmallow import Schema, fields

from service.app import create_app
from service.jobs.types import JobType, RetryPolicy, registry
from service.queues import Queue
from tests.support.attempts import break_down, finish, start
from tests.support.client import KeyClient

OPERATIONS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document()


def make_document() -> dict[str, Any]:
    """The document of an app that has no servers: it needs none."""
    settings = {
        "TESTING": True,
        "ENVIRONMENT": "test",
        "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1/none",
        "BROKER_URL": "redis://127.0.0.1/0",
        "SECRET_KEY": "x" * 32,
        "ARTIFACT_DIR": "/nonexistent",
    }
    made: dict[str, Any] = create_app(settings).extensions["openapi"].to_dict()
    return made


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[Any]]]:
    """Every (path, verb, operation, parameters of path and operation)."""
    for path, item in document["paths"].items():
        for verb in OPERATIONS:
            if verb in item:
                yield path, verb, item[verb], [*item.get("parameters", []), *item[verb].get("parameters", [])]


def everything(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {node["$ref"] for node in everything(document) if isinstance(node.get("$ref"), str)}
    assert "#/components/schemas/Problem" in references
    for reference in references:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    for path, verb, operation, parameters in operations(document):
        where = f"{verb} {path}"
        assert operation["summary"], where
        assert operation["tags"], where
        assert all(response.get("description") for response in operation["responses"].values()), where
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in operation["responses"]), where
        assert any(status < "300" for status in operation["responses"]), where
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), where
        names = [(parameter["in"], parameter["name"]) for parameter in parameters]
        assert len(names) == len(set(names)), where
        assert all(parameter.get("schema") is not None for parameter in parameters), where


def test_errors_are_problems(document: dict[str, Any]) -> None:
    for path, verb, operation, _ in operations(document):
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"], f"{verb} {path} {status}"


def test_no_schema_speaks_an_older_dialect(document: dict[str, Any]) -> None:
    for node in everything(document["components"]["schemas"]):
        assert not isinstance(node.get("nullable"), bool)
        assert not isinstance(node.get("exclusiveMinimum"), bool)


def test_every_route_is_in_the_document(document: dict[str, Any], app: Flask) -> None:
    documented = {(verb.upper(), path) for path, verb, _, _ in operations(document)}
    served = {
        (verb, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for verb in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert documented == served


def test_every_status_that_is_answered_is_documented(
    document: dict[str, Any], app: Flask, client: KeyClient, other_client: KeyClient
) -> None:
    seen: set[tuple[str, str, str]] = set()
    templates = {rule.endpoint: re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}

    @app.after_request
    def note(response: Any) -> Any:
        from flask import request  # noqa: PLC0415 - only here is there one

        if request.endpoint in templates:
            seen.add((templates[request.endpoint], request.method.lower(), str(response.status_code)))
        return response

    call_everything(app, client, other_client)

    documented = {
        (path, verb, status) for path, verb, operation, _ in operations(document) for status in operation["responses"]
    }
    assert seen <= documented, seen - documented
    assert len(seen) >= 50


def call_everything(app: Flask, client: KeyClient, other_client: KeyClient) -> None:
    """Every operation, well and badly."""
    queued, ended, failed, running, later = (client.submit() for _ in range(5))
    finish(app, ended["id"])
    break_down(app, failed["id"])
    start(app, running["id"])
    file = client.post("/artifacts", data=b"0123456789").get_json()
    client.submit(args={"value": file["id"]}, delay=60)
    anonymous = app.test_client()
    for job in (queued, ended, failed, running, later):
        path = f"/jobs/{job['id']}"
        tag = client.get(path).headers["ETag"]
        client.get(path, headers={"If-None-Match": tag})
        client.get(f"{path}?wait=x")
        for part in ("", "/result", "/attempts", "/events", "/events?after=x", "/artifacts"):
            client.get(path + part)
            other_client.get(path + part)
            anonymous.get(f"/api/v1{path}{part}")
        for action in ("/retry", "/cancel"):
            other_client.post(path + action)
            client.post(path + action)
        client.post(f"{path}/retry", data=b"{", content_type="application/json")
        client.post(f"{path}/retry", data=b"{", content_type="text/plain")
        client.post(f"{path}/retry", data=b"x" * (3 << 20), content_type="application/json")
        client.post(f"{path}/retry", json={"args": 1})
    client.get(f"/jobs/{ended['id']}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "3"})
    for body in ({"type": "test.echo", "unique_key": "a"}, {"type": "test.echo", "unique_key": "a"}, {}, {"type": "x"}):
        client.post("/jobs", json=body)
    client.post("/jobs", json={"type": "test.echo", "unique_key": "a", "on_conflict": "reject"})
    client.post("/jobs", data=b"{", content_type="application/json")
    client.post("/jobs", data=b"x" * (3 << 20), content_type="application/json")
    client.post("/jobs", data=b"{}", content_type="text/plain")
    client.post("/jobs", json={"type": "test.echo"}, headers={"Idempotency-Key": ""})
    for path in ("/jobs", "/jobs?cursor=x", "/jobs?limit=0", "/job-types", "/job-types/test.echo", "/job-types/x"):
        client.get(path)
        anonymous.get(f"/api/v1{path}")
    for path in ("/queues", "/queues/default", "/queues/x", "/artifacts/x", f"/artifacts/{file['id']}"):
        client.get(path)
        anonymous.get(f"/api/v1{path}")
    content = f"/artifacts/{file['id']}/content"
    tag = client.get(content, buffered=True).headers["ETag"]
    headers: dict[str, str]
    for headers in ({"Range": "bytes=1-2"}, {"Range": "bytes=99-"}, {"If-None-Match": tag}):
        client.get(content, headers=headers, buffered=True)
    client.post("/artifacts", data={"a": "b"}, content_type="multipart/form-data")
    other_client.delete(f"/artifacts/{file['id']}")
    client.delete(f"/artifacts/{file['id']}")
    client.delete(f"/artifacts/{client.post('/artifacts', data=b'x').get_json()['id']}")


class NestedArgs(Schema):
    """An inner part."""

    colour = fields.String(required=True)


class NewArgs(Schema):
    """Arguments that nothing else has."""

    width = fields.Integer(required=True, metadata={"description": "in pixels"})
    inner = fields.Nested(NestedArgs)


@pytest.fixture
def new_type() -> Iterator[JobType]:
    """A job type that is registered for the length of the test."""
    job_type = JobType(
        name="image.resize-now",
        args=NewArgs,
        handler=print,
        queue=Queue.BULK,
        timeout_seconds=5,
        max_attempts=2,
        retry=RetryPolicy(),
        description="Resize an image.",
        example={"width": 640},
    )
    registry.add(job_type)
    yield job_type
    del registry._types[job_type.name]


def test_a_registered_job_type_is_documented_by_that(new_type: JobType, client: KeyClient) -> None:
    made = make_document()

    schema = made["components"]["schemas"]["ImageResizeNowArgs"]
    assert schema["properties"]["width"]["description"] == "in pixels"
    assert schema["required"] == ["width"]
    submit = made["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert submit["examples"]["image.resize-now"]["value"] == {"type": "image.resize-now", "args": {"width": 640}}
    alternatives = made["components"]["schemas"]["NewJob"]["properties"]["args"]["anyOf"]
    assert {"$ref": "#/components/schemas/ImageResizeNowArgs"} in alternatives

    shown = client.get("/job-types/image.resize-now").get_json()
    assert (shown["description"], shown["queue"], shown["timeout"]) == ("Resize an image.", "bulk", 5)
    assert shown["args_schema"]["required"] == ["width"]
    assert shown["args_schema"]["additionalProperties"] is False
    inner = shown["args_schema"]["properties"]["inner"]["$ref"]
    assert shown["args_schema"]["$defs"][inner.removeprefix("#/$defs/")]["required"] == ["colour"]


def test_a_document_knows_nothing_of_another_apps_types(new_type: JobType) -> None:
    assert "ImageResizeNowArgs" in make_document()["components"]["schemas"]

    del registry._types[new_type.name]
    without = make_document()
    registry.add(new_type)

    assert "ImageResizeNowArgs" not in without["components"]["schemas"]


@pytest.mark.parametrize("job_type", list(registry), ids=lambda job_type: job_type.name)
def test_the_example_of_every_job_type_is_valid(job_type: JobType) -> None:
    if job_type.example:
        assert job_type.args().validate(dict(job_type.example)) == {}


def test_the_document_is_served(document: dict[str, Any], app: Flask) -> None:
    response = app.test_client().get("/openapi.json")

    assert response.mimetype == "application/json"
    assert response.get_json() == document


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_docs_page_runs_under_its_own_policy(app: Flask, path: str) -> None:
    client = app.test_client()
    response = client.get(path, follow_redirects=True, buffered=True)

    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    page = response.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "an inline script"
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page), "inline code or style"
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 4
    for asset in assets:
        assert "//" not in asset
        served = client.get(f"/docs/{asset}", buffered=True)
        assert served.status_code == 200
        assert served.mimetype in {"text/javascript", "text/css"}


@pytest.mark.parametrize("path", ["../docs.py", "%2e%2e/docs.py", "..%2fdocs.py", "vendor", "none.js"])
def test_the_docs_serve_their_own_files_only(app: Flask, path: str) -> None:
    response = app.test_client().get(f"/docs/{path}")

    assert response.status_code == 404
    assert response.mimetype == "application/problem+json"


def test_the_docs_can_be_switched_off(config: dict[str, Any]) -> None:
    client = create_app({**config, "DOCS_ENABLED": False}).test_client()

    assert [client.get(path).status_code for path in ("/", "/docs", "/docs/", "/openapi.json")] == [404] * 4
