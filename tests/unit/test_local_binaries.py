"""Which server program is chosen, and what is said when there is none."""

from pathlib import Path

import pytest

from deploy.local.binaries import NoBinary, find_postgres, find_redis


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
