import base64
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from service.artifacts.storage import ArtifactStorage
from service.ids import uuid7
from service.outgoing import CallFailed
from worker.context import JobContext, PermanentFailure, RetryLater
from worker.tasks.http_request import Args, http_request

RESULT_MAX_BYTES = 1 << 20


@pytest.fixture
def ctx(tmp_path: Path) -> JobContext:
    return JobContext(
        job_id=uuid7(),
        tenant_id=uuid7(),
        job_type="http.request",
        attempt=1,
        max_attempts=5,
        config={"OUTGOING_ALLOW_PRIVATE": True, "RESULT_MAX_BYTES": RESULT_MAX_BYTES},
        make_scratch=lambda: tmp_path,
        storage=ArtifactStorage(tmp_path / "artifacts"),
        report_progress=lambda _percent, _message: None,
        log=logging.LoggerAdapter(logging.getLogger("test.http_request"), {}),
    )


def nested(levels: int) -> list[Any]:
    innermost: list[Any] = []
    for _ in range(levels - 1):
        innermost = [innermost]
    return innermost


def test_called_twice_it_sends_the_same_idempotency_key(ctx: JobContext) -> None:
    with answering(201) as server:
        first = http_request(ctx, url=server.url, method="POST", body="order")
        second = http_request(ctx, url=server.url, method="POST", body="order")

    assert first["status"] == second["status"] == 201
    assert [request.headers["idempotency-key"] for request in server.requests] == [str(ctx.job_id)] * 2


def test_the_callers_own_idempotency_key_and_user_agent_win(ctx: JobContext) -> None:
    with answering(200) as server:
        http_request(ctx, url=server.url, headers={"idempotency-key": "mine", "USER-AGENT": "me"})

    (request,) = server.requests
    assert (request.headers["idempotency-key"], request.headers["user-agent"]) == ("mine", "me")


def test_the_user_agent_names_millrace_and_its_version(ctx: JobContext) -> None:
    with answering(200) as server:
        http_request(ctx, url=server.url)

    assert server.requests[0].headers["user-agent"].startswith("Millrace/")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_the_method_is_sent(ctx: JobContext, method: str) -> None:
    with answering(200) as server:
        http_request(ctx, url=server.url + "path?query=1", method=method)

    assert [(request.method, request.path) for request in server.requests] == [(method, "/path?query=1")]


def test_text_is_sent_as_utf8(ctx: JobContext) -> None:
    with answering(200) as server:
        http_request(ctx, url=server.url, method="POST", body="grüße")

    assert server.requests[0].body == "grüße".encode()


