"""`make mutants`: takes one guard away at a time, and demands that a test of the fault suite notices.

Each mutation is tried in a throwaway copy of the tree, so nothing of the checkout is touched. A guard whose loss no
test notices would be a promise that nobody keeps; the exit code says so. A test in tests/architecture holds that every
text to be replaced still stands in its file, once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("beat", "deploy", "migrations", "service", "tests", "worker", "pyproject.toml")
TESTS_FAILED = 1
"""pytest's exit code for that; others mean that the tests were not run as meant."""


@dataclass(frozen=True)
class Mutation:
    """A guard, where it stands, what to put in its place, and the tests that must notice."""

    guard: str
    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]


def rivals(*pairs: str) -> tuple[str, ...]:
    """The quick races of the state machine between these operations."""
    return tuple(
        f"tests/faults/test_state_machine.py::test_of_two_rivals_one_wins_and_both_answers_are_true[{pair}-quick]"
        for pair in pairs
    )


def overtaken(operation: str) -> tuple[str, ...]:
    """What the holder of an old token may not do."""
    return (f"tests/faults/test_state_machine.py::test_whatever_an_overtaken_attempt_does_is_refused[{operation}]",)


def guards(name: str) -> tuple[str, ...]:
    """One of the tests that meet a guard head on."""
    return (f"tests/faults/test_guards.py::{name}",)


EXECUTION = "service/jobs/execution.py"
SUBMIT = "service/jobs/submit.py"
STORE = "service/jobs/store.py"

