"""The nemesis: what goes wrong, one method per fault. Each says in the history what it did."""

import base64
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import orjson
import psycopg

from service.queues import Queue
from tests.faults.history import History
from tests.faults.stack import Stack, family

PICKLE_MARK = "a-pickle-was-loaded"
"""The file that a forged message would make in the stack's folder, if anybody unpickled it."""


class Nemesis:
    """Does to the stack what its seed says. What it kills stays dead unless the method's name says otherwise."""

    def __init__(self, stack: Stack, history: History, seed: int) -> None:
        self.stack = stack
        self.random = random.Random(f"nemesis-{seed}")
        self._history = history

    def note(self, fault: str, **details: object) -> None:
        """Write down what is done."""
        self._history.record("fault", name=fault, **details)

    # Processes

    def kill_api_process(self) -> int:
        """kill -9 one of gunicorn's processes; gunicorn makes another."""
        return self._kill_one("kill_api_process", self.stack.processes["api"].children())

    def kill_pool_process(self, worker: str = "worker-1") -> int:
        """kill -9 one of a worker's pool processes; the worker makes another."""
        return self._kill_one("kill_pool_process", self.stack.processes[worker].children())

    def kill_worker_parent(self, worker: str = "worker-1") -> None:
        """kill -9 a worker's main process alone."""
        self.note("kill_worker_parent", worker=worker)
        self.stack.send(worker, signal.SIGKILL)

    def kill_clock(self) -> str | None:
        """kill -9 the beat that is the clock."""
        leader = self.stack.leader()
        self.note("kill_clock", beat=leader)
        if leader:
            self.stack.end(leader)
        return leader

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """SIGSTOP a process (`api`, `worker-1`, …, `redis`, `postgres`) with children, for the length of the block."""
        servers = {"redis": self.stack.redis.pid, "postgres": self.stack.postgres.pid}
        pid = servers[name] if name in servers else self.stack.processes[name].pid
        self.note("stop", process=name)
        stopped = family(pid)
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                if process.is_running():
                    process.send_signal(signal.SIGCONT)
            self.note("continue", process=name)

    # Redis

    def flush_redis(self) -> None:
        """FLUSHALL."""
        self.note("flush_redis")
        with self.stack.broker() as broker:
            broker.flushall()

    def kill_redis(self) -> None:
        """kill -9, and its data are gone as well."""
        self.note("kill_redis")
        self.stack.redis.kill()
        for path in (self.stack.folder / "redis").rglob("*.aof"):
            path.unlink()
        for path in (self.stack.folder / "redis").rglob("*.manifest"):
            path.unlink()

    def limit_redis(self, policy: str) -> None:
        """Let Redis be full at once and refuse (`noeviction`), or have a megabyte and throw away (`allkeys-lru`)."""
        self.note("limit_redis", policy=policy)
        with self.stack.broker() as broker:
            broker.config_set("maxmemory-policy", policy)
            broker.config_set("maxmemory", 1 if policy == "noeviction" else 1 << 20)

    def forge_messages(self) -> list[bytes]:
        """Put messages into the queues that no ring of ours looks like; returns them."""
        header = {
            "lang": "py",
            "task": "test.echo",
            "id": str(uuid4()),
            "root_id": None,
            "argsrepr": "()",
            "kwargsrepr": "",
        }
        properties = {
            "correlation_id": str(uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "default"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        }

        def message(body: str, content_type: str = "application/json", **headers: object) -> bytes:
            return orjson.dumps(
                {
                    "body": body,
                    "content-encoding": "utf-8",
                    "content-type": content_type,
                    "headers": {**header, **headers},
                    "properties": {**properties, "delivery_tag": str(uuid4())},
                }
            )

        empty = "W1tdLCB7fSwge31d"  # base64 of [[], {}, {}]
        # What pickle would read as: call os.system with this command.
        pickled = base64.b64encode(f"cos\nsystem\n(S'touch {self.stack.folder / PICKLE_MARK}'\ntR.".encode()).decode()
        nowhere = {**properties, "delivery_tag": str(uuid4()), "delivery_info": {}}  # could not be given back
        forged = [
            message(pickled, "application/x-python-serialize"),
            message(empty, task="os.system"),
            message(empty, task="fault.effect", id="not-an-id"),
            message(empty, task="fault.effect", id=str(uuid4())),
            message(empty, task="celery.backend_cleanup"),
            message(empty, task="fault.effect", id=[str(uuid4())]),
            message(empty, task="fault.effect", eta="2126-01-01T00:00:00+00:00"),
            message(empty, task="fault.effect", timelimit="long"),
            message(empty, task=["fault.effect"]),
            message("W1tdLCB7", task="test.echo"),
            message("!!!", task="test.echo"),
            orjson.dumps({"body": empty}),
            orjson.dumps({"body": empty, "headers": {}, "properties": properties, "content-type": "application/json"}),
            orjson.dumps({"body": empty, "headers": header, "properties": nowhere, "content-type": "application/json"}),
            orjson.dumps({"properties": {}}),
            orjson.dumps([1, 2, 3]),
            b'{"body": "W1tdLCB7fSwg',
            b"null",
            b"\x80\x04\x95\x00garbage\xff\xfe",
            b"",
        ]
        self.note("forge_messages", count=len(forged))
        with self.stack.broker() as broker:
            for queue in Queue:
                for one in self.random.sample(forged, len(forged)):
                    broker.lpush(queue.value, one)
        return forged

    def double_rings(self, times: int = 10) -> int:
        """Copy what lies in the queues so many times, in another order; returns how many messages were added."""
        added = 0
        with self.stack.broker() as broker:
            for queue in Queue:
                copies = broker.lrange(queue.value, 0, 200) * times
                self.random.shuffle(copies)
                if copies:
                    broker.lpush(queue.value, *copies)
                added += len(copies)
        self.note("double_rings", added=added)
        return added

    # PostgreSQL

    def kill_postgres(self) -> None:
        """kill -9 the postmaster, and start it again: it recovers from its log."""
        self.note("kill_postgres")
        self.stack.postgres.kill()
        self.stack.start_postgres()

    def terminate_connections(self, role: str = "%") -> int:
        """End the connections of the API, the worker or the beats, in mid-transaction or not."""
        rows = self.stack.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s",
            f"millrace-{role}",
            superuser=True,
        )
        self.note("terminate_connections", role=role, count=len(rows))
        return len(rows)

    @contextmanager
    def terminating(self, *, every_seconds: float = 0.1) -> Iterator[list[int]]:
        """One connection at random, again and again, for the length of the block; the process ids of all so far."""
        stopped = threading.Event()
        ended: list[int] = []
        self.note("terminating")

        def loop() -> None:
            with psycopg.connect(self.stack.superuser_url, autocommit=True) as connection:
                while not stopped.wait(every_seconds):
                    found = connection.execute(
                        "SELECT pid FROM (SELECT pid FROM pg_stat_activity "
                        "WHERE application_name LIKE 'millrace-%' ORDER BY random() LIMIT 1) AS one "
                        "WHERE pg_terminate_backend(pid)"
                    )
                    ended.extend(pid for (pid,) in found)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield ended
        finally:
            stopped.set()
            thread.join()

    @contextmanager
    def locked(self, table: str = "jobs") -> Iterator[None]:
        """An open transaction that holds the table's strongest lock for the length of the block."""
        self.note("lock", table=table)
        with psycopg.connect(self.stack.superuser_url) as connection:
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()

    def _kill_one(self, fault: str, pids: list[int]) -> int:
        pid = self.random.choice(sorted(pids))
        self.note(fault, pid=pid)
        os.kill(pid, signal.SIGKILL)
        return pid
