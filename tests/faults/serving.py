"""A small HTTP/1.1 server for the programs of the fault suite. Standard library only: they start in a moment."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

BACKLOG = 1024


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request and the way to answer it."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Raises ConnectionError when the client has gone."""
        self._writer.write(_head(status, len(body), content_type) + body)
        await self._writer.drain()
        if self._writer.is_closing():
            raise ConnectionResetError("the client has gone")

    async def begin(self, length: int) -> None:
        """Announce a body of this length; `send` it."""
        await self.send(_head(200, length, "application/json"))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """Break the connection with an RST."""
        break_connection(self._writer)

    async def client_left(self) -> None:
        """Return when the client hangs up. It must not send another request meanwhile."""
        with suppress(ConnectionError):
            await self._reader.read(1)


Handler = Callable[[Exchange], Awaitable[None]]


def break_connection(writer: asyncio.StreamWriter) -> None:
    """Close with an RST: what was sent and not read yet is lost."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(port: int, handle: Handler) -> None:
    """Serve on this loopback port until SIGTERM. Connections are kept; what is open then is dropped."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = await asyncio.start_server(
        lambda reader, writer: _serve_connection(reader, writer, handle), "127.0.0.1", port, backlog=BACKLOG
    )
    await stopping.wait()
    server.close()


async def _serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    try:
        while not writer.is_closing():
            await handle(Exchange(await _read_request(reader), reader, writer))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone, as it may
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(line.split(" ")[1], headers, body)


def _head(status: int, length: int, content_type: str) -> bytes:
    return f"HTTP/1.1 {status} x\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n".encode()
