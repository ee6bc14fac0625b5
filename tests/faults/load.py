"""Clients of two tenants that submit, look, cancel and retry at a bounded rate, and write down what they were told."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson
import urllib3

from tests.faults.history import History

TIMEOUT = urllib3.Timeout(connect=3, read=20)
AMBIGUOUS = (429, 500, 502, 503, 504)
"""Answers after which a client repeats its request with the same key."""
MIX = {"submit": 60, "repeat": 8, "look": 16, "spy": 4, "cancel": 8, "retry": 4}
"""What clients do, in percent."""


@dataclass(frozen=True)
class Tenant:
    """A name and a key of it."""

    name: str
    key: str


@dataclass(frozen=True)
class Submission:
    """A request that makes one job, however often it is sent."""

    path: str
    key: str
    body: dict[str, Any]


@dataclass
class Client:
    """One thread's view of the service; it goes on until it is told to stop."""

    name: str
    tenant: Tenant
    url: str
    history: History
    random: random.Random
    mix: dict[str, int]
    others_jobs: list[str]
    """Jobs of the other tenants' clients, as they become known."""
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False, timeout=TIMEOUT))
    accepted: list[tuple[Submission, str]] = field(default_factory=list)
    unanswered: list[Submission] = field(default_factory=list)
    count: int = 0

    def act(self) -> None:
        """One action, drawn from the mix."""
        action = self.random.choices(list(self.mix), list(self.mix.values()))[0]
        if action == "submit" or not self.accepted:
            self.submit()
            return
        # A cancel is worth something while the job goes on.
        submission, job_id = self.random.choice(self.accepted[-2 if action == "cancel" else -200 :])
        if action == "repeat":
            self.send(submission)
        elif action == "look":
            self.request("GET", f"/jobs/{job_id}", job=job_id)
        elif action == "cancel":
            self.request("POST", f"/jobs/{job_id}/cancel", job=job_id)
        elif action == "retry":
            self.count += 1
            self.send(Submission(f"/jobs/{job_id}/retry", f"{self.name}-{self.count}", {}))
        elif self.others_jobs:
            self.request("GET", f"/jobs/{self.random.choice(self.others_jobs)}", spying=True)

    def submit(self) -> None:
        """Send a job that was never sent before; half of the ambiguous answers are followed up at once."""
        self.count += 1
        key = f"{self.name}-{self.count}"
        submission = Submission("/jobs", key, {**random_job(self.random), "metadata": {"key": key}})
        if not self.send(submission) and self.random.random() < 0.5:
            self.send(submission)

    def send(self, submission: Submission) -> bool:
        """Send it; whether the answer settled the matter."""
        answer = self.request(
            "POST",
            submission.path,
            key=submission.key,
            body=submission.body,
            headers={"Idempotency-Key": submission.key},
        )
        if answer is None or answer["status"] in AMBIGUOUS:
            if submission not in self.unanswered:
                self.unanswered.append(submission)
            return False
        if submission in self.unanswered:
            self.unanswered.remove(submission)
        if answer["status"] in (200, 202):
            self.accepted.append((submission, answer["job"]))
        return True

    def settle(self) -> None:
        """Repeat, once, what has no answer yet."""
        for submission in list(self.unanswered):
            self.send(submission)

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Any = None,
        job: str | None = None,
        headers: dict[str, str] | None = None,
        spying: bool = False,
    ) -> dict[str, Any] | None:
        """Send a request and write down both it and its answer; None when there was no answer."""
        entry: dict[str, Any] = {"client": self.name, "tenant": self.tenant.name, "method": method, "path": path}
        entry |= {"key": key, "job": job, "spying": spying}
        self.history.record("request", **entry)
        started = time.monotonic()
        try:
            response = self.http.request(
                method,
                f"{self.url}{path}",
                json=body,
                headers={"Authorization": f"Bearer {self.tenant.key}", **(headers or {})},
            )
        except urllib3.exceptions.HTTPError as error:
            took = round(time.monotonic() - started, 4)
            self.history.record("answer", **entry, status=None, error=type(error).__name__, seconds=took)
            return None
        took = round(time.monotonic() - started, 4)
        try:
            told = orjson.loads(response.data)
        except orjson.JSONDecodeError:
            told = {}
        answer = {**entry, "status": response.status, "state": told.get("state"), "job": told.get("id", job)}
        self.history.record("answer", **answer, seconds=took, retry_after=response.headers.get("Retry-After"))
        return answer


def random_job(source: random.Random) -> dict[str, Any]:
    """Mostly quick jobs; some work for a while, fail and mend, fail for good, kill their process, or start later."""
    job: dict[str, Any] = {"type": "fault.effect", "args": {"seconds": round(source.random() * 0.05, 3)}}
    kind = source.random()
    if kind < 0.08:
        job["args"]["seconds"] = round(source.uniform(0.3, 2), 2)
    elif kind < 0.14:
        job["args"]["failures"] = source.randint(1, 2)
    elif kind < 0.16:
        job["args"]["permanent"] = True
    elif kind < 0.17:
        job["args"]["crashes"] = 1
    elif kind < 0.27:
        job["delay"] = round(source.uniform(0.1, 3), 2)
    elif kind < 0.33:
        job["queue"] = "bulk"
    elif kind < 0.36:
        job["priority"] = source.randint(-5, 5)
    return job


class Load:
    """Several clients at once, for the length of the block."""

    def __init__(
        self,
        url: str,
        tenants: Sequence[Tenant],
        history: History,
        *,
        seed: int,
        clients: int = 4,
        per_second: float = 20.0,
        mix: dict[str, int] | None = None,
    ) -> None:
        known: dict[str, list[str]] = {tenant.name: [] for tenant in tenants}
        self.clients = []
        for number in range(clients):
            tenant = tenants[number % len(tenants)]
            other = tenants[(number + 1) % len(tenants)]
            name = f"{history.path.stem}-{seed}-{number}"
            source = random.Random(f"{seed}-{number}")
            self.clients.append(Client(name, tenant, url, history, source, mix or MIX, known[other.name]))
        self._known = known
        self._pause = clients / per_second
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(client,), name=client.name) for client in self.clients
        ]

    @property
    def accepted(self) -> int:
        """How many submissions were answered 2xx so far, repeats included."""
        return sum(len(client.accepted) for client in self.clients)

    def settle(self) -> int:
        """Repeat what has no answer; returns how many have none still."""
        for client in self.clients:
            client.settle()
        return sum(len(client.unanswered) for client in self.clients)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self, client: Client) -> None:
        try:
            while not self._stopped.wait(self._pause * client.random.uniform(0.5, 1.5)):
                client.act()
                if client.accepted:
                    self._known[client.tenant.name].append(client.accepted[-1][1])
        except BaseException as error:  # noqa: BLE001 - a client that dies must fail the test, not only its thread
            self._failures.append(error)
