"""`python -m tests.faults.soak --minutes 30 --seed 7`: faults at random under load, then a check and a summary.

The exit code is 0 only if nothing was lost, doubled or answered untruthfully. The seed decides what clients send and
which faults follow each other; how the processes interleave is the machine's affair, so a repeat tries the same again
without promising the same moment. The history stays, and its path is printed.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Recovery, Violation, check, recoveries
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.nemesis import Nemesis
from tests.faults.stack import RESCUE_SECONDS, Stack, running_stack
from tests.faults.trial import drain

Fault = Callable[[Nemesis, random.Random], None]


def _for_a_while(source: random.Random, *, at_most: float = 8.0) -> None:
    """The length of a fault that has one."""
    time.sleep(source.uniform(1, at_most))


def _stop(name: str) -> Fault:
    def fault(nemesis: Nemesis, source: random.Random) -> None:
        with nemesis.stopped(name):
            _for_a_while(source, at_most=12)

    return fault


def _restart(name: str) -> Fault:
    def fault(nemesis: Nemesis, source: random.Random) -> None:
        nemesis.note("kill", process=name)
        nemesis.stack.end(name)
        _for_a_while(source)
        nemesis.stack.start(name)

    return fault


def _redis_gone(nemesis: Nemesis, source: random.Random) -> None:
    nemesis.kill_redis()
    _for_a_while(source)
    nemesis.stack.start_redis()


def _redis_full(nemesis: Nemesis, source: random.Random) -> None:
    nemesis.limit_redis(source.choice(["noeviction", "allkeys-lru"]))
    _for_a_while(source)
    with nemesis.stack.broker() as broker:
        broker.config_set("maxmemory", 0)


def _clock_killed(nemesis: Nemesis, source: random.Random) -> None:
    leader = nemesis.kill_clock()
    _for_a_while(source)
    if leader:
        nemesis.stack.start(leader)


def _parent_killed(nemesis: Nemesis, source: random.Random) -> None:
    worker = source.choice(["worker-1", "worker-2"])
    nemesis.kill_worker_parent(worker)
    _for_a_while(source)
    nemesis.stack.restart(worker)


def _parted(nemesis: Nemesis, source: random.Random) -> None:
    role = source.choice(["api", "worker", "beat"])
    to_server, to_client = source.choice([(True, True), (True, False), (False, True)])
    nemesis.note("part", role=role, to_server=to_server, to_client=to_client)
    with nemesis.stack.links[role].parted(to_server=to_server, to_client=to_client):
        _for_a_while(source, at_most=10)


def _answers_lost(nemesis: Nemesis, source: random.Random) -> None:
    nemesis.note("lose_answers")
    for link in nemesis.stack.links.values():
        link.lose_answers = 0.03
    _for_a_while(source)
    for link in nemesis.stack.links.values():
        link.lose_answers = 0.0


def _slow(nemesis: Nemesis, source: random.Random) -> None:
    nemesis.note("latency")
    for link in nemesis.stack.links.values():
        link.delay_seconds = source.uniform(0.02, 0.2)
    _for_a_while(source)
    for link in nemesis.stack.links.values():
        link.delay_seconds = 0.0


def _terminating(nemesis: Nemesis, source: random.Random) -> None:
    with nemesis.terminating():
        _for_a_while(source)


def _locked(nemesis: Nemesis, source: random.Random) -> None:
    with nemesis.locked():
        _for_a_while(source)


FAULTS: dict[str, Fault] = {
    "an API process killed": lambda nemesis, _: _ignore(nemesis.kill_api_process()),
    "a pool process killed": lambda nemesis, source: _ignore(
        nemesis.kill_pool_process(source.choice(["worker-1", "worker-2"]))
    ),
    "a worker's parent killed": _parent_killed,
    "a worker's host gone": _restart("worker-2"),
    "the API gone": _restart("api"),
    "the clock killed": _clock_killed,
    "a worker stopped past its leases": _stop("worker-1"),
    "a beat stopped": _stop("beat-1"),
    "Redis wiped": lambda nemesis, _: nemesis.flush_redis(),
    "Redis killed, its data gone": _redis_gone,
    "Redis frozen": _stop("redis"),
    "Redis full": _redis_full,
    "rings doubled": lambda nemesis, _: _ignore(nemesis.double_rings()),
    "messages forged": lambda nemesis, _: _ignore(nemesis.forge_messages()),
    "PostgreSQL killed": lambda nemesis, _: nemesis.kill_postgres(),
    "PostgreSQL frozen": _stop("postgres"),
    "connections terminated": _terminating,
    "a table locked": _locked,
    "parted from PostgreSQL": _parted,
    "answers of PostgreSQL lost": _answers_lost,
    "latency": _slow,
}


def _ignore(_: object) -> None:
    """A fault's own answer is in the history."""


