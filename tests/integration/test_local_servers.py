"""The servers that `millrace up` and the tests start: passwords, durability, and that nothing outlives its owner."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from deploy.local.engine_record import EngineRecord
from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.servers import PostgresServer, RedisServer
from tests.support.folders import server_folder
from tests.support.waiting import wait_for

GONE_SECONDS = 5.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as below:
        # The servers run as another user when the tests run as root, who has to pass through.
        below.mkdir(mode=0o755)
        yield below


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def test_postgres_keeps_its_data_and_its_password_over_a_restart(folder: Path) -> None:
    with PostgresServer.start(folder / "pg") as first, psycopg.connect(plain(first.url)) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('здравствуй')")
        connection.commit()

    with PostgresServer.start(folder / "pg") as second, psycopg.connect(plain(second.url)) as connection:
        row = connection.execute("SELECT word, upper(word) FROM kept").fetchone()

    assert row == ("здравствуй", "ЗДРАВСТВУЙ")
    assert second.password == first.password


def test_postgres_refuses_a_login_without_the_password(folder: Path) -> None:
    with PostgresServer.start(folder / "pg", durable=False) as server:
        for user in ("millrace", "postgres"):
            for password in ("", "guess"):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(host="127.0.0.1", port=server.port, user=user, password=password, dbname="postgres")


def test_postgres_user_makes_databases_but_is_no_superuser(folder: Path) -> None:
    with PostgresServer.start(folder / "pg", durable=False) as server:
        with psycopg.connect(plain(server.admin_url), autocommit=True) as connection:
            connection.execute("CREATE DATABASE copied TEMPLATE millrace")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("ALTER SYSTEM SET fsync = off")
        with psycopg.connect(plain(server.url_of("copied"))) as connection:
            connection.execute("CREATE TABLE t (id int)")


def test_durable_is_the_default_and_tests_may_do_without(folder: Path) -> None:
    def fsync_of(server: PostgresServer) -> object:
        with psycopg.connect(plain(server.url)) as connection:
            return connection.execute("SELECT current_setting('fsync'), current_setting('full_page_writes')").fetchone()

    with PostgresServer.start(folder / "pg") as server:
        durable = fsync_of(server)
    with PostgresServer.start(folder / "pg", durable=False) as server:
        quick = fsync_of(server)

    assert durable == ("on", "on")
    assert quick == ("off", "off")


def test_postgres_starts_again_on_the_same_port_after_a_kill(folder: Path) -> None:
    server = PostgresServer.start(folder / "pg")
    with psycopg.connect(plain(server.url)) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.commit()
    server.kill()
    assert is_gone(server.pid)

    with (
        PostgresServer.start(folder / "pg", port=server.port) as again,
        psycopg.connect(plain(server.url)) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        assert again.port == server.port


def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    half_made = folder / "pg" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")

    with PostgresServer.start(folder / "pg", durable=False) as server, psycopg.connect(plain(server.url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not half_made.exists()


def test_servers_do_not_run_as_root_and_listen_on_loopback_only(folder: Path) -> None:
    with (
        PostgresServer.start(folder / "pg", durable=False) as postgres,
        RedisServer.start(folder / "redis") as redis_server,
    ):
        for pid in (postgres.pid, redis_server.pid):
            process = psutil.Process(pid)
            listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
            assert process.uids().effective != 0
            assert listening == ["127.0.0.1"]
            assert not [c for c in process.net_connections(kind="unix") if c.laddr]


def test_no_password_shows_in_a_command_line(folder: Path) -> None:
    with (
        PostgresServer.start(folder / "pg", durable=False) as postgres,
        RedisServer.start(folder / "redis") as redis_server,
    ):
        secrets = {postgres.password, postgres.superuser_password, redis_server.password}
        for pid in (postgres.pid, redis_server.pid, postgres.process.guard_pid, redis_server.process.guard_pid):
            command_line = " ".join(psutil.Process(pid).cmdline())
            assert not [secret for secret in secrets if secret in command_line]
    for name in ("pg/passwords.json", "redis/passwords.json", "redis/redis.conf"):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_redis_asks_for_the_password_and_never_evicts(folder: Path) -> None:
    with RedisServer.start(folder / "redis") as server:
        with (
            redis.Redis(host="127.0.0.1", port=server.port) as stranger,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            stranger.ping()
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("append*")["appendfsync"] == "everysec"


def test_redis_restarts_on_the_same_port_with_its_data_and_password(folder: Path) -> None:
    server = RedisServer.start(folder / "redis")
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000)
    server.kill()
    assert is_gone(server.pid)

    with (
        RedisServer.start(folder / "redis", port=server.port) as again,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        assert client.get("kept") == "yes"
        assert again.url == server.url


def test_redis_takes_arguments_of_its_own(folder: Path) -> None:
    with (
        RedisServer.start(folder / "redis", extra_args=["--maxmemory", "1mb"]) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(1 << 20)}


def test_redis_on_a_taken_port_fails_with_the_end_of_its_log(folder: Path) -> None:
    with RedisServer.start(folder / "one") as first, pytest.raises(StartFailure, match="did not start; the end of"):
        RedisServer.start(folder / "two", port=first.port)


def test_data_of_another_major_version_are_refused_with_the_ways_out(folder: Path) -> None:
    record = EngineRecord(folder / "engine.json")
    record.path.write_text(json.dumps({"redis": {"engine": "redis", "major": 3}}))

    with pytest.raises(StartFailure, match=r"existing data \(redis 3\).*pip install.*MILLRACE_BROKER_URL"):
        RedisServer.start(folder / "redis", record=record)


OWNER = """
import sys, time
from pathlib import Path
from deploy.local.servers import PostgresServer, RedisServer
folder = Path(sys.argv[1])
postgres = PostgresServer.start(folder / "pg", durable=False)
redis = RedisServer.start(folder / "redis")
print(postgres.pid, postgres.process.guard_pid, redis.pid, redis.process.guard_pid, flush=True)
time.sleep(600)
"""


def test_servers_end_when_their_owner_is_killed(folder: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
        below = [child.pid for child in psutil.Process(pids[0]).children(recursive=True)]
        assert len(pids) == 4
        assert below
        owner.kill()

        wait_for(lambda: all(map(is_gone, [*pids, *below])), seconds=GONE_SECONDS, what="the end of all processes")


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
inner = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
# A daemon: its parent ends, so that nothing but the guard can know where it came from.
subprocess.run(["/bin/sh", "-c", f"setsid sleep 600 & echo {inner.pid} $! > {sys.argv[1]}.new"], check=True)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


@pytest.fixture
def stubborn(folder: Path) -> Iterator[tuple[GuardedProcess, list[int]]]:
    """A guarded command that ignores SIGTERM, and two descendants of it in sessions of their own."""
    report = folder / "pids"
    process = GuardedProcess.start([sys.executable, "-c", STUBBORN, str(report)], output=subprocess.DEVNULL)
    wait_for(report.exists, what="the report of the process ids")
    yield process, [process.pid, *map(int, report.read_text().split())]
    process.kill_everything()


def test_stop_kills_the_whole_tree_after_the_grace(stubborn: tuple[GuardedProcess, list[int]]) -> None:
    process, pids = stubborn

    ended_by_itself = process.stop(grace_seconds=0.2)

    assert not ended_by_itself
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_the_tree_ends_with_its_main_process(stubborn: tuple[GuardedProcess, list[int]]) -> None:
    process, pids = stubborn

    os.kill(process.pid, signal.SIGKILL)

    assert process.wait(GONE_SECONDS) == 128 + signal.SIGKILL
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_a_stopped_process_is_stopped_like_any_other(folder: Path) -> None:
    server = RedisServer.start(folder / "redis")
    os.kill(server.pid, signal.SIGSTOP)

    server.stop()

    assert is_gone(server.pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_the_command_ends_even_when_its_guard_is_killed(folder: Path) -> None:
    server = RedisServer.start(folder / "redis")

    os.kill(server.process.guard_pid, signal.SIGKILL)

    wait_for(lambda: is_gone(server.pid), seconds=GONE_SECONDS, what="the end of the server")
    assert server.process.wait(GONE_SECONDS) == -signal.SIGKILL


def test_a_guard_holds_a_descriptor_until_nothing_is_left() -> None:
    reading, writing = os.pipe()
    process = GuardedProcess.start(["/bin/sleep", "600"], output=subprocess.DEVNULL, hold=[writing])
    os.close(writing)
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)

    process.kill_everything()

    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_command_that_is_not_there_fails_at_once() -> None:
    with pytest.raises(StartFailure, match="/no/such/program"):
        GuardedProcess.start(["/no/such/program"], output=subprocess.DEVNULL)


def test_a_command_that_ends_at_once_is_seen_to_end() -> None:
    for _ in range(20):
        process = GuardedProcess.start(["/bin/sh", "-c", "exit 3"], output=subprocess.DEVNULL)

        assert process.wait(GONE_SECONDS) == 3
