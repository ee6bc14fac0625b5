"""`python -m tests.performance.report [results.json]`: write docs/performance.md and its plot from the results."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.performance.goals import BY_NAME, GOALS, is_met, verdict
from tests.performance.measurement import Comparison
from tests.performance.meter import QUIET_SHARE
from tests.performance.plots import draw_ratios
from tests.performance.processes import ROOT
from tests.performance.run import FOLDER

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance-ratios.svg"

INTRODUCTION = """\
# Speed

Millrace stores every state of every job durably, and is measured beside stacks that store little or nothing.
`make bench` repeats this in some minutes, `make bench-full` at length and writes this page; both start servers of
their own and ask for a quiet machine. Absolute rates move from machine to machine: **only a ratio to a peer measured
in the same run counts.** This page is written by `python -m tests.performance.report`; what to change stands there.

How it is measured: Millrace runs with the very commands of `millrace up` (API behind gunicorn, workers, beat; API keys,
validation, idempotency, history and rings all on), each peer with the settings that made it fastest. Clients,
servers, Redis and PostgreSQL (`fsync`, `synchronous_commit` and `full_page_writes` on) share the machine's cores. The
systems take turns within a run, in changing order; figures are medians over the rounds, with the lowest and highest
ratio of a round behind them. Every benchmark checks its own work, and a figure whose work does not add up is
discarded.
"""


def main() -> None:
    """Read the results, write page and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=FOLDER / "full.json")
    results = json.loads(parser.parse_args().results.read_text())
    comparisons = list(_comparisons(results))
    draw_ratios(comparisons, PLOT)
    PAGE.write_text("\n".join(_page(results, comparisons)) + "\n")
    print(f"written: {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)}")


def _comparisons(results: Mapping[str, Any]) -> Iterator[Comparison]:
    """In the order of the goals."""
    measured = {
        comparison["name"]: Comparison.from_mapping(comparison)
        for step in results["steps"].values()
        for comparison in step.get("comparisons", [])
    }
    yield from (measured[goal.name] for goal in GOALS if goal.name in measured)


def _page(results: Mapping[str, Any], comparisons: Sequence[Comparison]) -> Iterator[str]:
    machine = results["machine"]
    yield INTRODUCTION
    yield (
        f"Measured {results['made_at'][:10]} ({results['mode']}) on {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, "
        f"{' and '.join(results['engines'])}; {_versions(results['versions'])}."
    )
    yield from ("", "![Each figure beside its goal](performance-ratios.svg)", "")
    yield "| path | beside | Millrace | peer | ratio (rounds) | goal | verdict |"
    yield "|---|---|--:|--:|--:|--:|---|"
    for comparison in comparisons:
        yield _row(comparison)
    missed = [comparison for comparison in comparisons if not is_met(comparison)]
    yield ""
    yield f"{len(comparisons) - len(missed)} of {len(comparisons)} goals are met."
    for name, step in results["steps"].items():
        if "discarded" in step:
            yield f"\n**{name}: no figure.** {step['discarded']}"
    yield from _disturbances(comparisons)
    yield from _costs(comparisons)
    yield from _memory(comparisons)


def _row(comparison: Comparison) -> str:
    goal = BY_NAME[comparison.name]
    sign = "≥" if comparison.better == "more" else "≤"
    spread = f"{min(comparison.round_ratios):.2f}–{max(comparison.round_ratios):.2f}"
    cells = [
        goal.path,
        goal.peer,
        f"{_figure(comparison.our_median)} {comparison.unit}",
        f"{_figure(comparison.their_median)} {comparison.unit}",
        f"{comparison.ratio:.2f} × ({spread})",
        f"{sign} {goal.goal:g} ×",
        verdict(comparison),
    ]
    return f"| {' | '.join(cells)} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _disturbances(comparisons: Sequence[Comparison]) -> Iterator[str]:
    shares = [
        share
        for comparison in comparisons
        for side in ("ours", "theirs")
        for share in comparison.details.get(side, {}).get("others' share of the machine", [])
    ]
    if shares and max(shares) > QUIET_SHARE:
        yield (
            f"\n**The machine was not quiet:** other programs took up to {max(shares):.0%} of it during a round. "
            f"Trust the ratios, with their spread, and no absolute figure."
        )


def _costs(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """CPU time by process: where the time goes, and steadier than rates on a busy machine."""
    yield "\n## What one request or job costs\n"
    yield "CPU time in µs by process, medians over the rounds: it depends on neighbours less than a rate does.\n"
    yield "| path | system | by process | together |"
    yield "|---|---|---|--:|"
    for comparison in comparisons:
        for side in ("ours", "theirs"):
            rounds = comparison.details.get(side, {}).get("CPU µs each", [])
            if rounds:
                middle = {name: sorted(of[name] for of in rounds)[len(rounds) // 2] for name in rounds[0]}
                parts = ", ".join(f"{name} {cost:,}" for name, cost in middle.items())
                system = "Millrace" if side == "ours" else BY_NAME[comparison.name].peer
                yield f"| {BY_NAME[comparison.name].path} | {system} | {parts} | {sum(middle.values()):,} |"


def _memory(comparisons: Sequence[Comparison]) -> Iterator[str]:
    found = next((comparison for comparison in comparisons if comparison.name.startswith("memory-")), None)
    if found is None:
        return
    idle, later, jobs = found.details["idle"], found.details["after each fifth"], found.details["jobs"]
    yield "\n## Memory\n"
    yield f"Private memory (what ending the process would free) in MB, idle and over {jobs:,} jobs submitted and run.\n"
    yield f"| process | idle | {' | '.join(f'{jobs // 5 * (part + 1):,}' for part in range(len(later)))} |"
    yield f"|---|--:|{'--:|' * len(later)}"
    for kind, megabytes in idle.items():
        yield f"| {kind} | {megabytes:.1f} | {' | '.join(f'{sample[kind]:.1f}' for sample in later)} |"


if __name__ == "__main__":
    main()
