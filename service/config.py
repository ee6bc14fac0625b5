"""Settings: the only reader of the environment. A bad one refuses to start, and says what to do.

Every setting below can be given as an environment variable with the prefix `MILLRACE_`
(`MILLRACE_DATABASE_URL=postgresql+psycopg://…`). Values are parsed as JSON where they are JSON, so `true` and `30`
have their types; what is not JSON is text.

Whatever is secret can come from a file instead, so that it stands in no environment: `MILLRACE_DATABASE_URL_FILE=
/run/secrets/database_url`. What the file holds is read as it would be from the variable, without the line break at
its end; a setting that is text stays text, though it be all digits.
"""

import copy
import json
import logging
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flask import Flask

from service.failpoints import BadFailpoint, parse
from service.queues import Queue

Role = Literal["api", "worker", "beat", "cli"]

ENV_PREFIX = "MILLRACE"
REQUIRED = ("DATABASE_URL", "BROKER_URL", "SECRET_KEY", "ARTIFACT_DIR")
"""What has no default. The first two say which installation it is."""


class Defaults:
    """Settings and their defaults. Times in seconds, sizes in bytes."""

    DATABASE_URL = ""
    """PostgreSQL, as `postgresql+psycopg://user:password@host:port/name`."""
    DATABASE_POOL_SIZE = 20
    """Connections kept open per process; the sum over all processes must stay below `max_connections`."""
    DATABASE_POOL_OVERFLOW = 0
    """Connections beyond those; each is closed as soon as it is returned, and opening one costs ten statements."""
    DATABASE_POOL_TIMEOUT = 2.0
    """How long a request waits for a free connection, or for its turn to share one, before it is answered 503."""
    DATABASE_CONNECT_TIMEOUT = 3
    DATABASE_STATEMENT_TIMEOUT = 15.0
    DATABASE_LOCK_TIMEOUT = 5.0
    DATABASE_PREPARE = True
    """Set to false behind PgBouncer in transaction mode."""
    BROKER_URL = ""
    """Redis, as `redis://:password@host:port/0` (also `rediss://` and `sentinel://`)."""
    SECRET_KEY = ""

    LEASE_SECONDS = 30.0
    LEASE_RENEW_SECONDS = 5.0
    HARD_TIMEOUT_GRACE = 10.0
    """Between a job's timeout, which the handler sees as an exception, and the kill of its process."""
    SHUTDOWN_GRACE = 20.0
    """How long a stopping worker lets running jobs finish before it gives them back."""

    CLOCK_LEASE_SECONDS = 10.0
    CLOCK_TICK_SECONDS = 0.5
    DISPATCH_WINDOW = 1000
    """Rung jobs held in the broker per queue; the rest of the backlog waits in PostgreSQL."""
    RING_AGAIN_SECONDS = 300.0
    """First wait before a job is rung again although the broker seems to hold its ring; it doubles each time. What the
    broker does not hold any more is rung again within seconds."""
    RETENTION_DAYS = 30
    """Final jobs, their events, attempts and artifacts are deleted after so many days."""
    IDEMPOTENCY_HOURS = 72
    """How long a repeat with the same `Idempotency-Key` is answered with the first one's job."""

    ARTIFACT_DIR = ""
    ARTIFACT_MAX_BYTES = 1 << 30
    RESULT_MAX_BYTES = 1 << 20
    MAX_CONTENT_LENGTH = 2 << 20
    """Largest request body, uploads of artifacts and batches excepted."""
    BATCH_MAX_JOBS = 10_000
    """Most jobs of one batch, and with 2,048 bytes for each its largest body."""
    WAIT_MAX_SECONDS = 60
    HELD_REQUESTS = 600
    """Most requests that an API process holds at a time, for `wait` and event streams. Of all kinds it takes 1,000."""
    HELD_REQUESTS_PER_TENANT = 200
    """Of those, most of one tenant's; one more is answered 429."""
    STREAM_SECONDS = 300.0
    """An event stream ends after so long; an EventSource connects again and goes on where it was."""

    OUTGOING_ALLOW_PRIVATE = False
    """Whether jobs may call loopback and private addresses."""
    PROXY_FIX_FOR = 0
    """How many trusted proxies set `X-Forwarded-For`, `-Proto`."""
    DOCS_ENABLED = True

    LOG_FORMAT = "json"
    LOG_LEVEL = "INFO"
    SENTRY_DSN = ""
    ENVIRONMENT = "production"
    FAILPOINTS = ""
    """Where the process dies, sleeps or stumbles, for tests of faults (`service/failpoints.py`). Not in production."""
    HEARTBEAT_FILE = ""
    """A file that worker and beat touch while they are healthy, for health checks of containers."""


