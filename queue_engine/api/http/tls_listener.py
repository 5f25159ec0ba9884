"""Accept connections with TLS, which count for the limits of connections from the start.

asyncio's server reports a connection only after its TLS handshake. Until then a client could hold any number of
connections, each for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from queue_engine.aio import end_tasks
from queue_engine.api.http.connections import Connection, Connections, TooManyConnections
from queue_engine.api.http.protocol import LimitedProtocol

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 8.0
"""Time limit of a handshake: three round trips, with packets lost and sent again, on a slow link."""
PAUSE_SECONDS = 1.0
"""Pause after a connection could not be accepted, for instance because the limit of open files is reached."""


class TlsListener:
    """Accepts connections on `listener` until it is closed. Has the methods of asyncio's server that uvicorn calls."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        connections: Connections,
        make_protocol: Callable[[], LimitedProtocol],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._connections = connections
        self._make_protocol = make_protocol
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept_all(), name="accept connections")

    def close(self) -> None:
        """Accept no further connections, and end those that are in their handshake."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until `close` is complete."""
        await end_tasks(self._accepting, *self._handshakes)

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:  # the client has closed it already
                continue
            except OSError as error:
                log.error("no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._begin(client, str(address[0]))

    def _begin(self, client: socket.socket, address: str) -> None:
        """Begin the handshake. A connection beyond a limit is closed: a response would need the handshake."""
        try:
            connection = self._connections.open(address)
        except TooManyConnections:
            client.close()
            return
        task = asyncio.create_task(self._shake_hands(client, connection), name="TLS handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, client: socket.socket, connection: Connection) -> None:
        protocol = self._make_protocol()
        protocol.count_as(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError as error:  # TLS errors and the timeout too
            log.debug("a TLS handshake failed: %s", error)
        finally:
            if not protocol.is_connected:  # else the protocol closes it
                connection.close()
