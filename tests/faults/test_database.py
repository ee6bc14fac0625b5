"""PostgreSQL killed, parted from its clients, slow, full: what was accepted stays, what lost its lease is fenced."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from flask import Flask

from deploy.local.servers import PostgresServer
from service.jobs.execution import claim
from tests.faults.checker import Facts, check_job
from tests.faults.one_job import effects, outcomes, post, submit, wait_for_end, wait_for_state
from tests.faults.stack import POSTGRES, QUICK, RESCUE_SECONDS, Stack
from tests.faults.trial import SEEDS, trial
from tests.support.apps import app_with
from tests.support.client import KeyClient
from tests.support.folders import server_folder
from tests.support.servers import TestServers, make_template, settings, with_database
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]


@pytest.mark.parametrize("seed", SEEDS)
def test_connections_terminated_in_mid_transaction_lose_nothing(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        running.go_on(10)
        with running.nemesis.terminating() as ended:
            running.go_on(40)

    assert running.faults == ["terminating"]
    assert ended


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_postgres_recovers_with_everything_that_was_acknowledged(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        for _ in range(2):
            running.go_on(20)
            running.nemesis.kill_postgres()
        running.go_on(20)

    assert running.faults == ["kill_postgres"] * 2


def test_a_crash_of_postgres_makes_no_room_for_one_more_attempt(servers: TestServers, tmp_path: Path) -> None:
    # A server of its own, which writes only at commits: nobody else's carries this claim's to the disk.
    lazy = ["wal_writer_delay=10s", "autovacuum=off"]
    with server_folder() as folder, PostgresServer.start(folder / "postgres", settings=lazy) as postgres:
        make_template(postgres.admin_url, servers.redis_url, tmp_path)
        url = with_database(postgres.admin_url, "millrace_template")
        with app_with(settings(url, servers.redis_url, tmp_path / "artifacts")) as app:
            client = KeyClient(app, "acme")
            claims = [claim_of(app, client.submit(max_attempts=allowed)["id"]) for allowed in (1, 2)]
            postgres.kill()
            again = PostgresServer.start(folder / "postgres", port=postgres.port)
            with again, psycopg.connect(url.replace("+psycopg", "")) as connection:
                left = connection.execute("SELECT max_attempts, state, attempt FROM jobs ORDER BY 1").fetchall()

    assert all(claims)
    assert left == [(1, "running", 1), (2, "queued", 0)]


def claim_of(app: Flask, job_id: str) -> Any:
    with app.app_context():
        return claim(UUID(job_id), worker="host:1", lease_seconds=30, grace_seconds=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_commits_whose_answers_are_lost_to_everybody_take_effect_once(stack: Stack, seed: int) -> None:
    with trial(stack, seed) as running:
        running.nemesis.note("lose_answers", role="all")
        for link in stack.links.values():
            link.lose_answers = 0.02
        running.go_on(60)

    assert running.faults == ["lose_answers"]
    assert all(link.lost_answers for link in stack.links.values())


@pytest.mark.parametrize("direction", ["both", "to the database", "from the database"])
def test_a_worker_parted_from_the_database_loses_its_leases_and_is_fenced(stack: Stack, direction: str) -> None:
    ways = {"to_server": direction != "from the database", "to_client": direction != "to the database"}
    with trial(stack, seed=1) as running:
        jobs = [submit(stack, args={"seconds": QUICK["LEASE_SECONDS"]}) for _ in range(2)]
        for job_id in jobs:
            wait_for_state(stack, job_id, "running")
        running.nemesis.note("part", direction=direction)
        with stack.links["worker"].parted(**ways):
            for job_id in jobs:
                wait_for_state(stack, job_id, "queued", seconds=RESCUE_SECONDS)
        for job_id in jobs:
            assert wait_for_end(stack, job_id)["state"] == "succeeded"
        running.go_on(10)

    assert running.faults == ["part"]
    assert [outcomes(stack, job_id)[0] for job_id in jobs] == ["lost", "lost"]
    assert [effects(stack, job_id) for job_id in jobs] == [1, 1]


def test_half_a_second_of_latency_stretches_bounds_and_breaks_nothing(stack: Stack) -> None:
    with trial(stack, seed=1, per_second=5) as running:
        running.nemesis.note("latency")
        for link in stack.links.values():
            link.delay_seconds = 0.25  # each way
        running.go_on(15)

    assert running.faults == ["latency"]
    assert max(answer["seconds"] for answer in running.history.entries("answer")) >= 0.5


@pytest.mark.parametrize("hours", [1, -1])
def test_a_worker_whose_clock_is_wrong_changes_nothing(
    stack: Stack, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS_CLOCK_SECONDS", str(hours * 3600))
    stack.restart("worker-1", HEARTBEAT_FILE="")
    monkeypatch.delenv("FAULTS_CLOCK_SECONDS")

    with trial(stack, seed=1) as running:
        running.nemesis.note("wrong_clock", hours=hours)
        job_id = submit(stack, args={"seconds": 2 * QUICK["LEASE_RENEW_SECONDS"], "failures": 1})
        running.go_on(30)
        assert wait_for_end(stack, job_id)["state"] == "succeeded"

    assert running.faults == ["wrong_clock"]
    assert outcomes(stack, job_id) == ["failed", "succeeded"]


def test_while_no_standby_confirms_neither_clock_nor_worker_ends(stack: Stack) -> None:
    processes = dict(stack.processes)
    stop = threading.Event()

    def give_up_waiting() -> None:
        while not stop.wait(0.05):
            stack.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", superuser=True
            )

    with trial(stack, seed=1) as running:
        running.go_on(10)
        running.nemesis.note("no_standby")
        giving_up = threading.Thread(target=give_up_waiting)
        giving_up.start()
        stack.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", superuser=True)
        stack.execute("SELECT pg_reload_conf()", superuser=True)
        before = len(running.history.entries("answer"))
        try:
            wait_for(lambda: len(running.history.entries("answer")) > before + 40, what="answers meanwhile")
        finally:
            stack.execute("ALTER SYSTEM SET synchronous_standby_names = ''", superuser=True)
            stack.execute("SELECT pg_reload_conf()", superuser=True)
            stop.set()
            giving_up.join()
        running.go_on(10)

    assert running.faults == ["no_standby"]
    assert all(process.is_running for process in processes.values())


def test_while_every_other_connection_is_taken_the_clock_goes_on(stack: Stack) -> None:
    stack.execute(
        "INSERT INTO schedules (id, tenant_id, name, type, args, every_seconds, catch_up, next_slot_at) "
        "SELECT gen_random_uuid(), id, 'every second', 'fault.effect', '{}', 1, 'all', date_trunc('second', now()) "
        "FROM tenants WHERE name = 'acme'"
    )

    def ticks() -> int:
        return int(stack.execute("SELECT count(*) AS ticks FROM schedule_ticks", superuser=True)[0]["ticks"])

    wait_for(lambda: ticks() >= 2, what="the first ticks")
    with ExitStack() as held:
        taken = take_all_connections(stack, held)
        before = ticks()
        answers = {post(stack, "/jobs", {"type": "fault.effect"}).status for _ in range(5)}
        wait_for(lambda: ticks() >= before + 5, seconds=30, what="ticks without a connection to spare")

    assert taken > 10
    assert answers <= {202, 503}
    stack.execute("UPDATE schedules SET enabled = false")
    wait_for(lambda: stack.unfinished() == 0, what="the end of the jobs that were fired")


def take_all_connections(stack: Stack, held: ExitStack) -> int:
    """Open connections until there are none but those kept for superusers; how many there were."""
    taken = 0
    while True:
        try:
            held.enter_context(closing(psycopg.connect(stack.database_url)))
        except psycopg.OperationalError:
            return taken
        taken += 1


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of that size, where this machine lets us mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", folder],
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", folder], check=True)


def test_a_full_disk_is_answered_503_and_passes_with_its_cause(servers: TestServers, tmp_path: Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(stack.enter_context(server_folder()), megabytes=200))
        postgres = stack.enter_context(PostgresServer.start(disk / "postgres", settings=["max_wal_size=64MB"]))
        make_template(postgres.admin_url, servers.redis_url, tmp_path)
        url = with_database(postgres.admin_url, "millrace_template")
        app = stack.enter_context(app_with(settings(url, servers.redis_url, tmp_path / "artifacts")))
        client = KeyClient(app, "acme")
        kept = client.submit()["id"]

        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            fill(file.fileno())
        answers = {submit_megabyte(client) for _ in range(60)}
        ballast.unlink()

        assert 503 in answers
        assert answers <= {202, 503}
        wait_for(lambda: submit_megabyte(client) == 202, seconds=60, what="an accepted submission")
        assert client.job(kept)["state"] == "queued"


@pytest.mark.parametrize("seed", SEEDS)
def test_when_the_primary_dies_the_promoted_synchronous_standby_has_every_job_that_was_answered_2xx(
    stack: Stack, seed: int
) -> None:
    folder = stack.folder / f"standby-{seed}"
    standby = start_standby(stack, folder)
    stack.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", superuser=True)
    stack.execute("SELECT pg_reload_conf()", superuser=True)
    in_step = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    wait_for(lambda: stack.execute(in_step, superuser=True), what="the standby to be in step")

    with trial(stack, seed) as running:
        running.go_on(40)
        running.nemesis.note("promote")
        stack.postgres.kill()
        stack.use_postgres(standby)
        stack.postgres_folder = folder
        stack.execute("SELECT pg_promote()", superuser=True)
        running.go_on(20)

    assert running.faults == ["promote"]


def test_a_database_put_back_to_an_earlier_time_goes_on_from_there(stack: Stack) -> None:
    early = [submit(stack, args={"seconds": 4}) for _ in range(4)]
    wait_for_state(stack, early[0], "running")
    backup = stack.folder / "backup"
    stack.postgres.stop()
    subprocess.run([shutil.which("cp") or "cp", "--archive", stack.postgres_folder, backup], check=True)
    stack.start_postgres()
    late = [submit(stack) for _ in range(5)]
    for job_id in (*early, *late):
        wait_for_end(stack, job_id)

    stack.postgres.kill()  # while Redis and the workers go on, with what they know of the time since
    stack.postgres_folder = backup
    stack.start_postgres()
    restored = [wait_for_end(stack, job_id) for job_id in early]

    assert {job["state"] for job in restored} == {"succeeded"}
    assert stack.execute("SELECT count(*) AS jobs FROM jobs")[0]["jobs"] == len(early)  # the rest is in no backup
    assert wait_for_end(stack, submit(stack))["state"] == "succeeded"
    facts = Facts.read(stack.database_url)
    assert not [violation for job in facts.jobs.values() for violation in check_job(job, facts)]


def start_standby(stack: Stack, folder: Path) -> PostgresServer:
    """A copy of the primary, made while that is down for a moment, which follows it from there."""
    stack.postgres.stop()
    subprocess.run([shutil.which("cp") or "cp", "--archive", stack.postgres_folder, folder], check=True)
    stack.start_postgres()
    (folder / "data" / "standby.signal").touch()
    primary = stack.superuser_url.rpartition("/")[0]
    return PostgresServer.start(folder, settings=[*POSTGRES, f"primary_conninfo={primary}/postgres", "hot_standby=on"])


def fill(descriptor: int) -> None:
    """Write zeros until nothing more fits."""
    try:
        while os.write(descriptor, bytes(1 << 20)):
            pass
    except OSError:
        pass  # the disk is full, as it was meant to be


def submit_megabyte(client: KeyClient) -> int:
    """Submit a job with much to store; the answer's status."""
    letters = os.urandom(500_000).hex()
    return client.post("/jobs", json={"type": "test.echo", "args": {"value": letters}}).status_code


def test_a_connection_whose_other_end_vanished_is_noticed(servers: TestServers) -> None:
    """In a network of its own, where packets can be dropped without anybody being told."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "ip", "iptables"))):
        pytest.skip("needs root, unshare, ip and iptables")
    done = subprocess.run(
        [shutil.which("unshare") or "unshare", "--net", sys.executable, "-m", "tests.faults.half_open"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    noticed = float(done.stdout.split()[-1])
    assert noticed < 40
