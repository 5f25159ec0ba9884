"""Webhook receivers on loopback: raw sockets, so that they can respond as badly as they like."""

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from queue_engine.net.resolver import CachingResolver, ResolverLimits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    request_line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given.lower() == name.lower()]


@dataclass
class Peer:
    """One connection, seen from the receiver."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: int = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def left_within(self, seconds: float) -> bool:
        """Whether the sender hangs up within that time: the pace of the receivers that drip."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    async def until_it_leaves(self) -> None:
        with suppress(ConnectionError):
            await self.reader.read()

    def reset(self) -> None:
        """Break the connection with an RST."""
        no_linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        self.writer.transport.abort()


Behaviour = Callable[[Peer, Received], Awaitable[None]]


@dataclass
class Receiver:
    """What a running receiver has seen."""

    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    left: int = 0
    """Connections that have ended."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


def answering(data: bytes) -> Behaviour:
    """Sends `data` for every request and keeps the connection."""

    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(data)

    return behave


def answering_and_closing(data: bytes) -> Behaviour:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(data)
        peer.writer.close()

    return behave


@asynccontextmanager
async def receiver(
    behaviour: Behaviour,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    greeting: bytes = b"",
) -> AsyncIterator[Receiver]:
    """A server, by default on a free port, that runs `behaviour` for each request of each connection.

    `greeting` is sent as soon as somebody connects.
    """
    seen = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        peer = Peer(seen.connections, reader, writer)
        try:
            await peer.send(greeting)
            while not writer.is_closing():
                request = await _read_request(reader)
                seen.received.append(request)
                peer.requests += 1
                await behaviour(peer, request)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            seen.left += 1
            writer.close()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(on_connection, host, port, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = [(name, value) for name, _, value in (text.partition(": ") for text in fields)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Received(line, headers, await reader.readexactly(length))


class ScriptedLookup:
    """Resolves each look-up of a name with the next entry of its script; the last one repeats."""

    def __init__(self, scripts: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._scripts = {name: deque(script) for name, script in scripts.items()}
        self.asked: list[str] = []

    async def addresses(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        script = self._scripts.get(name)
        if script is None:
            raise OSError(None, "no such name")
        return script.popleft() if len(script) > 1 else script[0]

    async def close(self) -> None:
        """Nothing to close."""


def stub_resolver(scripts: Mapping[str, Sequence[Sequence[str]]] | None = None) -> CachingResolver:
    """A resolver with a script that remembers no response, so that a name can change between two look-ups."""
    limits = ResolverLimits(positive_seconds=0.0, negative_seconds=0.0)
    return CachingResolver(ScriptedLookup(scripts or {}), limits)