@pytest.mark.parametrize("value", [None, 0, [], {"a": [1, "ü", None]}])
def test_json_is_sent_as_json(ctx: JobContext, value: Any) -> None:
    with answering(200) as server:
        http_request(ctx, url=server.url, method="POST", json=value)

    assert json.loads(server.requests[0].body) == value
    assert server.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'{"a": 1}', {"json": {"a": 1}}),
        ("application/problem+json; charset=utf-8", b"[]", {"json": []}),
        ("application/json", b"not json", {"body": "not json"}),
        ("application/json", b"NaN", {"body": "NaN"}),
        ("application/json", b"[" * 100_000, {"body": "[" * 100_000}),
        ("application/json", b"[" * 64 + b"]" * 64, {"json": nested(64)}),
        ("application/json", b"[" * 65 + b"]" * 65, {"body": "[" * 65 + "]" * 65}),
        ("application/json", b'{"a":' * 300 + b"1" + b"}" * 300, {"body": '{"a":' * 300 + "1" + "}" * 300}),
        ("application/json", rb'"\ud800"', {"body": r'"\ud800"'}),
        ("application/json", rb'"\u0000"', {"body_base64": base64.b64encode(rb'"\u0000"').decode()}),
        ("text/plain", "grüße".encode(), {"body": "grüße"}),
        ("text/plain; charset=latin-1", "grüße".encode("latin-1"), {"body": "grüße"}),
        ("text/plain; charset=unicode_escape", rb"\ud800", {"body_base64": base64.b64encode(rb"\ud800").decode()}),
        ("text/plain; charset=nonsense", b"\xff", {"body_base64": "/w=="}),
        ("text/plain; charset=a\0b", b"x", {"body_base64": "eA=="}),
        ("text/plain; charset*=utf-8''%00a", b"x", {"body_base64": "eA=="}),
        ("text/plain; charset*0*=a\0''%FF; charset*1=b", b"x", {"body_base64": "eA=="}),
        ("text/plain; charset=zlib", b"x", {"body_base64": "eA=="}),
        ("image/png", b"\x89PNG\x00", {"body_base64": base64.b64encode(b"\x89PNG\x00").decode()}),
        ("text/plain", b"a\x00b", {"body_base64": base64.b64encode(b"a\x00b").decode()}),
        ("", b"", {"body": ""}),
    ],
)
def test_the_answer_is_json_text_or_base64(
    ctx: JobContext, content_type: str, body: bytes, expected: dict[str, Any]
) -> None:
    with answering(200, body, headers={"Content-Type": content_type}) as server:
        result = http_request(ctx, url=server.url)

    assert {name: result[name] for name in ("json", "body", "body_base64") if name in result} == expected
    assert result["truncated"] is False
    assert result["elapsed_ms"] >= 0


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"x" * (3 << 20)),
        ("text/plain", "ü".encode() * (1 << 20)),
        ("text/plain", b"x" + "\u20ac".encode() * (1 << 20)),
        ("text/plain", b"\x01" * (3 << 20)),
        ("text/plain", b'"' * (3 << 20)),
        ("application/octet-stream", b"\xff" * (3 << 20)),
        ("application/json", b"[" + b"1e15," * 100_000 + b"0]"),
    ],
    ids=["ascii", "two bytes", "three bytes", "controls", "quotes", "binary", "growing json"],
)
def test_an_answer_however_large_leaves_a_result_that_fits(ctx: JobContext, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type, **{f"X-Filler-{number}": '"' * 5000 for number in range(20)}}

    with answering(200, body, headers=headers) as server:
        result = http_request(ctx, url=server.url)

    assert len(json.dumps(result, ensure_ascii=False).encode()) <= RESULT_MAX_BYTES
    assert result["truncated"] is (len(body) > RESULT_MAX_BYTES // 2)
    if content_type == "text/plain" and "body" in result:
        assert body.decode().startswith(result["body"])


def test_headers_come_back_in_lower_case(ctx: JobContext) -> None:
    with answering(200, headers={"X-Request-Id": "abc"}) as server:
        result = http_request(ctx, url=server.url)

    assert result["headers"]["x-request-id"] == "abc"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_mend_is_tried_again(ctx: JobContext, status: int) -> None:
    with answering(status) as server, pytest.raises(CallFailed, match=str(status)):
        http_request(ctx, url=server.url)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422])
def test_what_no_retry_mends_fails_at_once(ctx: JobContext, status: int) -> None:
    with answering(status) as server, pytest.raises(PermanentFailure, match=str(status)) as failure:
        http_request(ctx, url=server.url)

    assert failure.value.kind == "http_status"


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307])
def test_success_and_redirects_are_answers(ctx: JobContext, status: int) -> None:
    with answering(status, headers={"Location": "/elsewhere"}) as server:
        assert http_request(ctx, url=server.url)["status"] == status

    assert len(server.requests) == 1


