"""A private PostgreSQL and a private Redis-compatible server, for `millrace up` and for the tests.

Both listen on 127.0.0.1 only and ask for a password; both end when the Python process that started them ends,
however it ends. As root they run as an unprivileged user, who is given the folder and nothing above it.
"""

import json
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from deploy.local.account import Account, give_to
from deploy.local.binaries import ServerBinary, find_postgres, find_redis
from deploy.local.engine_record import EngineRecord, write_private
from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.logs import appending, last_lines

HOST = "127.0.0.1"
SUPERUSER = "postgres"
USER = "millrace"
DATABASE = "millrace"
START_SECONDS = 60
"""How long a server may take to answer: recovery after a crash is the slow case."""
STOP_SECONDS = 10
START_ATTEMPTS = 4
SERVER_PORTS = range(20_000, 32_000)
FREE_PORT_TRIES = 50
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
BUILTIN_LOCALE_SINCE = 17
RETRIED_FAILURES = re.compile(
    r"shared memory block|lock file .* already exists|could not bind|[Aa]ddress already in use|listening TCP socket"
)
"""What the log says of a start that a moment's patience or another port mends: an old shared memory block or lock
after a kill -9 whose last processes are still ending, or somebody was quicker to take the free port."""


class Server:
    """A running server; as a context manager it is stopped at the end of the block."""

    stop_signal = signal.SIGTERM

    def __init__(self, process: GuardedProcess, *, port: int, password: str, engine: ServerBinary) -> None:
        self.process = process
        self.port = port
        self.password = password
        self.engine = engine

    @property
    def pid(self) -> int:
        """The process id of the server itself (not of its guard)."""
        return self.process.pid

    def stop(self) -> None:
        """Shut down, cleanly if it can within ten seconds; nothing of it is left. Harmless when it has ended."""
        self.process.stop(self.stop_signal, grace_seconds=STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL the server and wait until it and everything below it is gone. Its data stay; start it again."""
        self.process.send(signal.SIGKILL)
        self.process.stop(signal.SIGKILL, grace_seconds=STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class PostgresServer(Server):
    """A private PostgreSQL. The user `millrace` owns the database `millrace` and may make others."""

    # SIGTERM would wait until the last client has gone; this is PostgreSQL's fast shutdown.
    stop_signal = signal.SIGINT
    superuser_password: str

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database `millrace`, as the user `millrace`."""
        return self.url_of(DATABASE)

    @property
    def admin_url(self) -> str:
        """As `url`, but of the database `postgres`: from there other databases are made and dropped."""
        return self.url_of("postgres")

    @property
    def superuser_url(self) -> str:
        """The database `postgres` as the superuser, for what an ordinary user may not do."""
        return f"postgresql+psycopg://{SUPERUSER}:{self.superuser_password}@{HOST}:{self.port}/postgres"

    def url_of(self, database: str) -> str:
        """SQLAlchemy's URL of any database of this server, as the user `millrace`."""
        return f"postgresql+psycopg://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        durable: bool = True,
        settings: Sequence[str] = (),
        record: EngineRecord | None = None,
        port: int | None = None,
        log: Path | None = None,
        hold: Sequence[int] = (),
    ) -> Self:
        """Start PostgreSQL on the folder, which is made and filled (initdb) if need be, and wait until it answers.

        `durable=False` is for tests: it answers before anything is on the disk. `settings` are further `name=value`
        pairs; `hold` as in GuardedProcess.start. Raises StartFailure with one line for people.
        """
        folder = folder.absolute()
        account = _take_folder(folder)
        record = record or EngineRecord(folder / "engine.json")
        data = folder / "data"
        binary = _binary_for_postgres(data, record, account)
        passwords = _passwords(folder, SUPERUSER, USER)
        log = log or folder / "server.log"
        if not data.exists():
            record.write("postgres", binary)
            _initdb(binary, folder, account, password=passwords[SUPERUSER], durable=durable)

        all_settings = [
            f"listen_addresses={HOST}",
            "unix_socket_directories=",
            "password_encryption=scram-sha-256",
            "timezone=UTC",
            "log_timezone=UTC",
            "logging_collector=off",
            *(() if durable else NOT_DURABLE),
            *settings,
        ]
        for attempt in range(1, START_ATTEMPTS + 1):
            chosen_port = port or free_port()
            with appending(log, account) as (output, new_lines):
                process = GuardedProcess.start(
                    [binary.path, "-D", data, *_options([f"port={chosen_port}", *all_settings])],
                    output=output,
                    environment=_clean_environment(),
                    cwd=folder,
                    account=account,
                    orphan_signal=cls.stop_signal,
                    hold=hold,
                )
                server = cls(process, port=chosen_port, password=passwords[USER], engine=binary)
                server.superuser_password = passwords[SUPERUSER]
                if server._answers():
                    return server
                process.kill_everything()
                said = new_lines()
            if not RETRIED_FAILURES.search(said) or attempt == START_ATTEMPTS:
                raise StartFailure(f"PostgreSQL did not start; the end of {log}:\n{last_lines(said)}")
            time.sleep(0.5 * attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _answers(self) -> bool:
        """Wait until the database `millrace` is there for its user; False if the server ended or took too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            try:
                with psycopg.connect(
                    host=HOST,
                    port=self.port,
                    user=SUPERUSER,
                    password=self.superuser_password,
                    dbname="postgres",
                    autocommit=True,
                    connect_timeout=5,
                ) as connection:
                    self._make_role_and_database(connection)
            except psycopg.OperationalError:
                # Not listening yet, or still replaying its log.
                time.sleep(0.02)
            else:
                return True
        return False

    def _make_role_and_database(self, connection: psycopg.Connection) -> None:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [USER]).fetchone() is None:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(sql.Identifier(USER), self.password)
            )
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(USER))
            )


class RedisServer(Server):
    """A private Valkey or Redis that keeps what it is told (append-only file, written each second, no eviction)."""

    @property
    def url(self) -> str:
        """The URL of its database 0, with the password."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        port: int | None = None,
        extra_args: Sequence[str] = (),
        record: EngineRecord | None = None,
        log: Path | None = None,
        hold: Sequence[int] = (),
    ) -> Self:
        """Start the server on the folder, on a free port unless one is given, and wait until it answers.

        Password and data are those of the last start on the same folder. `extra_args` are the server's own, such as
        `["--maxmemory", "1mb"]`. Raises StartFailure with one line for people.
        """
        folder = folder.absolute()
        account = _take_folder(folder)
        record = record or EngineRecord(folder / "engine.json")
        engine, major = record.read("redis") or (None, None)
        binary = find_redis(account, engine=engine, major=major)
        if engine is None:
            record.write("redis", binary)
        password = _passwords(folder, "default")["default"]
        log = log or folder / "server.log"

        for attempt in range(1, START_ATTEMPTS + 1):
            chosen_port = port or free_port()
            configuration = _redis_configuration(folder, account, port=chosen_port, password=password)
            with appending(log, account) as (output, new_lines):
                process = GuardedProcess.start(
                    [binary.path, configuration, *extra_args],
                    output=output,
                    environment=_clean_environment(),
                    cwd=folder,
                    account=account,
                    hold=hold,
                )
                server = cls(process, port=chosen_port, password=password, engine=binary)
                if server._answers():
                    return server
                process.kill_everything()
                said = new_lines()
            if not RETRIED_FAILURES.search(said) or attempt == START_ATTEMPTS:
                raise StartFailure(f"{binary.engine} did not start; the end of {log}:\n{last_lines(said)}")
            time.sleep(0.2 * attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            try:
                with socket.create_connection((HOST, self.port), timeout=1) as connection:
                    connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                    answer = connection.recv(1024)
                    while answer.count(b"\r\n") < len(("AUTH", "PING")):
                        answer += connection.recv(1024) or b"\r\n"
            except OSError:
                time.sleep(0.02)
                continue
            if b"+PONG" in answer:
                return True
            # It loads its data (-LOADING), or another program took the port (then ours has ended: seen above).
            time.sleep(0.05)
        return False


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago; who needs it must be ready for somebody being quicker.

    Below the range from which systems take the ports of outgoing connections: one of those could have it in the
    seconds until a server binds it.
    """
    for _ in range(FREE_PORT_TRIES):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, secrets.choice(SERVER_PORTS)))
            return int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _take_folder(folder: Path) -> Account | None:
    """Make the folder, hand it to the servers' user, and be sure that this user reaches it."""
    account = Account.for_servers()
    folder.mkdir(parents=True, exist_ok=True)
    give_to(account, folder, mode=0o700)
    if account is not None and not account.can_enter(folder):
        raise StartFailure(
            f"Servers do not run as root, and the user {account.name!r} cannot reach {folder}: a folder above it is "
            f"closed to others. Choose a folder that is open to pass through, such as /var/lib/millrace."
        )
    return account


def _binary_for_postgres(data: Path, record: EngineRecord, account: Account | None) -> ServerBinary:
    if not data.exists():
        return find_postgres(account)
    written = int((data / "PG_VERSION").read_text())
    engine, major = record.read("postgres") or ("postgresql", written)
    if major != written:
        raise StartFailure(
            f"{data} was written by PostgreSQL {written}, but {record.path} says {major}: the folder was exchanged. "
            f"Put the right one back, or start on another folder with --dir."
        )
    return find_postgres(account, engine=engine, major=major)


def _passwords(folder: Path, *users: str) -> dict[str, str]:
    """The servers' passwords, made at the first start. They are kept 0600, and none of them looks like a JSON value."""
    path = folder / "passwords.json"
    if not path.exists():
        write_private(path, json.dumps({user: f"pw_{secrets.token_urlsafe(24)}" for user in users}))
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def _initdb(binary: ServerBinary, folder: Path, account: Account | None, *, password: str, durable: bool) -> None:
    """Make `folder/data`, whole or not at all."""
    working = folder / "data.new"
    if working.exists():
        # An earlier initdb was interrupted: nothing in there was ever used.
        subprocess.run(["/bin/rm", "-rf", "--", working], check=True)  # noqa: S603  # our own working folder
    working.mkdir()
    give_to(account, working, mode=0o700)
    password_file = folder / "initdb-password"
    write_private(password_file, password)
    give_to(account, password_file, mode=0o600)
    locale = ["--locale=C"]
    if binary.major >= BUILTIN_LOCALE_SINCE:
        # Knows upper and lower case beyond ASCII without asking the machine for a locale.
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        done = subprocess.run(  # noqa: S603  # the binary that we chose
            [
                *(binary.path.parent / "initdb", "-D", working, f"--username={SUPERUSER}"),
                *(f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"),
                *([] if durable else ["--no-sync"]),
                *locale,
            ],
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            cwd=folder,
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password_file.unlink()
    if done.returncode != 0:
        raise StartFailure(f"initdb failed in {working}:\n{last_lines(done.stdout + done.stderr)}")
    working.rename(folder / "data")


def _options(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("-c", setting)]


def _redis_configuration(folder: Path, account: Account | None, *, port: int, password: str) -> Path:
    """A configuration file of mode 0600: on the command line the password would show in `ps`."""
    path = folder / "redis.conf"
    lines = {
        "bind": HOST,
        "port": port,
        "protected-mode": "yes",
        "requirepass": password,
        "dir": f'"{folder}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    write_private(path, "".join(f"{name} {value}\n" for name, value in lines.items()))
    give_to(account, path, mode=0o600)
    return path


def _clean_environment() -> dict[str, str]:
    """What a server gets of our environment: nothing that could change what it does (PGDATA, PGPORT, LC_ALL, …)."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
