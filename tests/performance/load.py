"""An HTTP load generator in a process of its own: `python -m tests.performance.load` reads a plan, writes a report.

A closed loop over keep-alive connections: each sends its next request when it has the answer to its last. Written
on `poll` and plain sockets because it shares the machine's cores with what it measures: about 20 µs a request.
"""

import json
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from tests.performance.measurement import Discarded, percentile
from tests.performance.processes import environment_of

STILL_OUT_SECONDS = 20.0
"""How long the last answers may take once the time is over."""
MOST_CPU_SHARE = 0.5
"""Of one core: a client busier than that may be what is being measured."""
ANSWERED = range(200, 300)

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Plan:
    """What to send. A `{n}` in a header's value becomes the request's number; paths are taken in turns."""

    port: int
    method: str
    paths: list[str]
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    connections: int = 32
    warm_seconds: float = 1.0
    """Sent and checked like the rest, but not counted."""
    seconds: float = 4.0
    most_requests: int = 500_000
    keep_ids: bool = False
    keep_items: bool = False
    """For lists: the ids of an answer's items, joined by commas, are its id."""


@dataclass
class Report:
    """What came of it."""

    rate: float
    """Answers per second, once warm."""
    latencies_ms: dict[str, float]
    requests: int
    client_cpu_share: float
    ids: list[str]
    """The `id` of every answer, warm-up included, if the plan asked for them."""


def run_load(plan: Plan) -> Report:
    """Run the plan in a fresh process. Raises Discarded for any answer but 2xx, and when the client was too busy."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.performance.load"],
        input=json.dumps(asdict(plan)),
        env=environment_of(),
        capture_output=True,
        text=True,
        check=False,
        timeout=plan.warm_seconds + plan.seconds + STILL_OUT_SECONDS + 30,
    )
    if finished.returncode != 0:
        raise Discarded(f"the load generator failed: {finished.stderr.strip()[-2000:]}")
    report = Report(**json.loads(finished.stdout))
    if report.client_cpu_share > MOST_CPU_SHARE:
        raise Discarded(f"the load generator used {report.client_cpu_share:.0%} of a core")
    return report


class _Connection:
    """One keep-alive connection and the request it waits for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent_at = 0

    def send(self, request: bytes | None) -> bool:
        """Send the next request; False when there is none."""
        if request is None:
            return False
        self.received = b""
        self.sent_at = time.perf_counter_ns()
        self.socket.sendall(request)
        return True

    def answer(self) -> bytes | None:
        """The body, once the answer is complete. Raises ConnectionError; RuntimeError for anything but 2xx."""
        chunk = self.socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("the server closed a connection")
        self.received += chunk
        head_end = self.received.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        length = _LENGTH.search(self.received, 0, head_end + 2)
        if length is None:
            raise ConnectionError(f"an answer without Content-Length: {self.received[:200]!r}")
        if len(self.received) < head_end + 4 + int(length[1]):
            return None
        if int(self.received[9:12]) not in ANSWERED:
            raise RuntimeError(f"answered {self.received[:500]!r}")
        return self.received[head_end + 4 :]


def _requests(plan: Plan) -> Iterator[bytes]:
    """The requests as bytes, numbered, without end."""
    body = plan.body.encode()
    headers = {"Host": f"127.0.0.1:{plan.port}", **plan.headers}
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    before, marker, after = lines.partition("{n}")
    heads = [f"{plan.method} {path} HTTP/1.1\r\n" for path in plan.paths]
    for number in range(sys.maxsize):
        middle = str(number) if marker else ""
        yield f"{heads[number % len(heads)]}{before}{middle}{after}\r\n".encode() + body


def generate(plan: Plan) -> Report:
    """Send, receive, and count. Raises ConnectionError; RuntimeError for an answer other than 2xx."""
    poll = select.poll()
    connections: dict[int, _Connection] = {}
    for _ in range(plan.connections):
        connection = _Connection(plan.port)
        connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.POLLIN)

    requests = islice(_requests(plan), plan.most_requests)
    latencies: list[int] = []
    bodies: list[bytes] = []
    answered = 0
    cpu_before = _cpu_seconds()
    began = time.perf_counter_ns()
    counted_from = began + int(plan.warm_seconds * 1e9)
    until = counted_from + int(plan.seconds * 1e9)
    waiting = sum(connection.send(next(requests, None)) for connection in connections.values())
    while waiting:
        events = poll.poll(STILL_OUT_SECONDS * 1000)
        if not events:
            raise ConnectionError(f"{waiting} requests were not answered within {STILL_OUT_SECONDS:.0f} s")
        for descriptor, _ in events:
            connection = connections[descriptor]
            body = connection.answer()
            if body is None:
                continue
            now = time.perf_counter_ns()
            answered += 1
            if plan.keep_ids or plan.keep_items:
                bodies.append(body)
            if counted_from <= now < until:
                latencies.append(now - connection.sent_at)
            if not connection.send(next(requests, None) if now < until else None):
                waiting -= 1
    elapsed = (time.perf_counter_ns() - began) / 1e9
    return Report(
        rate=len(latencies) / min(plan.seconds, elapsed),
        latencies_ms=summary_ms(latencies),
        requests=answered,
        client_cpu_share=round((_cpu_seconds() - cpu_before) / elapsed, 3),
        ids=[_id_of(json.loads(body), is_list=plan.keep_items) for body in bodies],
    )


def _id_of(answer: dict[str, Any], *, is_list: bool) -> str:
    return ",".join(item["id"] for item in answer["items"]) if is_list else str(answer["id"])


def summary_ms(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    if not nanoseconds:
        raise RuntimeError("no answer came while it counted")
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(nanoseconds, share) / 1e6, 3) for name, share in shares.items()}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """A plan as JSON on stdin, a report as JSON on stdout."""
    plan: dict[str, Any] = json.load(sys.stdin)
    json.dump(asdict(generate(Plan(**plan))), sys.stdout)


if __name__ == "__main__":
    main()
