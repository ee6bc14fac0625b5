"""The Idempotency-Key header (IETF draft-ietf-httpapi-idempotency-key-header)."""

import re
from collections.abc import Callable
from typing import Any

from flask import current_app, request

from service.http.problems import Problem
from service.jobs.new_job import Idempotency, fingerprint

_WELL_FORMED = re.compile(r"[\x21-\x7e]{1,255}")


def idempotency_of_request(body: Callable[[], Any]) -> Idempotency | None:
    """The client's key with the fingerprint of this request, or None without the header. Raises Problem 400.

    `body` is the request's content; it is asked for only where there is a key.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _WELL_FORMED.fullmatch(key):
        raise Problem(400, "malformed", "Idempotency-Key must have 1 to 255 visible ASCII characters, without spaces.")
    kept_hours: int = current_app.config["IDEMPOTENCY_HOURS"]
    return Idempotency(key, fingerprint(request.method, request.path, body()), kept_hours)
