"""Kombu's Redis transport with its defects mended, under kombu's own aliases.

Call `install()` before the first `Celery()` of the process is made; URLs and options stay as kombu documents them.

Each mend is a method of `MendedChannel`, names the version it was seen in, and can go when upstream has it.
"""

import logging
from queue import Empty
from typing import Any

import orjson
from kombu import transport as kombu_transport
from kombu.transport import redis
from kombu.transport.virtual import Message
from kombu.transport.virtual import QoS as VirtualQoS
from redis.exceptions import OutOfMemoryError

log = logging.getLogger(__name__)


MALFORMED = (ValueError, TypeError, KeyError, AttributeError)
"""What kombu 5.7.0 and celery 5.7.0 raise, and end the worker with, over a message that is not shaped like one."""


class CheckedMessage(Message):
    """A message whose shape was looked at before anybody relies on it. Raises one of MALFORMED."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel=channel, **kwargs)
        shapes = ((self.delivery_tag, str), (self.delivery_info, dict), (self.properties, dict), (self.headers, dict))
        if not all(isinstance(value, kind) for value, kind in shapes) or self.content_type != "application/json":
            raise ValueError("not a message of ours")
        orjson.loads(self.body)


class PatientQoS(redis.QoS):
    """Keeps account of unacknowledged messages; while Redis is full, in memory alone.

    Seen in celery 5.7.0 with kombu 5.7.0 and redis 8.1.0: the account's write is refused, and the error ends the
    worker. A message that only this process knows of is lost with it, and then its job is rung again.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that is handed out."""
        try:
            super().append(message, delivery_tag)
        except OutOfMemoryError:
            log.warning("Redis is full: a message is handed out without a note of it there")
            VirtualQoS.append(self, message, delivery_tag)


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
    QoS = PatientQoS

    def _brpop_read(self, **options: Any) -> Any:
        """Take one message; one that is malformed is refused, and the consumer goes on.

        Whoever may write to Redis could otherwise end every worker with one line. A ring lost that way is rung again.
        """
        try:
            return super()._brpop_read(**options)
        except MALFORMED as error:
            log.error("refused a malformed message: %s", type(error).__name__)  # noqa: TRY400 - its content is not ours
            raise Empty from None

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
