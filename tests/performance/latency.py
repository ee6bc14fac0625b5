"""From submitting to the start of the handler on an idle system: one job at a time, Millrace and Celery in turns."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack

import urllib3

from tests.performance.job_types import MOMENT
from tests.performance.measurement import Comparison, Discarded, Scale, percentile
from tests.performance.peer_processes import celery_worker
from tests.performance.running import run_in
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace
from tests.performance.waiting import wait_for

BATCH = 50
APART_SECONDS = 0.02
"""Between two jobs: the one before has ended long since."""
CHECKED = "every job ended well and ran once"


def start(servers: Servers, scale: Scale) -> list[Comparison]:
    """Median and slowest hundredth, in batches of 50 taken in turns."""
    batches = max(scale.latency_samples // BATCH, 2)
    with ExitStack() as stack:
        ours, theirs = _millrace(servers, stack), _celery(servers, stack)
        ours(), theirs()  # the first of each finds everything cold
        pairs = [(ours(), theirs()) for _ in range(batches)]
    mine = [sample for batch, _ in pairs for sample in batch]
    peers = [sample for _, batch in pairs for sample in batch]
    return [
        Comparison(
            "start-p50",
            "ms",
            "less",
            [percentile(a, 0.5) for a, _ in pairs],
            [percentile(b, 0.5) for _, b in pairs],
            CHECKED,
        ),
        Comparison("start-p99", "ms", "less", [percentile(mine, 0.99)], [percentile(peers, 0.99)], CHECKED),
    ]


def _millrace(servers: Servers, stack: ExitStack) -> Callable[[], list[float]]:
    millrace = Millrace.install(servers)
    processes = stack.enter_context(millrace.running("api", "workers", "beat"))
    http = stack.enter_context(urllib3.HTTPConnectionPool("127.0.0.1", processes.port, maxsize=1))
    connection = stack.enter_context(millrace.connect())
    body = json.dumps({"type": MOMENT})
    headers = {"Authorization": f"Bearer {millrace.key}", "Content-Type": "application/json"}

    def batch() -> list[float]:
        sent: dict[str, int] = {}
        for _ in range(BATCH):
            now = time.monotonic_ns()
            answer = http.request(
                "POST", "/api/v1/jobs", body=body, headers={**headers, "Idempotency-Key": f"start-{now}"}
            )
            if answer.status != 202:
                raise Discarded(f"answered {answer.status}: {answer.data[:300]!r}")
            sent[answer.json()["id"]] = now
            time.sleep(APART_SECONDS)
        wait_for(
            lambda: connection.execute("SELECT count(*) FROM jobs WHERE state <> 'succeeded'").fetchone() == (0,),
            what="all jobs ended",
        )
        millrace.check_run_once(list(sent))
        rows = connection.execute("SELECT id, result FROM jobs WHERE id = ANY(%s::uuid[])", (list(sent),)).fetchall()
        return [(int(result) - sent[str(job_id)]) / 1e6 for job_id, result in rows]

    return batch


def _celery(servers: Servers, stack: ExitStack) -> Callable[[], list[float]]:
    peer, _ = stack.enter_context(celery_worker(servers))
    client = stack.enter_context(servers.redis_client("celery"))

    def batch() -> list[float]:
        client.delete("moments")
        sent = json.loads(run_in(peer, "stock_celery", f"print_sent({BATCH}, {APART_SECONDS})"))
        wait_for(lambda: client.hlen("moments") == BATCH, what="all moments")
        began = {int(number): int(moment) for number, moment in client.hgetall("moments").items()}
        return [(began[number] - moment) / 1e6 for number, moment in enumerate(sent)]

    return batch
