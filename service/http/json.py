"""JSON out: orjson where it can, the standard library where a number is beyond 64 bits."""

from typing import Any

import orjson
from flask import Response
from flask.json.provider import DefaultJSONProvider


class FastJSONProvider(DefaultJSONProvider):
    """Flask's provider, several times as fast, for the same JSON."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """The object as JSON text."""
        return self._bytes(obj).decode()

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """An answer with the object as its body."""
        return Response(self._bytes(self._prepare_response_obj(args, kwargs)), mimetype=self.mimetype)

    def _bytes(self, obj: Any) -> bytes:
        try:
            return orjson.dumps(obj, default=self.default, option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:
            return super().dumps(obj).encode()
