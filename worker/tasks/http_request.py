"""Call a URL: the job for webhooks of one's own, slow partners and whatever else answers HTTP."""

import base64
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from itertools import chain
from typing import Any

import orjson
from marshmallow import Schema, ValidationError, fields, validate, validates, validates_schema

from service.outgoing import SETTING, AddressRefused, Answer, CallFailed, call
from service.queues import Queue
from worker.context import JobContext, PermanentFailure, RetryLater
from worker.job_task import job

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_URL_LENGTH = 2048
MAX_HEADERS = 50
MAX_HEADER_LENGTH = 8192
MAX_BODY_LENGTH = 1 << 20
MAX_ANSWER_HEADERS_LENGTH = 32_768
MAX_JSON_DEPTH = 64
"""As in requests to the API. Writing JSON of more than 254 levels fails, and around a result there are more to come."""
MAX_TIMEOUT_SECONDS = 50
MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 3600.0
RETRIED_STATUSES = (408, 425, 429)

# They would change where the message ends or whom it is for (RFC 9110, 7.6.1), and that is not the caller's to say.
FORBIDDEN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
ABSENT: Any = object()
"""Tells a `json` that was not given from one that is null."""


class StatusMayMend(CallFailed):
    """The far side answered that it cannot do it now."""

    kind = "http_status"


class Args(Schema):
    """The request to send, and which answers count as success."""

    url = fields.String(
        required=True,
        validate=[
            validate.Length(max=MAX_URL_LENGTH),
            validate.Regexp(r"https?://", re.IGNORECASE, error="Must be an http or https URL."),
        ],
        metadata={"description": "Where to send it. Redirects are not followed."},
    )
    method = fields.String(load_default="GET", validate=validate.OneOf(METHODS))
    headers = fields.Dict(
        keys=fields.String(), values=fields.String(), load_default=dict, validate=validate.Length(max=MAX_HEADERS)
    )
    body = fields.String(
        validate=validate.Length(max=MAX_BODY_LENGTH),
        metadata={"description": "Sent as UTF-8. Not together with json."},
    )
    json = fields.Raw(allow_none=True, metadata={"description": "Sent as application/json. Not together with body."})
    expect_status = fields.List(
        fields.Integer(strict=True, validate=validate.Range(200, 599)),
        validate=validate.Length(min=1, max=50),
        metadata={"description": "Statuses that count as success; without it those from 200 to 399."},
    )
    timeout_seconds = fields.Integer(
        strict=True,
        load_default=30,
        validate=validate.Range(1, MAX_TIMEOUT_SECONDS),
        metadata={"description": "For the whole call, from resolving the name to the last byte of the answer."},
    )

    @validates("headers")
    def _check_headers(self, headers: Mapping[str, str], data_key: str) -> None:
        errors = {name: [error] for name, value in headers.items() if (error := _header_error(name, value))}
        if errors:
            raise ValidationError(errors)

    @validates_schema
    def _check_one_body(self, data: Mapping[str, Any], **_options: Any) -> None:
        if "body" in data and "json" in data:
            raise ValidationError("Give body or json, not both.", "json")