@dataclass(frozen=True)
class Report:
    """What a soak found."""

    violations: list[Violation]
    lines: list[str]


def soak(
    stack: Stack, history: History, *, minutes: float, seed: int, every_seconds: float, per_second: float
) -> Report:
    """Run it; nothing is raised for a violation, the report has them."""
    source = random.Random(f"soak-{seed}")
    done: Counter[str] = Counter()
    started = time.monotonic()
    with Load(stack.api_url, stack.tenants, history, seed=seed, clients=6, per_second=per_second) as load:
        nemesis = Nemesis(stack, history, seed)
        while time.monotonic() - started < minutes * 60:
            due = time.monotonic() + every_seconds
            for name in source.sample(sorted(FAULTS), 2 if source.random() < 0.2 else 1):
                print(f"{time.monotonic() - started:7.1f} s  {name}", flush=True)  # noqa: T201 - its progress
                FAULTS[name](nemesis, source)
                done[name] += 1
            _revive(stack, history)
            time.sleep(max(due - time.monotonic(), 0.5))
    stack.heal()
    drained = drain(stack, load, seconds=180)
    violations = check(stack.database_url, history)
    ended = Counter(entry["process"] for entry in history.entries("ended"))
    violations += [Violation("alive", f"{name} ended by itself {times} times") for name, times in ended.items()]
    return Report(violations, _summary(stack, history, load, done=done, drained=drained, violations=violations))


def _revive(stack: Stack, history: History) -> None:
    """Start what ended by itself, as a container's restart policy would, and say so."""
    for name in stack.ended_by_themselves():
        history.record("ended", process=name)
        stack.start(name)


def _summary(
    stack: Stack,
    history: History,
    load: Load,
    *,
    done: Counter[str],
    drained: float,
    violations: Sequence[Violation],
) -> list[str]:
    states = stack.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state ORDER BY state")
    attempts = stack.execute("SELECT outcome, count(*) AS attempts FROM job_attempts GROUP BY outcome ORDER BY outcome")
    answers = history.entries("answer")
    statuses = Counter(str(answer["status"] or answer["error"]) for answer in answers)
    found = recoveries(stack.database_url)
    by_state = {row["state"]: row["jobs"] for row in states}
    return [
        f"requests            {len(answers)}: {_listed(statuses)}",
        f"accepted            {load.accepted} submissions, repeats included",
        f"jobs                {sum(by_state.values())}: {_listed(by_state)}",
        f"attempts            {_listed({str(row['outcome']): row['attempts'] for row in attempts})}",
        f"faults              {sum(done.values())}: {_listed(done)}",
        f"drained in          {drained:.1f} s after the last fault was healed",
        f"lost attempts       noticed after {_percentiles(found, 'lost_attempt_seconds')} of their start",
        f"                    run again after {_percentiles(found, 'wait_seconds')} more",
        f"                    ({RESCUE_SECONDS:g} s together are promised for a vanished host, all else being up)",
        f"violations          {len(violations)}",
        *(f"    {violation.invariant} {violation.evidence}" for violation in violations[:50]),
    ]


def _listed(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _percentiles(found: Sequence[Recovery], field: str) -> str:
    values = sorted(getattr(recovery, field) for recovery in found)
    if len(values) < 2:
        return "– (too few)"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f} s, p95 {cuts[94]:.1f} s, p99 {cuts[98]:.1f} s, max {values[-1]:.1f} s"


def main() -> int:
    """The command; its exit code is 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description="Faults at random under load; the exit code tells.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=20, help="seconds between faults")
    parser.add_argument("--rate", type=float, default=15, help="requests per second; six in ten submit a job")
    given = parser.parse_args()
    path = Path(tempfile.mkdtemp(prefix="millrace-soak-")) / "history.jsonl"
    history = History(path)
    with running_stack() as stack:
        stack.start("worker-2")
        stack.wait_until_ready()
        try:
            report = soak(
                stack, history, minutes=given.minutes, seed=given.seed, every_seconds=given.every, per_second=given.rate
            )
        finally:
            for log in stack.folder.glob("*.log"):
                (path.parent / log.name).write_bytes(log.read_bytes())
    print("\n".join(report.lines))  # noqa: T201 - its summary
    print(f"seed {given.seed}, history and logs in {path.parent}")  # noqa: T201
    print(f"again: python -m tests.faults.soak --minutes {given.minutes:g} --seed {given.seed}")  # noqa: T201
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
