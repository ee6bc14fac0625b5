"""A line for each request, for gunicorn: its own logger collects a hundred values of each request and prints ten."""

from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger


class AccessLogger(Logger):  # type: ignore[misc] # gunicorn ships no types
    """Caller, request, status, bytes, milliseconds."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Write the line. Control characters in the path are escaped, so that nobody can forge one."""
        if self.access_log_enabled:
            self.access_log.info(
                "%s %r %s %s %.1f ms",
                environ.get("REMOTE_ADDR", "-"),
                f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}",
                str(resp.status)[:3],
                resp.sent,
                request_time.total_seconds() * 1000,
            )
