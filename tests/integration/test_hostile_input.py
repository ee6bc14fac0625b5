"""Input that was made to break us: each has its 4xx, names the place, and leaves nothing behind."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from tests.support.apps import app_that_crashes_quietly
from tests.support.client import KeyClient
from tests.support.database import count_jobs, execute
from tests.support.servers import TestServers

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def app(servers: TestServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One app for the whole table."""
    with app_that_crashes_quietly(servers, tmp_path_factory.mktemp("artifacts")) as app:
        yield app


@pytest.fixture(autouse=True)
def no_jobs(app: Flask) -> None:
    execute(app, "DELETE FROM jobs")


def assert_refused(app: Flask, response: Any, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = response.get_json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert count_jobs(app) == 0
    return problem


def job_with(value: bytes) -> bytes:
    """A job whose argument is this JSON text."""
    return b'{"type": "test.echo", "args": {"value": ' + value + b"}}"


MALFORMED = {
    "nothing but a space": b" ",
    "cut off": b'{"type": "test.echo"',
    "two documents": b'{"type": "test.echo"}{"type": "test.echo"}',
    "single quotes": b"{'type': 'test.echo'}",
    "trailing comma": b'{"type": "test.echo",}',
    "comment": b'{"type": "test.echo"} // now',
    "no text": b"\xff\xfe\x00\x01",
    "latin-1": job_with(b'"\xe9"'),
    "utf-16": '{"type": "test.echo"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + b'{"type": "test.echo"}',
    "overlong utf-8": job_with(b'"\xc0\x80"'),
    "surrogate in utf-8": job_with(b'"\xed\xa0\x80"'),
    "NaN": job_with(b"NaN"),
    "Infinity": job_with(b"Infinity"),
    "-Infinity": job_with(b"[-Infinity]"),
    "1e999": job_with(b"1e999"),
    "-1e999": job_with(b"-1e999"),
    "huge exponent": job_with(b"1e" + b"9" * 5000),
    "huge integer": job_with(b"9" * 100_000),
    "2^63": job_with(b"9223372036854775808"),
    "below -2^63": job_with(b"-9223372036854775809"),
    "NUL in a value": job_with(rb'"a\u0000b"'),
    "NUL in a key": job_with(rb'{"a\u0000b": 1}'),
    "NUL in metadata": rb'{"type": "test.echo", "metadata": {"a": ["\u0000"]}}',
    "raw NUL": job_with(b'"a\x00b"'),
    "raw line break": job_with(b'"a\nb"'),
    "high surrogate": job_with(rb'"\ud800"'),
    "low surrogate": job_with(rb'"\uDFFF"'),
    "surrogates in the wrong order": job_with(rb'"\udc00\ud800"'),
    "surrogate in a key": job_with(rb'{"\ud800": 1}'),
    "surrogate in a tag": rb'{"type": "test.echo", "tags": ["\ud83d"]}',
    "bad escape": job_with(rb'"\x41"'),
    "65 levels": job_with(b"[" * 63 + b"]" * 63),
    "100,000 arrays": job_with(b"[" * 100_000 + b"]" * 100_000),
    "100,000 arrays, open": b"[" * 100_000,
    "100,000 objects, open": b'{"a":' * 100_000,
    "duplicate key": b'{"type": "test.echo", "type": "test.sleep"}',
    "duplicate key, deep": job_with(b'[{"a": 1, "a": 1}]'),
    "duplicate key, escaped": job_with(rb'{"a": 1, "\u0061": 2}'),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_strictly_json_is_refused(app: Flask, client: KeyClient, body: bytes) -> None:
    response = client.post("/jobs", data=body, content_type="application/json")

    problem = assert_refused(app, response, 400)
    assert problem["type"] == "urn:millrace:problem:malformed"
    assert problem["detail"]
    assert len(problem["detail"]) < 300


@pytest.mark.parametrize(
    "body",
    [
        job_with(b"[" * 62 + b"]" * 62),
        job_with(rb'"\ud83d\ude00"'),
        job_with(b"-9223372036854775808"),
        job_with(b"1e308"),
    ],
    ids=["64 levels", "a pair of surrogates", "-2^63", "1e308"],
)
def test_what_is_just_within_the_limits_is_accepted(client: KeyClient, body: bytes) -> None:
    assert client.post("/jobs", data=body, content_type="application/json").status_code == 202


INVALID: dict[str, tuple[Any, str]] = {
    "null": (None, ""),
    "an array": ([{"type": "test.echo"}], ""),
    "a string": ("test.echo", ""),
    "a number": (1, ""),
    "no type": ({}, "/type"),
    "type null": ({"type": None}, "/type"),
    "type a number": ({"type": 5}, "/type"),
    "type an object": ({"type": {"$ne": 1}}, "/type"),
    "unknown type": ({"type": "no.such"}, "/type"),
    "unknown type, long": ({"type": "x" * MEGABYTE}, "/type"),
    "unknown field": ({"type": "test.echo", "shell": "rm"}, "/shell"),
    "field to escape": ({"type": "test.echo", "a/b~c": 1}, "/a~1b~0c"),
    "the tenant": ({"type": "test.echo", "tenant_id": "0193d5a0-7c00-7000-8000-000000000000"}, "/tenant_id"),
    "the state": ({"type": "test.echo", "state": "succeeded"}, "/state"),
    "the origin": ({"type": "test.echo", "origin_id": "0193d5a0-7c00-7000-8000-000000000000"}, "/origin_id"),
    "args null": ({"type": "test.echo", "args": None}, "/args"),
    "args a list": ({"type": "test.echo", "args": []}, "/args"),
    "unknown argument": ({"type": "test.echo", "args": {"width": 1}}, "/args/width"),
    "wrong argument": ({"type": "test.sleep", "args": {"path": ["x"]}}, "/args/path"),
    "two wrong arguments": ({"type": "test.sleep", "args": {"path": 1, "seconds": "x"}}, "/args/seconds"),
    "unknown queue": ({"type": "test.echo", "queue": "celery"}, "/queue"),
    "queue null": ({"type": "test.echo", "queue": None}, "/queue"),
    "priority too high": ({"type": "test.echo", "priority": 101}, "/priority"),
    "priority a fraction": ({"type": "test.echo", "priority": 1.5}, "/priority"),
    "priority true": ({"type": "test.echo", "priority": True}, "/priority"),
    "priority a text": ({"type": "test.echo", "priority": "5"}, "/priority"),
    "timeout 0": ({"type": "test.echo", "timeout": 0}, "/timeout"),
    "timeout of years": ({"type": "test.echo", "timeout": 10**9}, "/timeout"),
    "no attempts": ({"type": "test.echo", "max_attempts": 0}, "/max_attempts"),
    "too many attempts": ({"type": "test.echo", "max_attempts": 101}, "/max_attempts"),
    "delay negative": ({"type": "test.echo", "delay": -1}, "/delay"),
    "delay of centuries": ({"type": "test.echo", "delay": 1e300}, "/delay"),
    "delay a text": ({"type": "test.echo", "delay": "soon"}, "/delay"),
    "delay NaN as text": ({"type": "test.echo", "delay": "NaN"}, "/delay"),
    "delay infinite as text": ({"type": "test.echo", "delay": "1e999"}, "/delay"),
    "delay true": ({"type": "test.echo", "delay": True}, "/delay"),
    "both times": ({"type": "test.echo", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "/delay"),
    "unique key empty": ({"type": "test.echo", "unique_key": ""}, "/unique_key"),
    "unique key long": ({"type": "test.echo", "unique_key": "x" * 256}, "/unique_key"),
    "conflict unknown": ({"type": "test.echo", "on_conflict": "ignore"}, "/on_conflict"),
    "tags a text": ({"type": "test.echo", "tags": "a"}, "/tags"),
    "a tag empty": ({"type": "test.echo", "tags": ["a", ""]}, "/tags/1"),
    "a tag long": ({"type": "test.echo", "tags": ["x" * 101]}, "/tags/0"),
    "a tag null": ({"type": "test.echo", "tags": [None]}, "/tags/0"),
    "too many tags": ({"type": "test.echo", "tags": ["a"] * 21}, "/tags"),
    "metadata a list": ({"type": "test.echo", "metadata": [1]}, "/metadata"),
}
MOMENTS = [
    "tomorrow",
    "",
    "2026-12-01",
    "2026-12-01T08:00:00",
    "0000-01-01T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-12-01T24:00:01Z",
    "2026-12-01T08:00:00+99:00",
    "10000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+14:00",
    1767225600,
    True,
    ["2026-12-01T08:00:00Z"],
]
INVALID |= {f"run_at {moment!r}": ({"type": "test.echo", "run_at": moment}, "/run_at") for moment in MOMENTS}
INVALID |= {
    f"expires_at {moment!r}": ({"type": "test.echo", "expires_at": moment}, "/expires_at") for moment in MOMENTS
}


@pytest.mark.parametrize(("body", "pointer"), INVALID.values(), ids=INVALID)
def test_what_is_not_valid_is_refused_with_its_place(app: Flask, client: KeyClient, body: Any, pointer: str) -> None:
    sent = json.dumps(body)
    for path in ("/jobs", "/jobs?validate_only=true"):
        response = client.post(path, data=sent, content_type="application/json")

        problem = assert_refused(app, response, 422)
        assert pointer in [fault["pointer"] for fault in problem["errors"]]
        assert all(fault["message"] for fault in problem["errors"])


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml", "x"]
)
def test_another_content_type_is_refused(app: Flask, client: KeyClient, content_type: str) -> None:
    response = client.post("/jobs", data=b'{"type": "test.echo"}', content_type=content_type)

    assert_refused(app, response, 415)


def test_a_form_is_refused(app: Flask, client: KeyClient) -> None:
    assert_refused(app, client.post("/jobs", data={"type": "test.echo"}), 415)


@pytest.mark.parametrize("content_type", ["", "application/json"])
def test_no_body_is_refused(app: Flask, client: KeyClient, content_type: str) -> None:
    problem = assert_refused(app, client.post("/jobs", data=b"", content_type=content_type), 422)
    assert [fault["pointer"] for fault in problem["errors"]] == ["/type"]


def test_a_body_that_is_too_large_is_refused(app: Flask, client: KeyClient) -> None:
    body = job_with(b'"' + b"x" * 2 * MEGABYTE + b'"')

    response = client.post("/jobs", data=body, content_type="application/json")

    assert_refused(app, response, 413)


def test_a_body_of_unknown_length_that_is_too_large_is_refused(app: Flask, client: KeyClient) -> None:
    body = io.BytesIO(job_with(b'"' + b"x" * 2 * MEGABYTE + b'"'))
    response = client.post(
        "/jobs",
        input_stream=body,
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    assert_refused(app, response, 413)
    assert body.tell() <= 2 * MEGABYTE + 1  # it was not read to the end first


def test_a_body_of_unknown_length_is_accepted_within_the_limit(client: KeyClient) -> None:
    response = client.post(
        "/jobs",
        input_stream=io.BytesIO(job_with(b"1")),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    assert response.status_code == 202


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("state=bogus", "/state/0"),
        ("state=queued&state=%00", "/state"),
        ("type=%00", "/type"),
        ("queue=a%00b", "/queue"),
        ("tag=%00", "/tag"),
        ("cursor=%00", "/cursor"),
        ("%00=1", "/"),
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=1e3", "/limit"),
        ("limit=" + "9" * 5000, "/limit"),
        ("limit=", "/limit"),
        ("schedule_id=1", "/schedule_id"),
        ("created_after=yesterday", "/created_after"),
        ("created_after=9999-12-31T23:59:59-23:59", "/created_after"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "/created_before"),
        ("cursor=" + "A" * 5000, "/cursor"),
        ("order=id;drop", "/order"),
    ],
)
def test_a_bad_parameter_of_a_list_is_refused_with_its_name(
    app: Flask, client: KeyClient, query: str, pointer: str
) -> None:
    problem = assert_refused(app, client.get(f"/jobs?{query}"), 422)
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]


@pytest.mark.parametrize("query", ["type=%FF%FE", "tag=%ED%A0%80", "type='; DROP TABLE jobs; --", "tag={}", "tag=\\"])
def test_an_odd_parameter_of_a_list_finds_nothing(client: KeyClient, query: str) -> None:
    assert client.get(f"/jobs?{query}").get_json()["items"] == []


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "1e999", "x", ""])
def test_a_bad_wait_is_refused(client: KeyClient, wait: str) -> None:
    job = client.submit()

    response = client.get(f"/jobs/{job['id']}?wait={wait}")

    assert response.status_code == 422
    assert response.get_json()["errors"][0]["pointer"] == "/wait"


