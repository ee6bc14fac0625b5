"""Memory of the processes, idle and over many jobs submitted over HTTP and run."""

import json
from contextlib import ExitStack

import psutil

from tests.performance.job_types import NOOP
from tests.performance.load import Plan, run_load
from tests.performance.measurement import Comparison, Discarded, Scale
from tests.performance.processes import private_megabytes
from tests.performance.running import one, wait_until_none_is_left
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace, Processes

PARTS = 5
LONGEST_PART_SECONDS = 600.0
CHECKED = "every job was stored, ended well and ran once"


def memory(servers: Servers, scale: Scale) -> list[Comparison]:
    """After every job beside after a fifth of them: what is touched for the first time is not growth."""
    with ExitStack() as stack:
        millrace = Millrace.install(servers)
        processes = stack.enter_context(millrace.running("api", "workers", "beat"))
        connection = stack.enter_context(millrace.connect())
        samples = [_sample(processes)]
        for part in range(PARTS):
            plan = Plan(
                port=processes.port,
                method="POST",
                paths=["/api/v1/jobs"],
                headers={"Authorization": f"Bearer {millrace.key}", "Idempotency-Key": f"memory-{part}-{{n}}"},
                body=json.dumps({"type": NOOP, "args": {"number": 1}}),
                connections=16,
                warm_seconds=0,
                seconds=LONGEST_PART_SECONDS,
                most_requests=scale.memory_jobs // PARTS,
                keep_ids=True,
            )
            report = run_load(plan)
            wait_until_none_is_left(connection, "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
            millrace.check_run_once(report.ids)
            samples.append(_sample(processes))
        if one(connection, "SELECT count(*) FROM jobs") != scale.memory_jobs // PARTS * PARTS:
            raise Discarded("not every job was stored, or more than those")
    details = {"idle": samples[0], "after each fifth": samples[1:], "jobs": scale.memory_jobs}
    return [
        Comparison(f"memory-{name}", "MB", "less", [samples[-1][key]], [samples[1][key]], CHECKED, details)
        for name, key in (("api", "API process"), ("worker", "worker, main process"))
    ]


def _sample(processes: Processes) -> dict[str, float]:
    """Private memory in megabytes; of several processes of a kind the largest."""
    pids = processes.pids
    api = [child.pid for child in psutil.Process(pids["api"]).children()]
    pool = [child.pid for child in psutil.Process(pids["worker-default"]).children()]
    kinds = {
        "API process": api,
        "worker, main process": [pids["worker-default"]],
        "worker, pool process": pool,
        "beat": [pids["beat"]],
    }
    return {kind: round(max(map(private_megabytes, of)), 1) for kind, of in kinds.items()}
