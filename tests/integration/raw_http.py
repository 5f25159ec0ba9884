"""A client of the API that sends raw bytes."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.api_server import RunningApi
from tests.waiting import GIVE_UP_SECONDS


@dataclass
class Received:
    """A response, as bytes."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


class Connection:
    """A client that sends what it wants, when it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, api: RunningApi) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", api.port))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Received:
        """The next answer; asyncio.IncompleteReadError when the connection was closed instead."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Received(int(status_line.split(" ")[1]), headers, body)

    async def line(self) -> str:
        """The next line, of an answer without headers."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode().strip()

    async def is_closed(self) -> bool:
        """Return whether the server closes, without sending anything more."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.close()
