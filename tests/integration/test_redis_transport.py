import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport import get_transport_cls
from redis import Redis

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


def test_a_busy_consumer_takes_at_once_what_it_has_room_for(redis: RedisServer, connection: Connection) -> None:
    channel, taken = consume(connection, room=8)
    publish(redis, *range(20))

    with Redis.from_url(redis.url) as client:
        drain(connection)

        assert [message.decode() for message in taken] == list(range(8))
        assert calls(client, "rpop") == 1
        assert client.llen("jobs") == 12
    assert not channel.qos.can_consume()


def test_a_consumer_that_has_enough_asks_for_more_when_over_half_of_its_room_is_free(
    redis: RedisServer, connection: Connection
) -> None:
    channel, taken = consume(connection, room=4)
    channel.qos.enough = 1
    publish(redis, *range(4))
    drain(connection)
    assert len(taken) == 4

    for message in taken[:2]:
        message.ack()
        assert not channel.qos.can_consume()
    taken[2].ack()
    assert channel.qos.can_consume()


def test_a_consumer_with_an_idle_process_asks_at_once(redis: RedisServer, connection: Connection) -> None:
    channel, taken = consume(connection, room=3)
    channel.qos.enough = 3
    publish(redis, *range(3))
    drain(connection)
    assert len(taken) == 3
    assert not channel.qos.can_consume()

    taken[0].ack()

    assert channel.qos.can_consume()


def test_a_consumer_of_one_message_at_a_time_takes_one_at_a_time(redis: RedisServer, connection: Connection) -> None:
    channel, taken = consume(connection, room=1)
    publish(redis, 1, 2)

    connection.drain_events(timeout=5)
    assert not channel.qos.can_consume()
    taken[0].ack()
    connection.drain_events(timeout=5)

    assert [message.decode() for message in taken] == [1, 2]


def test_a_malformed_message_among_many_is_refused_alone(redis: RedisServer, connection: Connection) -> None:
    _, taken = consume(connection, room=8)
    with Redis.from_url(redis.url) as client:
        publish(redis, 1, 2)
        for nonsense in ("", "[]", "{", json.dumps({"properties": {}}), b"\xff"):
            client.lpush("jobs", nonsense)
        publish(redis, 3)

    drain(connection)

    assert [message.decode() for message in taken] == [1, 2, 3]


def test_a_message_at_which_its_consumer_stumbles_is_not_held(redis: RedisServer, connection: Connection) -> None:
    def stumble(message: Any) -> None:
        raise KeyError(message.decode())

    channel, _ = consume(connection, room=2, on_message=stumble)
    publish(redis, *range(5))

    for _ in range(5):
        connection.drain_events(timeout=5)

    assert channel.qos.held() == 0
    assert Redis.from_url(redis.url).llen("jobs") == 0


def test_keeping_and_acknowledging_messages_asks_nothing_of_redis(redis: RedisServer, connection: Connection) -> None:
    channel, taken = consume(connection, room=8)
    publish(redis, *range(8))
    with Redis.from_url(redis.url) as client:
        client.config_resetstat()
        drain(connection)
        for message in taken:
            message.ack()

        assert {name for name in client.info("commandstats") if name != "cmdstat_config|resetstat"} <= {
            *("cmdstat_brpop", "cmdstat_rpop", "cmdstat_hello", "cmdstat_auth", "cmdstat_select"),
            *("cmdstat_client|setinfo", "cmdstat_client|maint_notifications", "cmdstat_info", "cmdstat_ping"),
        }
    assert channel.qos.held() == 0


def test_messages_that_were_not_acknowledged_go_back_to_be_taken_next_and_in_their_order(
    redis: RedisServer, connection: Connection
) -> None:
    channel, taken = consume(connection, room=3)
    publish(redis, *range(5))
    drain(connection)
    taken[0].ack()

    channel.close()

    assert left_in(redis) == [1, 2, 3, 4]


def test_a_rejected_message_goes_to_the_end_of_its_queue(redis: RedisServer, connection: Connection) -> None:
    _, taken = consume(connection)
    publish(redis, 1, 2, 3)
    connection.drain_events(timeout=5)

    taken[0].requeue()

    assert left_in(redis) == [2, 3, 1]


def test_messages_of_a_server_that_is_gone_are_let_go(redis: RedisServer, connection: Connection) -> None:
    channel, _ = consume(connection)
    publish(redis, 1)
    connection.drain_events(timeout=5)

    redis.kill()
    channel.close()

    assert channel.closed
    assert channel.qos.held() == 0


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


def consume(
    connection: Connection, *, room: int = 0, on_message: Callable[[Any], None] | None = None
) -> tuple[Any, list[Any]]:
    """Consume the queue `jobs`, with room for so many messages or any number; the channel, and what comes."""
    channel: Any = connection.default_channel
    channel.basic_qos(prefetch_count=room)
    taken: list[Any] = []
    queue = Queue("jobs")(channel)
    queue.declare()
    queue.consume(callback=on_message or taken.append)
    return channel, taken


def drain(connection: Connection) -> None:
    """Take the message that wakes the consumer, and then those that it has room for."""
    for _ in range(2):
        connection.drain_events(timeout=5)


def publish(redis: RedisServer, *bodies: Any) -> None:
    with Connection(redis.url) as other, other.Producer() as producer:
        for body in bodies:
            producer.publish(body, routing_key="jobs", serializer="json")


def left_in(redis: RedisServer) -> list[Any]:
    """What lies in the queue, the next to be taken first."""
    with Connection(redis.url) as other:
        queue: Any = Queue("jobs")(other.default_channel)
        messages = [queue.get(no_ack=True) for _ in range(other.default_channel._size("jobs"))]
        return [message.decode() for message in messages]


def calls(client: Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])