MUTATIONS = (
    Mutation(
        "the token, when an attempt ends",
        EXECUTION,
        "TOKEN_GUARD = \"id = :id AND token = :token AND state = 'running'\"",
        "TOKEN_GUARD = \"id = :id AND (token = :token OR true) AND state = 'running'\"",
        overtaken("succeed"),
    ),
    Mutation(
        "the token, when a lease is renewed",
        EXECUTION,
        "token = :token AND state = 'running' AND lease_until > clock_timestamp()",
        "(token = :token OR true) AND state = 'running' AND lease_until > clock_timestamp()",
        overtaken("renew"),
    ),
    Mutation(
        "no lease is renewed that ran out",
        EXECUTION,
        "state = 'running' AND lease_until > clock_timestamp()",
        "state = 'running'",
        rivals("rescue against renew"),
    ),
    Mutation(
        "no lease passes its attempt's deadline",
        EXECUTION,
        "LEAST(clock_timestamp() + make_interval(secs => :lease_seconds), attempt_deadline)",
        "clock_timestamp() + make_interval(secs => :lease_seconds)",
        guards("test_a_lease_is_never_renewed_past_the_attempts_deadline"),
    ),
    Mutation(
        "the state, in a claim",
        EXECUTION,
        "AND state = 'queued' AND run_at <= clock_timestamp()",
        "AND run_at <= clock_timestamp()",
        rivals("claim against claim", "cancel against claim"),
    ),
    Mutation(
        "the type, in a claim",
        EXECUTION,
        "(CAST(:type AS text) IS NULL OR type = :type)",
        "(CAST(:type AS text) IS NULL OR true)",
        guards("test_a_message_that_names_another_type_than_its_jobs_starts_nothing"),
    ),
    Mutation(
        "the time, in a claim",
        EXECUTION,
        "AND run_at <= clock_timestamp() AND attempt",
        "AND attempt",
        guards("test_a_queued_job_is_not_claimed_before_its_time"),
    ),
    Mutation(
        "the attempts left, in a claim",
        EXECUTION,
        " AND attempt < max_attempts\n",
        "\n",
        guards("test_a_queued_job_whose_attempts_are_spent_is_not_claimed"),
    ),
    Mutation(
        "the claim of a last attempt waits for the disk",
        "service/jobs/execution.py",
        "CASE WHEN attempt < max_attempts THEN set_config('synchronous_commit', 'off', true) END AS unhurried",
        "set_config('synchronous_commit', 'off', true) AS unhurried",
        ("tests/faults/test_database.py::test_a_crash_of_postgres_makes_no_room_for_one_more_attempt",),
    ),
    Mutation(
        "no second and no last attempt is claimed together with others",
        EXECUTION,
        "ANY(CAST(:ids AS uuid[])) AND attempt = 0 AND max_attempts > 1",
        "ANY(CAST(:ids AS uuid[]))",
        guards("test_only_first_attempts_that_are_not_the_last_are_claimed_together"),
    ),
    Mutation(
        "the expiry, in a claim",
        EXECUTION,
        "AND (expires_at IS NULL OR expires_at > clock_timestamp())",
        "",
        rivals("expire against claim"),
    ),
    Mutation(
        "whose process it was that died",
        EXECUTION,
        "REQUEUE_STATE, \"id = :id AND worker = :worker AND state = 'running'\"",
        "REQUEUE_STATE, \"id = :id AND (worker = :worker OR true) AND state = 'running'\"",
        guards("test_the_death_of_a_process_that_no_longer_holds_the_job_takes_nothing_from_its_heir"),
    ),
    Mutation(
        "a cancel that was asked for wins over another attempt",
        EXECUTION,
        'REQUEUE_STATE = """CASE WHEN cancel_requested_at IS NOT NULL THEN \'cancelled\'',
        'REQUEUE_STATE = """CASE WHEN false THEN \'cancelled\'',
        guards("test_a_lost_attempt_of_a_job_that_is_to_be_cancelled_is_its_last"),
    ),
    Mutation(
        "the rescue looks again at the row that it has locked",
        "service/jobs/rescue.py",
        "LIMIT :at_most FOR UPDATE SKIP LOCKED)\n"
        "              AND state = 'running' AND lease_until < clock_timestamp()",
        "LIMIT :at_most)",
        rivals("rescue against succeed", "rescue against fail", "rescue against rescue"),
    ),
    Mutation(
        "the state, in an expiry",
        "service/jobs/rescue.py",
        "ORDER BY expires_at LIMIT :at_most FOR UPDATE SKIP LOCKED)\n           AND state IN ({IDLE_SQL})",
        "ORDER BY expires_at LIMIT :at_most)",
        rivals("expire against claim", "expire against expire", "cancel against expire"),
    ),
    Mutation(
        "the state, in a promotion",
        "service/jobs/dispatch.py",
        "ORDER BY run_at LIMIT :at_most FOR UPDATE SKIP LOCKED)\n           AND state IN ('scheduled', 'retrying')",
        "ORDER BY run_at LIMIT :at_most)",
        rivals("promote against promote", "cancel against promote", "expire against promote"),
    ),
    Mutation(
        "the state, in a cancel",
        "service/jobs/cancel.py",
        "AND state IN ({IDLE_SQL})",
        "",
        rivals("cancel against succeed", "cancel against claim"),
    ),
    Mutation(
        "lost rings are rung again",
        "service/jobs/dispatch.py",
        "rung_again = _ring_and_mark(self._bell, lost)",
        "rung_again = 0",
        ("tests/faults/test_broker_loss.py::test_after_flushall_every_queued_job_runs",),
    ),
    Mutation(
        "lanes with a limit are locked before they are counted",
        "service/jobs/limits.py",
        "SELECT pg_advisory_xact_lock(lane) FROM",
        "SELECT lane FROM",
        guards("test_of_two_jobs_with_one_concurrency_key_that_are_claimed_at_once_one_starts"),
    ),
    Mutation(
        "a slot of a schedule is taken once",
        "service/schedules/fire.py",
        "ON CONFLICT (schedule_id, slot) DO NOTHING RETURNING slot",
        "ON CONFLICT (schedule_id, slot) DO UPDATE SET outcome = 'fired' RETURNING slot",
        guards("test_a_clock_with_a_stale_view_of_a_schedule_fires_no_slot_twice"),
    ),
    Mutation(
        "no job without its idempotency record",
        STORE,
        " AND (record_id IS NULL OR record_id IN (SELECT job_id FROM record))",
        "",
        ("tests/faults/test_submissions.py::test_a_hundred_parallel_requests_with_one_key_make_one_job",),
    ),
    Mutation(
        "the idempotency record is part of the job's own transaction",
        SUBMIT,
        "        if new.unique_key is None and (stored := ",
        "        if idempotency is not None:\n"
        "            values = {'tenant_id': tenant_id, 'key': idempotency.key, 'id': submission.entry['id'],\n"
        "                      'fingerprint': idempotency.fingerprint}\n"
        "            with transaction() as session:\n"
        "                session.execute(\n"
        '                    text("INSERT INTO idempotency_keys VALUES (:tenant_id, :key, :fingerprint, :id)"\n'
        '                         " ON CONFLICT DO NOTHING"), values)\n'
        "        if new.unique_key is None and (stored := ",
        guards("test_a_submission_that_failed_is_one_job_however_often_it_is_repeated"),
    ),
    Mutation(
        "a revoked API key is refused by the statement that stores",
        "service/accounts/keys.py",
        "WHERE api_keys.id = key_id AND revoked_at IS NULL\n",
        "WHERE api_keys.id = key_id\n",
        ("tests/integration/test_known_keys.py::test_a_key_that_was_revoked_a_moment_ago_is_refused",),
    ),
    Mutation(
        "a key belongs to the request that it came with",
        SUBMIT,
        'if bytes(known["fingerprint"]) != idempotency.fingerprint:',
        "if False:",
        guards("test_a_key_that_comes_back_with_another_request_is_refused"),
    ),
    Mutation(
        "a job is rung after its commit",
        SUBMIT,
        '            rows = execute_alone(STORE, parameters, name="submit")\n',
        "            self.bell.ring_all(entries)\n"
        "            self.bell.ring_all = lambda jobs: len(jobs)\n"
        '            rows = execute_alone(STORE, parameters, name="submit")\n',
        ("tests/faults/test_submissions.py::test_a_job_is_rung_after_its_commit_however_long_that_takes",),
    ),
    Mutation(
        "only an unfinished job holds its unique key",
        "migrations/versions/20261122_the_heart.py",
        """        unique=True,
        postgresql_where=sa.text(
            "unique_key IS NOT NULL AND state IN ('queued', 'retrying', 'running', 'scheduled', 'waiting')"
""",
        """        unique=True,
        postgresql_where=sa.text(
            "unique_key IS NOT NULL"
""",
        guards("test_a_unique_key_is_held_by_an_unfinished_job_and_by_no_other"),
    ),
    Mutation(
        "a commit that no standby confirmed is no success",
        "service/transaction.py",
        "    if _warnings.messages:\n",
        "    if False:\n",
        ("tests/faults/test_submissions.py::test_a_commit_that_no_standby_confirmed_is_never_answered_2xx",),
    ),
    Mutation(
        "a malformed message is refused and not fatal",
        "service/redis_transport.py",
        "MALFORMED = (ValueError, TypeError, KeyError, AttributeError)",
        "MALFORMED = (ZeroDivisionError,)",
        ("tests/faults/test_broker.py::test_forged_and_corrupt_messages_are_refused_and_the_consumer_lives[1]",),
    ),
)