BOUNDS: Mapping[str, tuple[float, float]] = {
    "DATABASE_POOL_SIZE": (1, 1000),
    "DATABASE_POOL_OVERFLOW": (0, 1000),
    "DATABASE_POOL_TIMEOUT": (0.1, 60),
    "DATABASE_CONNECT_TIMEOUT": (1, 60),
    "DATABASE_STATEMENT_TIMEOUT": (0.01, 3600),
    "DATABASE_LOCK_TIMEOUT": (0.01, 600),
    "LEASE_SECONDS": (1, 3600),
    "LEASE_RENEW_SECONDS": (0.05, 1200),
    "HARD_TIMEOUT_GRACE": (1, 3600),
    "SHUTDOWN_GRACE": (0, 86_400),
    "CLOCK_LEASE_SECONDS": (1, 600),
    "CLOCK_TICK_SECONDS": (0.01, 60),
    "DISPATCH_WINDOW": (1, 10_000_000),
    "RING_AGAIN_SECONDS": (1, 86_400),
    "RETENTION_DAYS": (1, 36_500),
    "IDEMPOTENCY_HOURS": (1, 876_000),
    "ARTIFACT_MAX_BYTES": (1, 1 << 50),
    "RESULT_MAX_BYTES": (1, 200 << 20),
    "MAX_CONTENT_LENGTH": (1, 1 << 30),
    "BATCH_MAX_JOBS": (1, 100_000),
    "WAIT_MAX_SECONDS": (0, 3600),
    "HELD_REQUESTS": (1, 1000),
    "HELD_REQUESTS_PER_TENANT": (1, 1000),
    "STREAM_SECONDS": (0.01, 86_400),
    "PROXY_FIX_FOR": (0, 10),
}
"""From and to, of every setting that is a number."""
SECRET = frozenset({"DATABASE_URL", "BROKER_URL", "SECRET_KEY", "SENTRY_DSN"})
"""What no message shows."""
BROKERS = ("redis", "rediss", "sentinel")
OTHERS = frozenset({"BIND", "IMAGE", "PORT", "POSTGRES_PORT", "REDIS_PORT", "REVISION", "SECRETS", "TAG", "TLS_PORT"})
"""Variables with our prefix that are for compose files and images."""


class BadSetting(Exception):
    """Settings are missing or wrong. The message has a line for each, which names it and says what to do."""


def load_config(app: Flask, role: Role, overrides: Mapping[str, Any] | None) -> None:
    """Fill `app.config`: defaults, then the environment, then `overrides`; check it; derive what libraries want.

    Raises BadSetting. `overrides` wins, so no variable of the environment can change what a test asked for.
    """
    defaults = {name: copy.deepcopy(value) for name, value in vars(Defaults).items() if name.isupper()}
    app.config.from_mapping(defaults)
    app.config.from_prefixed_env(ENV_PREFIX)
    app.config.from_mapping(_from_files(defaults))
    app.config.from_mapping(overrides or {})
    _check(app.config, defaults)
    app.config.update(_flask_sqlalchemy(app.config, role))
    app.config["CELERY"] = celery_settings(app.config, role)
    app.config["RATELIMIT_HEADERS_ENABLED"] = True


def missing_in_environment() -> list[str]:
    """The variables without which nothing starts and that are not set, neither themselves nor as `…_FILE`."""
    variables = [f"{ENV_PREFIX}_{name}" for name in REQUIRED]
    return [variable for variable in variables if not (os.environ.get(variable) or os.environ.get(f"{variable}_FILE"))]


def values_of(variables: Mapping[str, str]) -> dict[str, Any]:
    """Settings, as `load_config` takes them, from variables of an environment that is not this process' own."""
    return {name.removeprefix(f"{ENV_PREFIX}_"): _as_json(text) for name, text in variables.items()}