@job(
    "http.request",
    args=Args,
    queue=Queue.DEFAULT,
    timeout=60,
    max_attempts=5,
    autoretry_for=(CallFailed, RetryLater),
    retry_backoff=2,
    retry_backoff_max=600,
    example={"url": "https://example.com/orders", "method": "POST", "json": {"order": 7}},
)
def http_request(
    ctx: JobContext,
    *,
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    json: Any = ABSENT,
    expect_status: Sequence[int] | None = None,
    timeout_seconds: int = 30,
) -> dict[str, Any]:
    """Send one HTTP request and keep the answer.

    Network errors, 408, 425, 429 and 5xx are tried again, after `Retry-After` where the answer has one; any other
    answer of 400 and more fails the job at once. Every attempt sends the same `Idempotency-Key`, the job's id, so
    that the far side can tell a repetition from a second order. Private addresses are refused.
    """
    content = body.encode() if body is not None else orjson.dumps(json) if json is not ABSENT else None
    max_result_bytes = ctx.config["RESULT_MAX_BYTES"]
    started = time.monotonic()
    try:
        answer = call(
            method,
            url,
            headers=_request_headers(ctx, headers or {}, is_json=json is not ABSENT),
            body=content,
            timeout_seconds=timeout_seconds,
            max_bytes=max_result_bytes // 2,  # as Base64 two thirds; the rest is for headers
            allow_private=ctx.config[SETTING],
        )
    except AddressRefused as refusal:
        raise PermanentFailure(str(refusal), kind="address_refused") from refusal
    elapsed_ms = round((time.monotonic() - started) * 1000)
    ctx.log.info("answered %d in %d ms", answer.status, elapsed_ms)
    _judge(answer, expect_status)
    return {
        "status": answer.status,
        "headers": _headers_of(answer),
        **_body_of(answer, max_encoded=max_result_bytes * 3 // 4),
        "truncated": answer.truncated,
        "elapsed_ms": elapsed_ms,
    }


def _header_error(name: str, value: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        return "Not a header name."
    if name.lower() in FORBIDDEN_HEADERS:
        return "This header is not the caller's to set."
    if len(value) > MAX_HEADER_LENGTH:
        return f"Longer than {MAX_HEADER_LENGTH} characters."
    if not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
        return "Only printable characters of Latin-1, without line breaks."
    return None


def _request_headers(ctx: JobContext, given: Mapping[str, str], *, is_json: bool) -> dict[str, str]:
    """The caller's headers, and ours where the caller has none of that name."""
    ours = {
        "Idempotency-Key": str(ctx.job_id),
        "User-Agent": f"Millrace/{version('millrace')}",
        "Accept": "*/*",
        **({"Content-Type": "application/json"} if is_json else {}),
    }
    taken = {name.lower() for name in given}
    return {**given, **{name: value for name, value in ours.items() if name.lower() not in taken}}


def _judge(answer: Answer, expect_status: Sequence[int] | None) -> None:
    """Return for success. Raises PermanentFailure, or CallFailed or RetryLater for what another attempt may mend."""
    status = answer.status
    if status in expect_status if expect_status is not None else status < 400:  # noqa: PLR2004 - RFC 9110
        return
    complaint = f"The answer was {status}."
    if status not in RETRIED_STATUSES and status < 500:  # noqa: PLR2004 - RFC 9110
        raise PermanentFailure(complaint, kind="http_status")
    after_seconds = _retry_after_seconds(answer.headers)
    if after_seconds is not None:
        raise RetryLater(complaint, after_seconds=after_seconds, kind="http_status")
    raise StatusMayMend(complaint)


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for (RFC 9110, 10.2.3), from a second to an hour; None without one that makes sense."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,10}", value):
        return _bounded(float(value))
    try:
        wanted = _parse_date(value)
        # By the clock that wrote the date, if it says what time it has.
        now = _parse_date(headers["date"]) if "date" in headers else datetime.now(UTC)
    except (ValueError, TypeError, IndexError):
        return None
    return _bounded((wanted - now).total_seconds())


def _bounded(after_seconds: float) -> float:
    return min(max(after_seconds, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)


def _parse_date(value: str) -> datetime:
    parsed = parsedate_to_datetime(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _headers_of(answer: Answer) -> dict[str, str]:
    """The headers as far as they fit into a result, without what the database could not store."""
    kept: dict[str, str] = {}
    budget = MAX_ANSWER_HEADERS_LENGTH
    for name, value in answer.headers.items():
        budget -= len(name) + len(value)
        if budget < 0:
            break
        kept[_without_controls(name)] = _without_controls(value)
    return kept


def _without_controls(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+|\\u0000", " ", text)


def _body_of(answer: Answer, *, max_encoded: int) -> dict[str, Any]:
    """`json` where it is JSON, else `body` where it is text, else `body_base64`.

    What the database could not store as JSON or text (a NUL, half a surrogate pair) and what would grow past
    `max_encoded` bytes by its escapes goes as Base64, whose size is known: the far side has done its work, and the
    job must not fail for its answer. JSON nested too deep to be written again goes as the text that it is.
    """
    content_type = Message()
    content_type["content-type"] = answer.headers.get("content-type", "")
    text = _text(answer, content_type)
    if text is not None and "\\u0000" not in text:
        subtype = content_type.get_content_subtype()
        if (subtype == "json" or subtype.endswith("+json")) and not answer.truncated:
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError:
                pass  # it only says that it is JSON
            else:
                if _is_shallow(parsed) and len(orjson.dumps(parsed)) <= max_encoded:
                    return {"json": parsed}
        if len(orjson.dumps(text)) <= max_encoded:
            return {"body": text}
    return {"body_base64": base64.b64encode(answer.body).decode()}


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        groups = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = list(chain.from_iterable(groups))
        if not level:
            return True
    return False


def _text(answer: Answer, content_type: Message) -> str | None:
    body = answer.body
    try:
        charset = content_type.get_content_charset("utf-8")
        if answer.truncated and charset == "utf-8":
            body = re.sub(rb"[\xc0-\xff][\x80-\xbf]{0,3}\Z", b"", body)  # what the limit may have cut in two
        text = body.decode(charset)
        text.encode()  # some encodings can spell half a surrogate pair
    except (ValueError, LookupError):  # not in that encoding, none of that name, or no name at all (it has a NUL)
        return None
    return None if "\0" in text else text
