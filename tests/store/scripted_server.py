"""A server that sends the replies of a test, for what a real one does rarely: it breaks off, or is demoted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
from redis.asyncio import Redis

from queue_engine.store.redis.client import close, connect

OK = b"+OK\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
Respond = Callable[[int, list[bytes]], bytes]
"""Returns the bytes to send on a connection, counted from 1, after a command."""


class Server:
    """Sends replies as a test says. Responds to the handshake with OK."""

    def __init__(self, respond: Respond) -> None:
        self.port = 0
        self.connections = 0
        self.commands: list[tuple[int, list[bytes]]] = []
        self._respond = respond
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.writers.append(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while command := parser.gets():
                    if command[0] == b"CLIENT":
                        writer.write(OK)
                        continue
                    self.commands.append((number, command))
                    writer.write(self._respond(number, command))
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[tuple[Server, Redis]]:
    server = Server(respond)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        client = connect(f"redis://127.0.0.1:{server.port}/0", max_connections=1)
        try:
            yield server, client
        finally:
            await close(client)


def echo(_: int, command: list[bytes]) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(command[1]), command[1])
