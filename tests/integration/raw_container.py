"""A container that sends bytes of its own choice: one response a path, as real servers and hostile ones write them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RawResponse:
    """The bytes that are sent for one request."""

    head: tuple[str, ...]
    """The status line and the header lines; a lone surrogate is a byte that is not UTF-8."""
    body: bytes = b""
    interim: tuple[str, ...] = ()
    """The head of an interim response that is sent before."""
    closes: bool = False
    """The connection is closed after it, without a word in the headers unless `head` has one."""
    early: bool = False
    """It is sent, and the connection closed, before the request's body is read."""
    hangs_up_first: bool = False
    """The first request gets nothing but a closed connection."""

    def written(self) -> bytes:
        return b"".join(_head_bytes(lines) for lines in (self.interim, self.head) if lines) + self.body


@dataclass
class RawContainer:
    """Observations of a running container."""

    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """How often each path was asked for, without its slash."""
    connections: int = 0


def ok(body: bytes, *headers: str, closes: bool = False, hangs_up_first: bool = False) -> RawResponse:
    """A 200 with its length and these headers."""
    head = ("HTTP/1.1 200 OK", *headers, f"Content-Length: {len(body)}")
    return RawResponse(head, body, closes=closes, hangs_up_first=hangs_up_first)


@asynccontextmanager
async def raw_container(responses: Mapping[str, RawResponse]) -> AsyncIterator[RawContainer]:
    """Serves `responses` by path on a free loopback port."""
    container = RawContainer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        container.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await _respond(container, responses, reader, writer):
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    container.port = server.sockets[0].getsockname()[1]
    try:
        yield container
    finally:
        server.close()


async def _respond(
    container: RawContainer,
    responses: Mapping[str, RawResponse],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Handle one request; whether the connection stays open."""
    line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    path = line.split()[1].strip("/")
    container.requests[path] += 1
    response = responses[path]
    if not response.early:
        await reader.readexactly(next(int(text[15:]) for text in fields if text.startswith("content-length:")))
    if response.hangs_up_first and container.requests[path] == 1:
        return False
    writer.write(response.written())
    return not (response.closes or response.early)


def _head_bytes(lines: tuple[str, ...]) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("utf-8", "surrogateescape")
