"""Celery's prefork pool, noticing at once that a process died, and keeping its processes busy while jobs are short."""

import select
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from heapq import heapify
from typing import Any
from uuid import UUID

from billiard.pool import EX_FAILURE, EX_OK, EX_RECYCLE
from celery.concurrency.asynpool import AsynPool, ResultHandler, Worker
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker import state

from worker.job_request import give_all_back

LOOK_SECONDS = 0.5
RESULTS_AT_A_TIME = 64
FEW_TIMERS = 1000


class Occupancy:
    """How many jobs each process has, by its pipe: what celery 5.7.0 keeps as the set of busy processes.

    A process counts as busy once it has as many as are allowed, or more than another one has.
    """

    def __init__(self, pipes: set[int]) -> None:
        self._pipes = pipes
        self._jobs: dict[int, int] = {}
        self.allowed = 1

    def add(self, pipe: int) -> None:
        """One more job is written to the process."""
        self._jobs[pipe] = self._jobs.get(pipe, 0) + 1

    def one_done(self, pipe: int) -> None:
        """The process has ended one."""
        self._jobs[pipe] = max(self._jobs.get(pipe, 0) - 1, 0)

    def discard(self, pipe: int) -> None:
        """The process is gone."""
        self._jobs.pop(pipe, None)

    def intersection_update(self, busy: Iterable[int]) -> None:
        """Of these processes alone it is known that they still run a job."""
        self._jobs = {pipe: self._jobs.get(pipe, 1) for pipe in busy}

    def __contains__(self, pipe: int) -> bool:
        jobs = self._jobs.get(pipe, 0)
        return jobs >= self.allowed or jobs > min(self._jobs.get(other, 0) for other in self._pipes)

    def __len__(self) -> int:
        return sum(jobs >= self.allowed for jobs in self._jobs.values())


class EagerResultHandler(ResultHandler):  # type: ignore[misc] # celery ships no types
    """Reads all that a process has said, where celery 5.7.0 goes through its event loop for every message."""

    def _make_process_result(self, hub: Any) -> Callable[[int], None]:
        def keep_reader(fd: int, callback: Any, *args: Any) -> None:
            if hub.readers.get(fd) != (callback, args):
                hub.add_reader(fd, callback, *args)

        def on_readable(fd: int) -> None:
            if fd not in self.fileno_to_outq:
                hub.remove_reader(fd)
                return
            for _ in range(RESULTS_AT_A_TIME):
                message = self._recv_message(keep_reader, fd, self.on_state_change)
                try:
                    next(message)
                except StopIteration:
                    if not _is_readable(fd):
                        return
                except (OSError, EOFError):
                    hub.remove_reader(fd)
                    return
                else:
                    hub.add_reader(fd, message)  # only a part of it is there
                    return

        return on_readable


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class Inbox:
    """A pool process' next jobs: those read ahead, and those still in its pipe."""

    def __init__(
        self, pipe: int, read: Callable[[float], tuple[bool, Any]], wait: Callable[[], Any], most: int | None
    ) -> None:
        """`most` is how many jobs the process runs before another takes its place."""
        self._pipe = pipe
        self._read = read
        self._wait = wait
        self._left = most or sys.maxsize
        self._ahead: deque[Any] = deque()
        self._is_over = False
        """The parent's last word, an empty message, was read ahead."""

    def next(self) -> Any:
        """The next job as billiard hands it over; None: none came, ask again. Ends the process when billiard would."""
        if self._is_over and not self._ahead:
            raise SystemExit(EX_FAILURE)
        request = self._ahead.popleft() if self._ahead else self._wait()
        self._left -= request is not None
        return request

    def has_more(self) -> bool:
        """Whether the next job is there already."""
        return bool(self._ahead) or _is_readable(self._pipe)

    def waiting(self, task: str) -> list[UUID]:
        """The ids of the jobs of one type that are there already."""
        while len(self._ahead) < self._left and not self._is_over and _is_readable(self._pipe):
            _, request = self._read(0.0)
            if request is None:
                self._is_over = True
                break
            self._ahead.append(request)
        ids = []
        for _, (_, _, _, arguments, _) in self._ahead:
            name, task_id, *_ = arguments
            with suppress(ValueError):  # a forged message; it is refused when its turn comes
                if name == task:
                    ids.append(UUID(task_id))
        return ids


_inbox: Inbox | None = None
"""In a pool process: its own."""


def job_is_waiting() -> bool:
    """In a pool process: whether its next job is there already. False everywhere else."""
    return _inbox is not None and _inbox.has_more()


def waiting_jobs(task: str) -> list[UUID]:
    """In a pool process: the ids of the next jobs of one type. None everywhere else."""
    return _inbox.waiting(task) if _inbox is not None else []


