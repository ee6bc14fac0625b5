"""Kombu's Redis transport with its defects mended, under kombu's own aliases.

Call `install()` before the first `Celery()` of the process is made; URLs and options stay as kombu documents them.

Each mend is a method of `MendedChannel`, names the version it was seen in, and can go when upstream has it. What is
ours for speed, the account of messages in memory and taking many at once, has its reasons in decision 17.
"""

import logging
from collections.abc import Sequence
from queue import Empty
from typing import Any

import orjson
from kombu import transport as kombu_transport
from kombu.transport import redis, virtual
from kombu.transport.virtual import Message as VirtualMessage
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


MALFORMED = (ValueError, TypeError, KeyError, AttributeError)
"""What kombu 5.7.0 and celery 5.7.0 raise, and end the worker with, over a message that is not shaped like one."""


class CheckedMessage(VirtualMessage):
    """A message whose shape was looked at before anybody relies on it. Raises one of MALFORMED."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel=channel, **kwargs)
        shapes = ((self.delivery_tag, str), (self.delivery_info, dict), (self.properties, dict), (self.headers, dict))
        if not all(isinstance(value, kind) for value, kind in shapes) or self.content_type != "application/json":
            raise ValueError("not a message of ours")
        if not all(isinstance(self.delivery_info.get(name), str) for name in ("exchange", "routing_key")):
            raise ValueError("not a message that could be given back")
        orjson.loads(self.body)


class HeldMessages(virtual.QoS):
    """The account of unacknowledged messages, kept by this process alone.

    kombu 5.7.0 keeps it in Redis, at two round trips per message, so that another worker finds what a dead one held
    once the visibility timeout is over. Here PostgreSQL knows every job, and rings within seconds what got lost.
    """

    enough = 0
    """With so many messages held nobody is idle: more are asked for once over half of the room is free. 0: at once."""

    def can_consume(self) -> bool:
        """Whether to ask for more."""
        if not self.prefetch_count:
            return True
        few = max(self.enough, self.prefetch_count // 2) if self.enough else self.prefetch_count
        return self.held() < min(few, self.prefetch_count)

    def room(self) -> int:
        """How many messages more may be held."""
        return max(self.prefetch_count - self.held(), 0)

    def held(self) -> int:
        """How many messages are held, unacknowledged."""
        return len(self._delivered) - len(self._dirty)

    def newest(self) -> str | None:
        """The delivery tag of the message that came last."""
        return next(reversed(self._delivered), None)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Let go of a message; with `requeue` it goes to the end of its queue."""
        if requeue:
            self.channel.give_back([self.get(delivery_tag)], to_the_end=True)
        self.ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Put back what is held, in its order, to be taken next. What Redis does not take back is rung again."""
        self._flush()
        messages = list(self._delivered.values())
        self._delivered.clear()
        try:
            self.channel.give_back(messages)
        except (*self.channel.connection_errors, RedisError) as error:
            log.warning("could not give %d messages back to Redis: %s", len(messages), type(error).__name__)
        return []


class MendedChannel(redis.Channel):
    """The Redis channel, not to be ended by a malformed message, and closed for good by the first `close()`.

    Seen in kombu 5.7.0 under celery 5.7.0: closing a channel whose BRPOP is under way reads the reply, and with Redis
    gone that raises before the channel is marked closed; closing remote control's channel raises likewise when it
    deletes its queue, and ends the round that would have closed the others. `Connection.collect()` swallows both
    errors and takes the transport's client away. The worker's second close then gets as far as giving unacknowledged
    messages back, has no client left to connect with, and ends the worker's main process with `AttributeError:
    'NoneType' object has no attribute 'hostname'`. kombu 5.6 is free of it.
    """

    Message = CheckedMessage
    QoS = HeldMessages  # type: ignore[assignment] # as kombu's own channel does with `ack_emulation` off

    def _brpop_read(self, **options: Any) -> Any:
        """Take the message that came and, if others are being worked at, what else its queue has and there is room for.

        A worker that was idle does not ask: the one message that woke it would wait for the answer.
        """
        try:
            answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()  # so that the next round connects anew
            raise
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        if not answer:
            raise Empty
        key, first = bytes_to_str(answer[0]), answer[1]
        queue = key.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        self._hand_out(first, queue)
        if self.qos.held() > 1 and not self._closing and (room := self.qos.room()):
            with self.conn_or_acquire() as client:
                more = client.rpop(key, room)
            for message in more or ():
                self._hand_out(message, queue)
        return True

    def _hand_out(self, message: bytes, queue: str) -> None:
        """Give a message to its consumer. One that is malformed is refused, and the consumer goes on.

        Whoever may write to Redis could otherwise end every worker with one line. A ring lost that way is rung again.
        """
        newest = self.qos.newest()
        try:
            self.connection._deliver(orjson.loads(message), queue)  # noqa: SLF001 - as kombu's channel does
        except MALFORMED as error:
            log.error("refused a malformed message: %s", type(error).__name__)  # noqa: TRY400 - its content is not ours
            if (refused := self.qos.newest()) != newest:  # it was handed over, and nobody else will acknowledge it
                self.qos.ack(refused)

    def give_back(self, messages: Sequence[VirtualMessage], *, to_the_end: bool = False) -> None:
        """Put messages back into their queues, in one round trip: to be taken next and in this order, or last."""
        if not messages:
            return
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for message in messages if to_the_end else reversed(messages):
                info = message.delivery_info
                self._do_restore_message(message._raw, info["exchange"], info["routing_key"], pipe, to_the_end)  # noqa: SLF001
            pipe.execute()

    def _restore(self, message: VirtualMessage, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        self.give_back([message], to_the_end=leftmost)

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """A client of the channel's pool; one for as long as the pool lasts.

        kombu 5.7.0 makes a new one for every command, which costs more than the command.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)
        client = self.__dict__.get("_kept_client")
        if client is None or client.connection_pool is not self.pool:
            client = self.__dict__["_kept_client"] = super()._create_client()
        return client

    def close(self) -> None:
        """Close the channel. A server that does not answer costs the messages their early return, nothing more."""
        self._closing = True
        self._finish_pending_read()
        super().close()

    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete the queue.

        While the channel closes, an unreachable server is no error: raising would leave the channel open.
        """
        try:
            super().queue_delete(queue, *args, **kwargs)
        except self.connection_errors as error:
            if not self._closing:
                raise
            log.debug("Redis was unreachable while a channel deleted its queue in closing: %r", error)

    def _finish_pending_read(self) -> None:
        """Take the reply that the server may already have sent: a message in it is out of its list and only here."""
        if not self._in_poll:
            return
        try:
            self._brpop_read()
        except Empty:
            pass
        except self.connection_errors as error:
            log.debug("Redis was unreachable while a channel closed: %r", error)
        finally:
            self._in_poll = False


class MendedSentinelChannel(MendedChannel, redis.SentinelChannel):
    """The same for a master found through Redis Sentinel."""


class Transport(redis.Transport):
    """`redis://` and, since only the channel's connection class differs, `rediss://`."""

    Channel = MendedChannel


class SentinelTransport(redis.SentinelTransport):
    """`sentinel://`, with or without TLS."""

    Channel = MendedSentinelChannel


def install() -> None:
    """Make kombu use these transports for `redis://`, `rediss://` and `sentinel://`. Calling it again changes nothing.

    Connections made earlier in the process keep the transport they have.
    """
    for alias, transport in (("redis", Transport), ("rediss", Transport), ("sentinel", SentinelTransport)):
        kombu_transport.TRANSPORT_ALIASES[alias] = f"{__name__}:{transport.__name__}"
        kombu_transport._transport_cache.pop(alias, None)  # noqa: SLF001 - resolved classes are kept, by alias
