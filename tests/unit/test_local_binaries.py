"""Which server program is chosen, and what is said when there is none."""

from pathlib import Path

import pytest

from deploy.local import binaries, folder
from deploy.local.account import Account
from deploy.local.binaries import NoBinary, find_postgres, find_redis
from deploy.local.folder import DataFolder
from tests.support.folders import server_folder


@pytest.fixture
def old_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `redis-server` on PATH that says it is of version 7."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64 build=0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_existing_data_choose_the_engine_that_wrote_them(old_redis: Path) -> None:
    found = find_redis(None, engine="redis", major=7)

    assert (found.engine, found.major, found.path) == ("redis", 7, old_redis)


@pytest.mark.usefixtures("old_redis")
def test_data_of_a_version_that_is_not_here_name_what_was_found_and_the_ways_out() -> None:
    with pytest.raises(NoBinary) as raised:
        find_redis(None, engine="redis", major=6)

    message = str(raised.value)
    assert "existing data (redis 6)" in message
    assert "redis 7" in message
    for way_out in ("millrace[embedded]", "apt-get install", "MILLRACE_BROKER_URL"):
        assert way_out in message
    assert "\n" not in message


def test_no_postgres_of_that_version_names_its_own_setting() -> None:
    with pytest.raises(NoBinary, match="MILLRACE_DATABASE_URL"):
        find_postgres(None, engine="postgresql", major=9)


def test_a_program_that_cannot_be_run_is_passed_over(old_redis: Path) -> None:
    old_redis.chmod(0o644)

    with pytest.raises(NoBinary):
        find_redis(None, engine="redis", major=7)


@pytest.fixture
def servers_account() -> Account:
    account = Account.for_servers()
    if account is None:
        pytest.skip("only root drops to another user")
    return account


def test_root_makes_one_copy_of_binaries_that_the_servers_user_cannot_reach(
    servers_account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # pytest's folder is closed to others, as a virtual environment below /root is.
    package = tmp_path / "site-packages" / "server"
    (package / "bin").mkdir(parents=True)
    program = package / "bin" / "serve"
    program.write_text('#!/bin/sh\nexec cat "${0%/*}/../../server.libs/library"\n')
    program.chmod(0o700)
    libraries = tmp_path / "site-packages" / "server.libs"
    libraries.mkdir(mode=0o700)
    (libraries / "library").touch(mode=0o600)
    with server_folder() as copies:
        monkeypatch.setattr(binaries, "COPIES_FOLDER", copies)

        copy = binaries.readable_copy(program, servers_account)

        assert not servers_account.succeeds([str(program)])
        assert servers_account.succeeds([str(copy)])
        assert binaries.readable_copy(program, servers_account) == copy
        assert len(list(copies.iterdir())) == 1


def test_root_puts_the_servers_data_where_their_user_reaches_them(
    servers_account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = DataFolder.make(tmp_path / "var")
    with server_folder() as elsewhere, server_folder() as below:
        monkeypatch.setattr(folder, "SERVERS_ELSEWHERE", elsewhere)
        open_folder = DataFolder.make(below)

        assert open_folder.servers(servers_account) == open_folder.path
        assert closed.servers(servers_account).parent == elsewhere
        assert closed.servers(servers_account) == (closed.path / "servers").resolve()
        assert servers_account.can_enter(closed.servers(servers_account))