class PoolWorker(Worker):  # type: ignore[misc] # celery ships no types
    """What runs in a pool process."""

    def after_fork(self) -> None:
        """Called first in the new process."""
        super().after_fork()
        # billiard's own handler would end what runs between two handlers, a claim for one. `worker.lease` puts its own
        # in place for each handler. Not SIG_IGN, which programs that a handler starts would inherit.
        signal.signal(signal.SIGUSR1, lambda _signum, _frame: None)

    def _make_child_methods(self, *args: Any, **kwargs: Any) -> None:
        """Called before the first job: billiard's own way to its pipe, and ours around it."""
        global _inbox  # noqa: PLW0603 - one per process, by its nature
        super()._make_child_methods(*args, **kwargs)
        wait: Callable[[], Any] = self.wait_for_job
        _inbox = Inbox(self.inq._reader.fileno(), self._make_recv_method(self.inq), wait, self.maxtasks)  # noqa: SLF001
        self.wait_for_job: Callable[[], Any] = _inbox.next


class TimeLimits:
    """The event loop's timers, of which the pool sets one for each job's time limit and cancels it at the job's end.

    kombu 5.7.0 keeps a cancelled timer until it would have been due: some 600 bytes for a job that ended within
    milliseconds, for as many hours as it might have taken.
    """

    def __init__(self, heap: list[Any]) -> None:
        self._heap = heap
        self._allowed = FEW_TIMERS

    def forget_cancelled(self) -> None:
        """Let go of the cancelled ones, once they are most of all."""
        if len(self._heap) > self._allowed:
            self._heap[:] = [timer for timer in self._heap if not timer.entry.canceled]
            heapify(self._heap)
            self._allowed = max(FEW_TIMERS, 2 * len(self._heap))


class PromptPool(AsynPool):  # type: ignore[misc] # celery ships no types
    """A pool that looks after its processes more often; one look is a `waitpid` per process.

    With celery 5.7.0 it takes up to 5 s: the pool is told by the process' closing pipe, looks a moment too early (the
    kernel closes files before the process can be waited for), and then looks again only with its 5 s timer.
    """

    ResultHandler = EagerResultHandler
    Worker = PoolWorker
    on_process_lost: Callable[[int], None] | None = None
    """Called with the id of a process that did not end by itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.occupancy = self._busy_workers = Occupancy(self._all_inqueues)
        self._mark_worker_as_available = self.occupancy.one_done

    def flush(self) -> None:
        """Forget what no process was given yet.

        celery 5.7.0 forgets at a shutdown also what is written to a process that has not yet said that it took it. The
        process runs it all the same, and waits half a minute in vain for its parent to hear of its end.
        """
        handed_over = {number: job for number, job in self._cache.items() if getattr(job, "_write_to", None)}
        super().flush()
        if state.should_stop is not None:
            self._cache.update(handed_over)

    @property
    def timers(self) -> dict[object, float]:
        """What the event loop calls, and how often in seconds."""
        return {self.maintain_pool: LOOK_SECONDS, self._forget_cancelled_timers: LOOK_SECONDS}

    def register_with_event_loop(self, hub: Any) -> None:
        """Called at every new connection to the broker."""
        self._time_limits = TimeLimits(hub.timer._queue)  # noqa: SLF001 - kombu has no other way to its timers
        super().register_with_event_loop(hub)

    def _forget_cancelled_timers(self) -> None:
        self._time_limits.forget_cancelled()

    def _create_process_handlers(self, hub: Any) -> None:
        super()._create_process_handlers(hub)
        clean_up: Callable[[Any], None] = self.on_process_down

        def on_process_down(process: Any) -> None:
            clean_up(process)
            if process.exitcode not in (EX_OK, EX_RECYCLE) and self.on_process_lost is not None:
                self.on_process_lost(process.pid)

        self.on_process_down: Callable[[Any], None] = on_process_down

    def _create_write_handlers(self, hub: Any, **options: Any) -> None:
        super()._create_write_handlers(hub, **options)
        look_for_writers: Callable[[], None] = self.on_poll_start

        def on_poll_start() -> None:
            # The stock one asks the kernel to forget each pipe, at every turn of the loop.
            if self.outbound_buffer or not self._all_inqueues.isdisjoint(hub.writers):
                look_for_writers()

        self.on_poll_start: Callable[[], None] = on_poll_start


class TaskPool(PreforkPool):  # type: ignore[misc] # celery ships no types
    """The worker's pool."""

    Pool = PromptPool
    uses_semaphore = False  # the consumer holds only so many messages, and the pool knows which process has room

    def on_start(self) -> None:
        """Start the processes."""
        super().on_start()
        self._pool.on_process_lost = lambda pid: give_all_back(self.app, pid)

    def write_ahead(self, jobs: int) -> None:
        """Let each process have so many jobs at once: one running, the others in its pipe."""
        if self._pool is not None:
            self._pool.occupancy.allowed = jobs
