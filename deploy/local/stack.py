"""The whole stack on one machine: what is started with which settings, and what `stack.json` says of it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import orjson
import redis
import urllib3

from deploy.local import roles
from deploy.local.account import Account, give_to
from deploy.local.engine_record import EngineRecord, write_private
from deploy.local.folder import DataFolder, FolderLock
from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.http import OK, client
from deploy.local.migration import run_migration, schema_is_current
from deploy.local.servers import HOST, PostgresServer, RedisServer, Server, free_port
from deploy.local.supervisor import Part, Supervisor
from service.config import check_environment, unknown_in_environment

DEFAULT_API_PORT = 8000
DEFAULT_FLOWER_PORT = 5555
STAND_INS = {
    "DATABASE_URL": "postgresql+psycopg://",
    "BROKER_URL": "redis://",
    "SECRET_KEY": "x" * 32,
    "ARTIFACT_DIR": "/",
    "ENVIRONMENT": "local",
}
"""For the first look at the settings: those that the stack will provide where they are not set."""
DATABASE_VARIABLE = "MILLRACE_DATABASE_URL"
BROKER_VARIABLE = "MILLRACE_BROKER_URL"
TENANT = "demo"
FLOWER_USER = "operator"
API_KEY = "api_key"


@dataclass
class Stack:
    """A running stack as `stack.json` shows it to scripts and tests."""

    api_url: str
    api_key: str
    docs_url: str
    console_url: str
    flower_url: str
    database_url: str
    redis_url: str
    credentials: dict[str, dict[str, str]]
    settings: dict[str, str] = field(default_factory=dict)
    """The variables that the stack's processes run with, for commands about it."""
    pids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The stack that a `stack.json` describes."""
        return cls(**values)


class LocalStack:
    """Starts a stack on a locked data folder, below a supervisor that then keeps it running."""

    def __init__(
        self,
        folder: DataFolder,
        lock: FolderLock,
        supervisor: Supervisor,
        say: Callable[[str], None],
        *,
        port: int | None,
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._supervisor = supervisor
        self._say = say
        self._asked_port = port
        self._server_account = Account.for_servers()
        self._role_account = _account_for_roles(self._server_account, folder)
        self._environment: dict[str, str] = {}

    def start(self) -> Stack:
        """Start everything; returns when all of it is ready and `stack.json` is written. Raises StartFailure."""
        self._refuse_taken_port()
        database_url, redis_url = self._start_servers()
        self._environment = self._settings(database_url, redis_url)
        self._migrate(database_url)
        api_port, flower_port = self._api_port(), self._flower_port()  # as late as can be: others look for ports too
        self._start_roles(api_port, flower_port)
        stack = Stack(
            api_url=f"http://{HOST}:{api_port}/api/v1",
            api_key=self._folder.kept_secret(API_KEY) or self._make_key(),
            docs_url=f"http://{HOST}:{api_port}/docs/",
            console_url=f"http://{HOST}:{api_port}/docs/",
            flower_url=f"http://{HOST}:{flower_port}/flower/",
            database_url=database_url,
            redis_url=redis_url,
            credentials={"flower": {"user": FLOWER_USER, "password": self._folder.secret("flower_password")}},
            settings={name: value for name, value in self._environment.items() if name.startswith("MILLRACE_")},
        )
        self._supervisor.wait_until_ready()
        if not key_opens(stack.api_url, stack.api_key):
            # The kept key is of another database, or was revoked.
            stack.api_key = self._make_key()
        self._write(stack)
        self._supervisor.on_restart = lambda: self._write(stack)
        return stack

    def _refuse_taken_port(self) -> None:
        if self._asked_port is not None and not port_is_free(self._asked_port):
            raise StartFailure(
                f"The port {self._asked_port} is taken by another program. Choose another with --port, "
                f"or leave --port out to get a free one."
            )

    def _api_port(self) -> int:
        if self._asked_port is not None:
            return self._asked_port
        if port_is_free(DEFAULT_API_PORT):
            return DEFAULT_API_PORT
        chosen = free_port()
        self._say(f"The port {DEFAULT_API_PORT} is taken by another program; the API uses {chosen}.")
        return chosen

    def _flower_port(self) -> int:
        """The usual one, unless it is taken or the API's was chosen by hand: then stacks may run side by side."""
        usual = self._asked_port is None and port_is_free(DEFAULT_FLOWER_PORT)
        return DEFAULT_FLOWER_PORT if usual else free_port()

    def _start_servers(self) -> tuple[str, str]:
        database_url = os.environ.get(DATABASE_VARIABLE, "")
        redis_url = os.environ.get(BROKER_VARIABLE, "")
        above = self._folder.servers(self._server_account)
        if above != self._folder.path and not (database_url and redis_url):
            self._say(
                f"The servers do not run as root and cannot reach {self._folder.path}; their data are in {above}."
            )
        record = EngineRecord(self._folder.engine_record)
        hold = [self._lock.descriptor]
        if not database_url:
            database_url = self._start_server(
                "postgres",
                lambda port: PostgresServer.start(
                    above / "postgres", port=port, record=record, log=self._log("postgres"), hold=hold
                ),
            )
        if redis_url:
            _require_redis(redis_url)
        else:
            redis_url = self._start_server(
                "redis",
                lambda port: RedisServer.start(
                    above / "redis", port=port, record=record, log=self._log("redis"), hold=hold
                ),
            )
        return database_url, redis_url

    def _start_server(self, name: str, start: Callable[[int | None], PostgresServer | RedisServer]) -> str:
        """Put a server under supervision: started again, it keeps its port, so that its URL stays true."""
        port: int | None = None
        url = ""

        def start_part() -> GuardedProcess:
            nonlocal port, url
            server = start(port)
            port, url = server.port, server.url
            return server.process

        stop_signal = PostgresServer.stop_signal if name == "postgres" else Server.stop_signal
        self._supervisor.start(
            Part(name, start_part, self._log(name), stop_signal=stop_signal, stop_grace_seconds=10.0)
        )
        return url

    def _settings(self, database_url: str, redis_url: str) -> dict[str, str]:
        """The environment of every role: ours, with the settings of this stack where nobody set them."""
        artifacts, run = self._folder.artifacts, self._folder.run
        for owned in (artifacts, run, self._folder.cache, self._folder.flower):
            owned.mkdir(exist_ok=True)
            give_to(self._role_account, owned, mode=0o700)
        ours = {
            "MILLRACE_SECRET_KEY": self._folder.secret("secret_key"),
            "MILLRACE_ARTIFACT_DIR": str(artifacts),
            "MILLRACE_LOG_FORMAT": "text",
            "MILLRACE_ENVIRONMENT": "local",
            "MILLRACE_SHUTDOWN_GRACE": str(roles.SHUTDOWN_GRACE_SECONDS),
            "MPLCONFIGDIR": str(self._folder.cache / "matplotlib"),
            "PYTHONUNBUFFERED": "1",
            **os.environ,
            DATABASE_VARIABLE: database_url,
            BROKER_VARIABLE: redis_url,
        }
        return ours if self._role_account is None else {**ours, "HOME": str(self._folder.cache)}

    def _migrate(self, database_url: str) -> None:
        spec = find_spec("migrations")
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not folders:
            raise StartFailure("The package `migrations` is missing: install Millrace again.")
        if not schema_is_current(database_url, Path(folders[0])):
            self._say("Bringing the database to the newest schema.")
            run_migration(self._run, self._log("migrate"))

    def _start_roles(self, api_port: int, flower_port: int) -> None:
        flower = roles.flower(
            flower_port, self._folder.flower, user=FLOWER_USER, password=self._folder.secret("flower_password")
        )
        run = self._folder.run
        self._supervisor.start(self._part(roles.api(api_port)))
        self._supervisor.start(*map(self._part, roles.workers(run)))
        self._supervisor.start(*map(self._part, [roles.beat(run), flower]))

    def _part(self, role: roles.Role) -> Part:
        log = self._log(role.name)

        def start() -> GuardedProcess:
            for sign in role.signs_of_life:
                sign.unlink(missing_ok=True)
            return self._run(role.command, log, role.environment)

        return Part(role.name, start, log, is_ready=role.is_ready, stop_grace_seconds=role.stop_grace_seconds)

    def _run(self, command: tuple[str, ...], log: Path, environment: Mapping[str, str] | None = None) -> GuardedProcess:
        log.touch(mode=0o600)
        with log.open("ab") as output:
            return GuardedProcess.start(
                command,
                output=output,
                environment={**self._environment, **(environment or {})},
                cwd=self._folder.path,
                account=self._role_account,
                hold=[self._lock.descriptor],
            )

    def _make_key(self) -> str:
        """A key for the tenant `demo`, made by the same command that a person would use."""
        made = subprocess.run(  # noqa: S603  # our own command
            [*roles.MILLRACE, "key", "create", "--tenant", TENANT, "--json"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if made.returncode != 0:
            raise StartFailure(f"No API key could be made: {made.stderr.decode(errors='replace').strip()}")
        key = str(orjson.loads(made.stdout)["key"])
        self._folder.keep_secret(API_KEY, key)
        return key

    def _write(self, stack: Stack) -> None:
        stack.pids = {"supervisor": os.getpid(), **self._supervisor.pids}
        write_private(self._folder.stack_file, orjson.dumps(asdict(stack), option=orjson.OPT_INDENT_2).decode() + "\n")

    def _log(self, name: str) -> Path:
        return self._folder.logs / f"{name}.log"


def _require_redis(url: str) -> None:
    """Raises StartFailure where nobody answers; a worker would try for as long as it runs."""
    if urlsplit(url).scheme == "sentinel":
        return  # kombu knows how to ask one
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StartFailure(f"Redis does not answer: {error}. Check its URL.") from error


def look_at_environment() -> list[str]:
    """What to tell of the environment's settings before a stack is started with them. Raises BadSetting."""
    check_environment(**STAND_INS)
    return [*unknown_in_environment(), *_servers_elsewhere()]


def _servers_elsewhere() -> list[str]:
    """A line for people about each server that the environment names in place of one of the stack's own."""
    named = {DATABASE_VARIABLE: "database", BROKER_VARIABLE: "Redis"}
    return [
        f"Using the {server} of {variable} ({_without_secrets(os.environ[variable])}). "
        f"For one of the stack's own: unset {variable}"
        for variable, server in named.items()
        if os.environ.get(variable)
    ]


def _without_secrets(url: str) -> str:
    """Host and port of a URL: passwords may stand before and behind them."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "which is no URL"
    return f"{parts.hostname}{port}"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on that port of 127.0.0.1 now; connections that are closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def key_opens(api_url: str, key: str) -> bool:
    """Whether the API knows the key."""
    with client() as http:
        try:
            answer = http.request("GET", f"{api_url}/jobs?limit=1", headers={"Authorization": f"Bearer {key}"})
        except urllib3.exceptions.HTTPError:
            return False
    return answer.status == OK


def _account_for_roles(account: Account | None, folder: DataFolder) -> Account | None:
    """The servers' user if it reaches our code, our Python and the data folder; else None, and the roles stay root."""
    if account is None or not account.can_enter(folder.path):
        return None
    code_is_open = account.succeeds([sys.executable, "-c", "import service.queues, worker, beat, deploy"])
    return account if code_is_open else None
