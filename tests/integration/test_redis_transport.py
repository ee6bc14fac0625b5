import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport import get_transport_cls

from deploy.local.servers import RedisServer
from service import redis_transport

REMOTE_CONTROL = Queue("pidbox", Exchange("pidbox", type="fanout"), auto_delete=True)
"""A queue such as every worker has for `celery inspect` and `celery control`."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    # Not tmp_path: the server runs as another user when the tests run as root.
    with tempfile.TemporaryDirectory(prefix="millrace-transport-") as folder:
        Path(folder).chmod(0o755)
        with RedisServer.start(Path(folder) / "redis") as server:
            yield server


@pytest.fixture
def connection(redis: RedisServer) -> Iterator[Connection]:
    redis_transport.install()
    with Connection(redis.url) as connection:
        yield connection


def test_the_aliases_of_redis_lead_to_the_mended_transports() -> None:
    get_transport_cls("redis")  # a class resolved before must not stick

    redis_transport.install()

    assert get_transport_cls("redis") is redis_transport.Transport
    assert get_transport_cls("rediss") is redis_transport.Transport
    assert get_transport_cls("sentinel") is redis_transport.SentinelTransport


def test_a_channel_reading_from_a_dead_server_closes_at_once_and_for_good(
    redis: RedisServer, connection: Connection
) -> None:
    channel = connection.channel()
    start_consuming(channel, Queue("jobs"))
    assert channel._in_poll

    redis.kill()
    channel.close()

    assert channel.closed
    assert not channel._in_poll
    assert channel not in connection.transport.channels


def test_a_channel_of_remote_control_closes_for_good_although_its_queue_cannot_be_deleted(
    redis: RedisServer, connection: Connection
) -> None:
    channel = connection.channel()
    start_consuming(channel, REMOTE_CONTROL)

    redis.kill()
    channel.close()

    assert channel.closed
    assert channel not in connection.transport.channels


def test_the_worker_may_close_its_connection_twice_when_the_server_died_under_unacknowledged_messages(
    redis: RedisServer, connection: Connection
) -> None:
    channel: Any = connection.default_channel
    start_consuming(channel, Queue("jobs"))
    connection.Producer().publish({}, routing_key="jobs")
    connection.drain_events(timeout=5)
    start_consuming(channel, Queue("jobs"))
    start_consuming(connection.channel(), REMOTE_CONTROL)
    assert channel._in_poll
    assert channel.qos._delivered

    redis.kill()
    connection.collect()
    connection.close()  # the stock channel raises AttributeError here, which ends the worker

    assert channel.closed


def test_a_message_that_arrived_unread_goes_back_to_its_queue_when_the_channel_closes(
    redis: RedisServer, connection: Connection
) -> None:
    channel = connection.channel()
    start_consuming(channel, Queue("jobs"))
    with Connection(redis.url) as other:
        other.Producer().publish({"number": 7}, routing_key="jobs")
        assert other.default_channel._size("jobs") == 0  # popped for the channel that waits

        channel.close()

        assert other.default_channel._size("jobs") == 1


def test_a_queue_that_cannot_be_deleted_is_an_error_while_the_channel_is_open(
    redis: RedisServer, connection: Connection
) -> None:
    channel = connection.channel()
    queue = REMOTE_CONTROL(channel)
    queue.declare()

    redis.kill()

    with pytest.raises(connection.connection_errors):
        queue.delete()


def start_consuming(channel: Any, queue: Queue) -> None:
    """Consume as a worker does, up to the point where the event loop would wait for the server."""
    bound = queue(channel)
    bound.declare()
    bound.consume(callback=lambda _message: None)
    channel.connection.cycle.on_poll_start()