@pytest.mark.parametrize("after", ["-1", "x", "1.5", str(2**31)])
def test_a_bad_number_of_an_event_is_refused(client: KeyClient, after: str) -> None:
    job = client.submit()

    assert client.get(f"/jobs/{job['id']}/events?after={after}").status_code == 422


IDS = [
    "x",
    "0",
    "%00",
    "..",
    "%2e%2e%2fetc",
    "x" * 10_000,
    "null",
    "'",
    "0193d5a0-7c00-7000-8000-00000000000g",
    "é",
    "%FF",
]


@pytest.mark.parametrize("bad_id", IDS, ids=range(len(IDS)))
def test_an_id_that_is_none_names_nothing(app: Flask, client: KeyClient, bad_id: str) -> None:
    for path in ("/jobs/{}", "/jobs/{}/result", "/jobs/{}/events", "/artifacts/{}", "/job-types/{}", "/queues/{}"):
        assert_refused(app, client.get(path.format(bad_id)), 404)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "é/\xff;q=\x01"),
        ("Accept", "text/csv;q=nan, */*;q=x"),
        ("Prefer", "wait=\xff"),
        ("Prefer", "wait=" + "9" * 5000),
        ("If-None-Match", '"\xff", W/"unclosed'),
        ("X-Request-ID", "\xe9\x01"),
        ("Content-Encoding", "identity"),
        ("Traceparent", "00-" + "0" * 500),
        ("X-Forwarded-For", "a, b, \xff"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Cookie", "=;=\xff;;"),
        ("Range", "bytes=-\xff"),
    ],
)
def test_an_odd_header_does_no_harm(client: KeyClient, name: str, value: str) -> None:
    job = client.submit()

    answers = [
        client.get("/jobs", headers={name: value}),
        client.get(f"/jobs/{job['id']}", headers={name: value}),
        client.post("/jobs?validate_only=true", json={"type": "test.echo"}, headers={name: value}),
    ]

    assert {answer.status_code for answer in answers} == {200}
