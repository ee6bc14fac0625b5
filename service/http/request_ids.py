"""A request id for every request: taken over where it is well-formed, made where not, and sent back."""

import re

from flask import Flask, Response, g, request

from service.ids import uuid7

HEADER = "X-Request-ID"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def give_request_ids(app: Flask) -> None:
    """`g.request_id` in every request, and the header in every answer."""

    @app.before_request
    def _take_or_make() -> None:
        sent = request.headers.get(HEADER, "")
        g.request_id = sent if _WELL_FORMED.fullmatch(sent) else str(uuid7())

    @app.after_request
    def _send_back(response: Response) -> Response:
        if "request_id" in g:
            response.headers[HEADER] = g.request_id
        return response
