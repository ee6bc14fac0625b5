"""Celery's consumer, told to hold no more than it can start soon, and to send events in bundles."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from celery.bootsteps import RUN
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from redis.exceptions import RedisError

from service.redis_transport import MendedChannel

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
WAITING_SECONDS = 1.0
"""A message that was not started after so long is given back: another worker may be idle. Less than the two seconds
after which the clock takes a ring for lost."""
MOST_PER_PROCESS = 16
WRITTEN_AHEAD = 8
"""How many jobs a pool process may have at once, one running and the others in its pipe, while jobs are short."""

EVENTS_SECONDS = 0.25
EVENTS_AT_A_TIME = 500
EVENTS_KEPT = 20
"""Bundles of events kept while the broker takes none; older ones are dropped."""


class Consumer(CeleryConsumer):  # type: ignore[misc] # celery ships no types
    """Takes more messages than there are processes for only while jobs are short, and gives back what waits too long.

    A message that lies here is out of sight of idle workers, and one behind a long job would wait for its end.
    """

    _started_before = 0
    _flush_entry: Any = None

    def register_with_event_loop(self, hub: Any) -> None:
        """Called at every new connection to the broker."""
        super().register_with_event_loop(hub)
        self._flush_entry = None
        if isinstance(self.task_consumer.channel, MendedChannel):
            hub.call_repeatedly(LOOK_SECONDS, self.look_after_messages)
        dispatcher = self.event_dispatcher
        if dispatcher:
            dispatcher.buffer_limit = EVENTS_AT_A_TIME
            dispatcher._outbound_buffer = deque(dispatcher._outbound_buffer, maxlen=EVENTS_KEPT)  # noqa: SLF001

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """What is called with each message. One that is no ring is refused before anything is made of it.

        celery 5.7.0 would keep it among its requests for good, and with it a process' share of what may be held.
        """
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> Any:
            if is_ring(message.headers):
                return handle(message)
            log.error("refused a message that is no ring")
            message.reject_log_error(log, self.connection_errors)
            return None

        return on_message

    def look_after_messages(self) -> None:
        """Hold at most as many messages as were started since the last look, one per process at least."""
        if self.blueprint.state != RUN:  # stopping: what was not started goes back with the connection
            return
        started, self._started_before = state.all_total_count[0] - self._started_before, state.all_total_count[0]
        processes = self.pool.num_processes
        late = self._give_back_late()
        self.qos.value = processes if late else max(processes, min(started, processes * MOST_PER_PROCESS))
        self.task_consumer.channel.qos.enough = processes
        self.pool.write_ahead(WRITTEN_AHEAD if self.qos.value >= processes * WRITTEN_AHEAD else 1)

    def _give_back_late(self) -> bool:
        """Put messages back that wait behind long jobs. Who starts one first claims its job; the other finds it so."""
        before = time.monotonic() - WAITING_SECONDS
        late = [
            request
            for request in tuple(state.reserved_requests)
            if request.worker_pid is None and not request.acknowledged and request.received < before
        ]
        if not late:
            return False
        late.sort(key=lambda request: request.received)
        try:
            self.task_consumer.channel.give_back([request.message for request in late])
        except (*self.connection_errors, RedisError) as error:
            log.warning("could not give back messages that wait: %s", type(error).__name__)
            return True
        for request in late:
            request.acknowledge()
        log.info("gave back %d messages that waited behind longer jobs", len(late))
        return True

    def on_send_event_buffered(self) -> None:
        """Send what was collected a moment later, in one message."""
        if self._flush_entry is None:
            self._flush_entry = self.hub.call_later(EVENTS_SECONDS, self._flush_events)

    def _flush_events(self) -> None:
        self._flush_entry = None
        super()._flush_events()

    def shutdown(self) -> None:
        """Close everything; events of the last jobs are sent first."""
        self._flush_events()
        super().shutdown()


def is_ring(headers: Mapping[str, Any]) -> bool:
    """Whether these are the headers of a ring: a job's type and id, time limits, and nothing that would delay it."""
    limits = headers.get("timelimit") or (None, None)
    if not isinstance(limits, list | tuple) or len(limits) != len(("hard", "soft")):
        return False
    if not all(limit is None or isinstance(limit, int | float) for limit in limits):
        return False
    if not isinstance(headers.get("task"), str) or any(headers.get(name) for name in ("eta", "expires", "shadow")):
        return False
    task_id = headers.get("id")
    try:
        return isinstance(task_id, str) and str(UUID(task_id)) == task_id  # and not one of its other spellings
    except ValueError:
        return False