def copy_of_the_tree(folder: Path) -> Path:
    """What the tests need of the checkout, in a folder of its own."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the tests on the code of that tree."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "FAULT_SEEDS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def attempt(mutation: Mutation, tree: Path) -> tuple[bool, str]:
    """Whether the guard's loss was noticed, and by what."""
    path = tree / mutation.file
    original = path.read_text()
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        done = run(tree, mutation.noticed_by)
    finally:
        path.write_text(original)
    if done.returncode != TESTS_FAILED:
        return False, f"no test (pytest's exit code was {done.returncode})"
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(?:faults/)?(\S+?::\w+(?:\[[^]]*\])?)", done.stdout, re.MULTILINE)
    said = re.findall(r"^E +(.+)", done.stdout, re.MULTILINE)
    return True, f"{', '.join(failed)}\n          {said[0][:150] if said else ''}"


def main() -> int:
    """The command; its exit code is 1 when a guard can go without anybody noticing."""
    parser = argparse.ArgumentParser(description="Take guards away, one at a time, and see which test notices.")
    parser.add_argument("--only", default="", help="a part of the guard's name")
    wanted = parser.parse_args().only
    chosen = [mutation for mutation in MUTATIONS if wanted in mutation.guard]
    with tempfile.TemporaryDirectory(prefix="millrace-mutants-") as folder:
        Path(folder).chmod(0o755)  # as root the servers run as somebody else, who must get past it
        tree = copy_of_the_tree(Path(folder))
        print("With every guard in place …", flush=True)  # noqa: T201 - its progress
        sound = run(tree, tuple(dict.fromkeys(test for mutation in chosen for test in mutation.noticed_by)))
        if sound.returncode:
            print(sound.stdout[-5000:])  # noqa: T201
            return 1
        survivors = 0
        for mutation in chosen:
            noticed, by = attempt(mutation, tree)
            survivors += not noticed
            print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutation.guard}\n          {by}", flush=True)  # noqa: T201
    print(f"{len(chosen)} guards taken away, {len(chosen) - survivors} noticed")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
