"""Logs: one event per line, as JSON or as text, with the request's and the job's ids; never a job's arguments."""

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any

from flask import g, has_request_context

_CARRIED = ("request_id", "job_id", "job_type", "attempt")


class RequestIdFilter(logging.Filter):
    """Adds the id of the request at hand."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if has_request_context() and not hasattr(record, "request_id"):
            record.request_id = g.get("request_id")
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line; JSON escapes line breaks and control characters, so nobody can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _CARRIED if getattr(record, name, None) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """For people at a terminal: the same, shorter. Control characters are escaped here too."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, or a line and a traceback."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        message = record.getMessage().encode("unicode_escape").decode() if _is_odd(record) else record.getMessage()
        line = f"{moment} {record.levelname:<7} {record.name}: {message}"
        if (job_id := getattr(record, "job_id", None)) and job_id not in message:
            line += f" (job {job_id}, attempt {getattr(record, 'attempt', '?')})"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _is_odd(record: logging.LogRecord) -> bool:
    return not record.getMessage().isprintable()


def configure_logging(*, style: str, level: str) -> None:
    """Send everything to stderr in the chosen style. Call before the app is made."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {"json": {"()": JsonFormatter}, "text": {"()": TextFormatter}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": style, "filters": ["request_id"]},
            },
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                "kombu": {"level": "WARNING"},
                "alembic": {"level": "WARNING"},
                # It logs every ring and every retry with what the handler raised; we log the same without.
                "celery.app.trace": {"level": "WARNING"},
                "celery.worker.strategy": {"level": "WARNING"},
            },
        }
    )