def _from_files(defaults: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, default in defaults.items():
        variable = f"{ENV_PREFIX}_{name}_FILE"
        path = os.environ.get(variable)
        if not path:
            continue
        if f"{ENV_PREFIX}_{name}" in os.environ:
            raise BadSetting(f"{ENV_PREFIX}_{name} and {variable} are both set. Unset one of them.")
        try:
            text = Path(path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise BadSetting(f"{variable} names {path}, which cannot be read: {reason}.") from None
        values[name] = text if isinstance(default, str) else _as_json(text)
    return values


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # as from_prefixed_env does; the check of its kind says what it should have been


def _check(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises BadSetting with a line for everything that is wrong."""
    problems = [*_wrong_kinds(config, defaults), *_missing(config)]
    problems = problems or [*_wrong_values(config), *_not_for_production(config)]
    if problems:
        raise BadSetting("\n".join(problems))


def _wrong_kinds(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, default in defaults.items():
        value = config[name]
        expected = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, expected) or (isinstance(value, bool) and not isinstance(default, bool)):
            shown = type(value).__name__ if name in SECRET else repr(value)
            hint = " Quote it, so that it is read as text." if isinstance(default, str) else ""
            yield f"{ENV_PREFIX}_{name} must be {_kind(default)}, not {shown}.{hint}"
        elif name in BOUNDS:
            least, most = BOUNDS[name]
            if not least <= value <= most:  # nor is NaN
                yield f"{ENV_PREFIX}_{name} must be from {least:,} to {most:,}, not {value:,}."


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    missing = [f"{ENV_PREFIX}_{name}" for name in REQUIRED if not config[name]]
    if missing:
        names = ", ".join(missing)
        yield f"Not set: {names}. `millrace up` sets them for what it starts; elsewhere, set them yourself."


def _wrong_values(config: Mapping[str, Any]) -> Iterator[str]:
    if len(config["SECRET_KEY"]) < 32:  # noqa: PLR2004 - 256 bits in hex would be 64; 32 characters is the least we accept
        yield f"{ENV_PREFIX}_SECRET_KEY is shorter than 32 characters. Make one: openssl rand -hex 32"
    if urlsplit(config["DATABASE_URL"]).scheme != "postgresql+psycopg":
        yield f"{ENV_PREFIX}_DATABASE_URL must begin with postgresql+psycopg:// (psycopg 3)."
    if urlsplit(config["BROKER_URL"]).scheme not in BROKERS:
        yield f"{ENV_PREFIX}_BROKER_URL must begin with {':// or '.join(BROKERS)}://."
    if not Path(config["ARTIFACT_DIR"]).is_absolute():
        yield f"{ENV_PREFIX}_ARTIFACT_DIR must be an absolute path, the same folder for API and workers."
    if config["LEASE_RENEW_SECONDS"] * 3 > config["LEASE_SECONDS"]:
        yield f"{ENV_PREFIX}_LEASE_SECONDS must be at least three times {ENV_PREFIX}_LEASE_RENEW_SECONDS."
    if config["RETENTION_DAYS"] * 24 < config["IDEMPOTENCY_HOURS"]:
        yield (
            f"{ENV_PREFIX}_RETENTION_DAYS must cover {ENV_PREFIX}_IDEMPOTENCY_HOURS ({config['IDEMPOTENCY_HOURS']}): "
            "while a key is kept, its repeats are answered with its job."
        )
    if config["LOG_LEVEL"] not in logging.getLevelNamesMapping():
        yield f"{ENV_PREFIX}_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, not {config['LOG_LEVEL']!r}."
    if config["LOG_FORMAT"] not in {"json", "text"}:
        yield f"{ENV_PREFIX}_LOG_FORMAT must be json or text, not {config['LOG_FORMAT']!r}."


def _not_for_production(config: Mapping[str, Any]) -> Iterator[str]:
    if config["DEBUG"] and config["ENVIRONMENT"] == "production":
        yield f"{ENV_PREFIX}_DEBUG is on in production. Unset it, or set {ENV_PREFIX}_ENVIRONMENT=development."
    if config["FAILPOINTS"] and config["ENVIRONMENT"] == "production":
        yield f"{ENV_PREFIX}_FAILPOINTS makes processes die on purpose: unset it in production."
    try:
        parse(config["FAILPOINTS"])
    except BadFailpoint as error:
        yield f"{ENV_PREFIX}_FAILPOINTS: {error}"


def check_environment(**elsewhere: str) -> None:
    """Look at the environment's settings before anything is started with them. Raises BadSetting.

    `elsewhere` are settings that it need not have, because whoever asks will add them where they are not set.
    """
    added = {name: value for name, value in elsewhere.items() if not os.environ.get(f"{ENV_PREFIX}_{name}")}
    load_config(Flask(__name__), "cli", {name: added[name] for name in added if not _has_file(name)})


def _has_file(name: str) -> bool:
    return bool(os.environ.get(f"{ENV_PREFIX}_{name}_FILE"))


def unknown_in_environment() -> list[str]:
    """A line for every variable of the environment that looks like a setting and is none."""
    known = {name for name in vars(Defaults) if name.isupper()} | Flask.default_config.keys() | OTHERS
    lines = []
    for variable in sorted(os.environ):
        name = variable.removeprefix(f"{ENV_PREFIX}_").removesuffix("_FILE")
        if not variable.startswith(f"{ENV_PREFIX}_") or name in known or "__" in name:
            continue
        close = get_close_matches(name, known, n=1)
        meant = f" Is {ENV_PREFIX}_{close[0]} meant?" if close else ""
        lines.append(f"{variable} is no setting of this release, and has no effect.{meant}")
    return lines


def _kind(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    return "a number" if isinstance(default, float) else "text"


def _flask_sqlalchemy(config: Mapping[str, Any], role: Role) -> dict[str, Any]:
    def milliseconds(name: str) -> int:
        return int(config[name] * 1000)

    session_settings = " ".join(
        f"-c {name}={value}"
        for name, value in {
            "timezone": "UTC",
            "statement_timeout": milliseconds("DATABASE_STATEMENT_TIMEOUT"),
            "lock_timeout": milliseconds("DATABASE_LOCK_TIMEOUT"),
            "idle_in_transaction_session_timeout": 60_000,
            # A plan that is made while a table is tiny reads it whole, and prepared statements and foreign keys keep
            # it: in the first burst of a young installation each job would then cost as much as all before it.
            "enable_seqscan": "off",  # where there is an index
            "jit": "off",  # for statements of milliseconds, compiling is most of the time
            "application_name": f"millrace-{role}",
        }.items()
    )
    return {
        "SQLALCHEMY_DATABASE_URI": config["DATABASE_URL"],
        "SQLALCHEMY_ENGINE_OPTIONS": {
            "hide_parameters": True,  # arguments are the customer's: an error's text must not carry them into a log
            "pool_recycle": 1800,
            "pool_use_lifo": True,  # a few connections are used again and again, and their statements stay prepared
            "pool_size": config["DATABASE_POOL_SIZE"] if role == "api" else 2,
            "max_overflow": config["DATABASE_POOL_OVERFLOW"] if role == "api" else 2,
            "pool_timeout": config["DATABASE_POOL_TIMEOUT"] if role == "api" else 10.0,
            "connect_args": {
                "connect_timeout": config["DATABASE_CONNECT_TIMEOUT"],
                "options": session_settings,
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                # Keepalives are silent while a statement is under way to a host that has vanished; this bounds that.
                "tcp_user_timeout": 20_000,
                "prepare_threshold": 5 if config["DATABASE_PREPARE"] else None,
            },
        },
    }


def celery_settings(config: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Celery's configuration for one role. The API must never wait for a broker; workers must never give it up."""
    patient = role in {"worker", "beat"}
    transport: dict[str, Any] = {
        "socket_keepalive": True,
        "global_keyprefix": "",
    }
    if role == "worker":
        transport |= {"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 10}
    else:
        # Bounded well under half a second even where Redis is frozen: a ring may fail, the dispatcher rings again.
        transport |= {
            "socket_timeout": 0.25,
            "socket_connect_timeout": 0.25,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.1,
        }
    return {
        "broker_url": config["BROKER_URL"],
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None if patient else 1,
        # Flower runs on the worker's app. Looking at workers takes two connections per question, eight questions at
        # once, beside the one for events: with fewer than these it waits for itself, for ever (flower 2.2.0).
        "broker_pool_limit": 32 if role == "worker" else 4,
        "result_backend": "service.jobs.result_backend:JobsBackend",
        "task_ignore_result": True,
        "task_publish_retry": False,
        "task_default_queue": Queue.DEFAULT.value,
        "task_create_missing_queues": False,
        "task_queues": {queue.value: {"exchange": "", "routing_key": queue.value} for queue in Queue},
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_track_started": False,
        "task_send_sent_event": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "event_serializer": "json",
        "worker_pool": "worker.pool:TaskPool",
        "worker_consumer": "worker.consumer:Consumer",
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_max_tasks_per_child": 5000,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0.0,
        "worker_enable_remote_control": True,
        "beat_scheduler": "beat.scheduler:ClockScheduler",
        "timezone": "UTC",
        "enable_utc": True,
    }


def environment_with(values: Mapping[str, Any]) -> dict[str, str]:
    """This process' environment with the given settings put in, for starting children."""
    return {**os.environ, **{f"{ENV_PREFIX}_{name}": str(value) for name, value in values.items()}}
