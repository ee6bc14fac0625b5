"""Reading JSON bodies: strict, so that what was accepted can be stored and read back as it was sent."""

import json
import re
from typing import Any, NoReturn

from flask import Request, g, request
from flask_smorest import Blueprint
from marshmallow import Schema, missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge

from service.http.problems import INVALID_REQUEST, Problem, pointers

# Only bodies that have such an escape need the walk that looks for what PostgreSQL cannot hold.
_SUSPECT = re.compile(rb"\\u(0000|[dD][89a-fA-F])")
MAX_DEPTH = 64


def sent_json() -> Any:
    """The request's JSON before a schema filled in defaults: what makes two requests the same."""
    return g.get("sent_json")


def read_json(raw: bytes) -> Any:
    """The body as JSON. Raises Problem 400 for anything that is not strictly JSON (RFC 8259, I-JSON's rules).

    NaN and Infinity, numbers beyond a double, duplicate names, NUL characters, lone surrogates and deep nesting are
    refused: a naive parser takes them and the database then does not.
    """
    try:
        text = raw.decode()
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
            object_pairs_hook=_without_duplicates,
        )
    except Problem:
        raise
    except UnicodeDecodeError as error:
        raise _malformed(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    except RecursionError:
        raise _malformed(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    _check(value, suspect=bool(_SUSPECT.search(raw)))
    return value


def _check(value: Any, *, suspect: bool) -> None:
    """Bound the depth, and look into strings where the body has a suspect escape. Iterative: depth is hostile."""
    level = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _malformed(f"The body is nested deeper than {MAX_DEPTH} levels.")
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
                if suspect:
                    following.extend(item)
            elif isinstance(item, list):
                following.extend(item)
            elif suspect and isinstance(item, str):
                _check_string(item)
        level = following


def _check_string(value: str) -> None:
    if "\0" in value:
        raise _malformed("A string has a NUL character (\\u0000), which cannot be stored.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _malformed("A string has half of a surrogate pair, which is not Unicode text.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is not JSON.")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise _malformed(f"The number {digits[:40]} is too large.")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= (value := int(digits)) < 1 << 63:  # noqa: PLR2004 - digits of 2^63, a sign
        raise _malformed(f"The number {digits[:40]} does not fit 64 bits; send it as a string.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _malformed(f"The name {name[:100]!r} stands twice in one object.")
            seen.add(name)
    return value


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed", detail)


class StrictParser(FlaskParser):
    """webargs, reading bodies our way and taking unknown fields everywhere as the schema says."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {}  # noqa: RUF012 - as webargs declares it

    def __init__(self) -> None:
        super().__init__()
        self._of_no_query: dict[Schema, dict[str, Any]] = {}

    def parse(self, argmap: Any, req: Request | None = None, *, location: str | None = None, **kwargs: Any) -> Any:
        """As webargs'. Most requests have no query, and what a schema makes of none is found out once."""
        if location != "query" or (req or request).query_string:
            return super().parse(argmap, req, location=location, **kwargs)
        if argmap not in self._of_no_query:
            self._of_no_query[argmap] = super().parse(argmap, req, location=location, **kwargs)
        return dict(self._of_no_query[argmap])

    def load_json(self, req: Request, schema: Any) -> Any:
        """The body as JSON; none where nothing was sent, and then the schema says what is missing.

        Raises Problem 415 for another content type, 400 for what is not strictly JSON.
        """
        raw = req.get_data(cache=True)
        limit = req.max_content_length
        if req.content_length is None and limit is not None and len(raw) >= limit:
            # Werkzeug 3.1 cuts a chunked body off at the limit and says nothing.
            raise RequestEntityTooLarge
        if not raw:
            return missing
        encoding = req.headers.get("Content-Encoding", "identity").strip()
        if encoding.lower() != "identity":
            detail = f"Send the body as it is, without Content-Encoding: {encoding[:40]}."
            raise Problem(415, "unsupported-media-type", detail, headers={"Accept-Encoding": "identity"})
        if not req.is_json:
            raise Problem(415, "unsupported-media-type", "Send the body as JSON, with Content-Type: application/json.")
        g.sent_json = read_json(raw)
        return g.sent_json

    def load_querystring(self, req: Request, schema: Any) -> Any:
        """The query's parameters. Raises Problem 422 for a NUL character: no column can hold one."""
        for name, value in req.args.items(multi=True):
            if "\0" in name or "\0" in value:
                faults = list(pointers({name.replace("\0", ""): ["A NUL character cannot be searched for."]}))
                raise Problem(422, "invalid", INVALID_REQUEST, errors=faults)
        return super().load_querystring(req, schema)


class StrictBlueprint(Blueprint):  # type: ignore[misc] # flask-smorest ships no types
    """A flask-smorest Blueprint whose bodies are parsed strictly."""

    ARGUMENTS_PARSER = StrictParser()

    def arguments(self, schema: type[Schema], **kwargs: Any) -> Any:
        """As flask-smorest's, with the schema made once and not for every request, which costs more than its work."""
        return super().arguments(schema(), **kwargs)
