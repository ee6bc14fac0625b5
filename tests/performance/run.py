"""`python -m tests.performance.run --quick|--full [--only submit,run]`: measure, check, write the results as JSON."""

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.performance.backlog import backlog
from tests.performance.goals import BY_NAME, verdict
from tests.performance.latency import start
from tests.performance.listing import list_jobs
from tests.performance.looking import look
from tests.performance.measurement import FULL, QUICK, Comparison, Scale, load_average
from tests.performance.memory import memory
from tests.performance.processes import ROOT
from tests.performance.running import run_jobs
from tests.performance.servers import Servers, running_servers
from tests.performance.submit import submit, submit_batches

Step = Callable[[Servers, Scale], list[Comparison]]

STEPS: dict[str, Step] = {
    "submit": submit,
    "batch": submit_batches,
    "run": run_jobs,
    "start": start,
    "look": look,
    "list": list_jobs,
    "backlog": backlog,
    "memory": memory,
}
FOLDER = ROOT / "var" / "bench"
QUIET = 0.5
PACKAGES = ("flask", "gunicorn", "gevent", "celery", "kombu", "redis", "psycopg", "sqlalchemy")
PEERS = ("fastapi", "uvicorn", "uvloop", "saq", "procrastinate")


def main() -> int:
    """Run the steps that were asked for; 1 when a figure had to be discarded."""
    options = _options()
    # Somebody who stops it must not find servers and folders left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = _about(options.mode)
    failed = []
    for name in options.only or STEPS:
        began, load_before = time.monotonic(), load_average()
        if load_before > QUIET:
            print(f"{name}: the machine is not quiet (load {load_before:.2f}); trust ratios only")
        try:
            with running_servers() as servers:
                results["engines"] = servers.engines
                comparisons = STEPS[name](servers, FULL if options.mode == "full" else QUICK)
        except Exception as error:  # noqa: BLE001 - one benchmark that fails says so, and the others still run
            traceback.print_exc()
            failed.append(name)
            results["steps"][name] = {"discarded": f"{type(error).__name__}: {error}"}
        else:
            results["steps"][name] = {
                "seconds": round(time.monotonic() - began, 1),
                "load_before": load_before,
                "comparisons": [comparison.as_mapping() for comparison in comparisons],
            }
            for comparison in comparisons:
                print(line(comparison), flush=True)
        _write(options.output, results)
    print(f"written to {options.output}")
    for name in failed:
        print(f"FAILED {name}: its figures do not count")
    return 1 if failed else 0


def line(comparison: Comparison) -> str:
    """One figure as a line for people."""
    goal = BY_NAME[comparison.name]
    sign = "≥" if comparison.better == "more" else "≤"
    spread = f"{min(comparison.round_ratios):.2f}–{max(comparison.round_ratios):.2f}"
    figures = f"{comparison.our_median:>9,.1f} beside {comparison.their_median:>9,.1f} {comparison.unit:<7}"
    wanted = f"goal {sign} {goal.goal:g}: {verdict(comparison)}"
    return f"{comparison.name:<18} {figures} ratio {comparison.ratio:.2f} ({spread}), {wanted}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", dest="mode", action="store_const", const="quick", help="some minutes (default)")
    mode.add_argument("--full", dest="mode", action="store_const", const="full", help="with 1,000,000 jobs")
    parser.add_argument("--only", type=_steps, help=f"some of {','.join(STEPS)}")
    parser.add_argument("--output", type=Path, help="where the results go (var/bench/<mode>.json)")
    options = parser.parse_args()
    options.mode = options.mode or "quick"
    options.output = options.output or FOLDER / f"{options.mode}.json"
    return options


def _steps(names: str) -> list[str]:
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return wanted


def _about(mode: str) -> dict[str, Any]:
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "mode": mode,
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in (*PACKAGES, *PEERS)},
        "steps": {},
    }


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