def test_an_expected_status_is_an_answer_and_any_other_is_not(ctx: JobContext) -> None:
    with answering(404) as server:
        assert http_request(ctx, url=server.url, expect_status=[404, 503])["status"] == 404
    with answering(200) as server, pytest.raises(PermanentFailure, match="200"):
        http_request(ctx, url=server.url, expect_status=[404])
    with answering(503) as server, pytest.raises(CallFailed, match="503"):
        http_request(ctx, url=server.url, expect_status=[404])


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (lambda _now: "120", 120),
        (lambda _now: "0", 1),
        (lambda _now: "9999999", 3600),
        (lambda now: format_datetime(now + timedelta(seconds=90), usegmt=True), 90),
        (lambda now: format_datetime(now - timedelta(days=1), usegmt=True), 1),
        (lambda now: format_datetime(now + timedelta(days=400), usegmt=True), 3600),
    ],
    ids=["seconds", "at once", "years", "date", "past", "far date"],
)
def test_retry_after_is_honoured_within_bounds(
    ctx: JobContext, status: int, retry_after: Callable[[datetime], str], seconds: float
) -> None:
    now = datetime.now(UTC) + timedelta(hours=5)  # by the far side's clock, which is not ours
    headers = {"Date": format_datetime(now, usegmt=True), "Retry-After": retry_after(now)}

    with answering(status, headers=headers) as server, pytest.raises(RetryLater) as later:
        http_request(ctx, url=server.url)

    assert later.value.after_seconds == pytest.approx(seconds, abs=1)
    assert later.value.kind == "http_status"


@pytest.mark.parametrize("value", ["soon", "-5", "", "1.5", "Wed, 99 Foo 2026 25:61:61 GMT"])
def test_a_retry_after_without_sense_is_an_ordinary_retry(ctx: JobContext, value: str) -> None:
    with answering(503, headers={"Retry-After": value}) as server, pytest.raises(CallFailed):
        http_request(ctx, url=server.url)


def test_a_private_address_fails_at_once_and_names_the_setting(ctx: JobContext) -> None:
    ctx.config = {**ctx.config, "OUTGOING_ALLOW_PRIVATE": False}

    with answering(200) as server, pytest.raises(PermanentFailure, match="OUTGOING_ALLOW_PRIVATE") as failure:
        http_request(ctx, url=server.url)

    assert failure.value.kind == "address_refused"
    assert server.requests == []


def test_secrets_of_the_request_reach_no_log(ctx: JobContext, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    with answering(200, b"canary") as server:
        http_request(ctx, url=server.url + "?key=canary", headers={"Authorization": "canary"}, body="canary")

    assert caplog.messages
    assert "canary" not in caplog.text


def test_arguments_get_their_defaults() -> None:
    assert Args().load({"url": "https://example.com"}) == {
        "url": "https://example.com",
        "method": "GET",
        "headers": {},
        "timeout_seconds": 30,
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://example.com/" + "a" * 2048}, "url"),
        ({"url": None}, "url"),
        ({"method": "CONNECT"}, "method"),
        ({"method": "get"}, "method"),
        ({"headers": {"Host": "other"}}, "headers"),
        ({"headers": {"content-length": "1"}}, "headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers"),
        ({"headers": {"Connection": "close"}}, "headers"),
        ({"headers": {"Proxy-Authorization": "x"}}, "headers"),
        ({"headers": {"X": "a\r\nHost: other"}}, "headers"),
        ({"headers": {"X\r\n": "a"}}, "headers"),
        ({"headers": {"X:": "a"}}, "headers"),
        ({"headers": {"": "a"}}, "headers"),
        ({"headers": {"X": "\u20ac"}}, "headers"),
        ({"headers": {"X": "a" * 8193}}, "headers"),
        ({"headers": {"X": 1}}, "headers"),
        ({"headers": {f"X-{number}": "a" for number in range(51)}}, "headers"),
        ({"body": "a" * ((1 << 20) + 1)}, "body"),
        ({"body": "", "json": None}, "json"),
        ({"expect_status": []}, "expect_status"),
        ({"expect_status": [99]}, "expect_status"),
        ({"expect_status": ["200"]}, "expect_status"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 51}, "timeout_seconds"),
        ({"verify": False}, "verify"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    assert list(Args().validate({"url": "https://example.com", **changes})) == [field]


class Request:
    """What a client sent."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method, self.path = handler.command, handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.body = handler.rfile.read(int(self.headers.get("content-length", 0)))


class Server:
    """A real HTTP server that gives every request the same answer."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        requests: list[Request] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                requests.append(Request(self))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD" and status != 204:
                    try:
                        self.wfile.write(body)
                    except OSError:
                        return  # the client had enough of it

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self.requests = requests
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@contextmanager
def answering(status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None) -> Iterator[Server]:
    server = Server(status, body, headers or {})
    thread = Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
