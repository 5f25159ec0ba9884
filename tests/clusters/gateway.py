"""Forward connections from the pods' network to Services, where a cluster of the tests has neither DNS nor proxies.

The listening address is that of this machine in the network of the pods, so this machine has to be their node.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

Address = tuple[str, int]

CHUNK_BYTES = 64 * 1024


class Gateway:
    """Listeners on one address. Each connection goes to the next target of its listener."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def forward(self, targets: Callable[[], Sequence[Address]], port: int = 0) -> int:
        """Listen on a port, by default a free one, and return it. `targets` is called for each connection."""
        return asyncio.run_coroutine_threadsafe(self._listen(targets, port), self._loop).result()

    async def _listen(self, targets: Callable[[], Sequence[Address]], port: int) -> int:
        turns = itertools.count()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = targets()
            with self._known(writer):
                if found:
                    await self._join(reader, writer, found[next(turns) % len(found)])

        server = await asyncio.start_server(connected, self.host, port)
        self._servers.append(server)
        listening: int = server.sockets[0].getsockname()[1]
        return listening

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Address) -> None:
        """Copy both ways until both sides have ended. A target that refuses looks like a closed connection."""
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*target)
            with self._known(far_writer):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    @contextmanager
    def _known(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _close(self) -> None:
        """End all connections, and with them the tasks that copy."""
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*others, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
