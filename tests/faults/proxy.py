"""A TCP proxy on the way to PostgreSQL: it loses answers, holds a direction back, delays, and resets connections."""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

log = logging.getLogger(__name__)
Value = TypeVar("Value")
CHUNK = 65536
HOST = "127.0.0.1"


class Proxy:
    """Passes everything through until it is told otherwise. May be pointed at another port while it runs."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.target_port = target_port
        self.delay_seconds = 0.0
        """Added to each chunk, each way."""
        self.lose_answers = 0.0
        """Probability that a connection ends at an answer: what was asked for is done, and nobody hears of it."""
        self.lost_answers = 0
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_server, self._to_client = asyncio.Event(), asyncio.Event()
        self._to_server.set()
        self._to_client.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, HOST, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Hold back what comes from now on, in one direction or both; connections stay up and know nothing of it."""
        if to_server:
            self._loop.call_soon_threadsafe(self._to_server.clear)
        if to_client:
            self._loop.call_soon_threadsafe(self._to_client.clear)

    def heal(self) -> None:
        """Pass everything through again, what was held back included."""
        self.delay_seconds = self.lose_answers = 0.0
        self._loop.call_soon_threadsafe(self._to_server.set)
        self._loop.call_soon_threadsafe(self._to_client.set)

    def reset(self) -> None:
        """End every connection at once."""
        self._call(self._cancel_all())

    def close(self) -> None:
        """Stop; nothing of it is left."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @contextlib.contextmanager
    def parted(self, *, to_server: bool = True, to_client: bool = True) -> Iterator[None]:
        """Cut for the length of the block."""
        self.cut(to_server=to_server, to_client=to_client)
        try:
            yield
        finally:
            self.heal()

    def _call(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        writers, pumps = [writer], []
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
            writers.append(server_writer)
            pumps = [
                asyncio.create_task(self._pump_requests(reader, server_writer)),
                asyncio.create_task(self._pump_answers(server_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError as error:
            log.debug("the server behind the proxy is away: %r", error)
        except asyncio.CancelledError:
            log.debug("a connection was reset")  # asyncio's streams of Python 3.11 cannot bear a cancelled callback
        finally:
            self._tasks.discard(own)
            for pump in pumps:
                pump.cancel()
            for end in writers:
                end.transport.abort()

    async def _pump_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_seconds)
                await self._to_server.wait()
                writer.write(data)
                await writer.drain()

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_seconds)
                await self._to_client.wait()
                if self._random.random() < self.lose_answers:
                    self.lost_answers += 1
                    return
                writer.write(data)
                await writer.drain()
