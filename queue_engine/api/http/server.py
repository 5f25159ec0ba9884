"""Serve the application on a port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from queue_engine.aio import wait_for_event
from queue_engine.api.http.certificates import ServerCertificate
from queue_engine.api.http.client_addresses import TrustedProxies
from queue_engine.api.http.connections import ConnectionLimits, Connections
from queue_engine.api.http.protocol import LimitedProtocol, limited_protocol
from queue_engine.api.http.tls_listener import TlsListener
from queue_engine.config.engine import ApiSettings
from queue_engine.net import listening

SHUTDOWN_SECONDS = 30
"""Time limit for requests in progress when the server stops."""
BACKLOG = 2048
DATE_SECONDS = 1.0
"""How long the `Date` of the responses stays the same."""
LAST_READ_SECONDS = 0.1
"""Time to read requests that have arrived when the server is stopped, before connections without one are closed."""


def listen(settings: ApiSettings) -> socket.socket:
    """Return a socket that listens as configured; port 0 chooses a free one. Raises CannotListen."""
    listener = bind(settings)
    listener.listen(BACKLOG)
    return listener


def bind(settings: ApiSettings) -> socket.socket:
    """Return a socket bound to the port, which refuses connections until it listens. Raises CannotListen.

    Until the store is ready, clients are refused at once, so that a load balancer chooses another server.
    """
    listener = listening.bind(settings.host, settings.port)
    listener.setblocking(False)
    return listener


def bind_for_agents(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address for agents in containers. Raises CannotListen.

    The machine may get the address later, because a container engine makes a network's bridge with its first container.
    """
    listener = listening.bind(host, port, may_appear=True)
    listener.setblocking(False)
    return listener


def certificate_of(settings: ApiSettings) -> ServerCertificate | None:
    """Return the configured certificate; None for plain HTTP. Raises OSError and ValueError."""
    return None if settings.tls_cert is None else ServerCertificate(settings.tls_cert, settings.tls_key)


async def serve(
    app: ASGIApp,
    settings: ApiSettings,
    listener: socket.socket,
    stopping: asyncio.Event,
    certificate: ServerCertificate | None = None,
) -> None:
    """Serve on `listener` until `stopping` is set, with TLS if there is a `certificate`.

    Then let requests in progress end, and close the listener. The caller handles signals.
    """
    connections = Connections(_limits_in(settings), TrustedProxies(settings.trusted_proxies))
    await _serve(app, settings, connections, listener, stopping, certificate)


async def serve_agents(app: ASGIApp, settings: ApiSettings, listener: socket.socket, stopping: asyncio.Event) -> None:
    """Serve agents in containers of this machine, as `serve` does, over plain HTTP.

    The limits of connections are the same and count only the connections of this listener, so that clients cannot take
    those of agents. No connection is from a trusted proxy.
    """
    await _serve(app, settings, Connections(_limits_in(settings)), listener, stopping, None)


def _limits_in(settings: ApiSettings) -> ConnectionLimits:
    return ConnectionLimits(
        settings.max_connections, settings.max_connections_per_address, settings.max_connections_per_tenant
    )


async def _serve(
    app: ASGIApp,
    settings: ApiSettings,
    connections: Connections,
    listener: socket.socket,
    stopping: asyncio.Event,
    certificate: ServerCertificate | None,
) -> None:
    protocol = limited_protocol(settings.read_timeout_seconds, connections)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    config.load()
    server = _Server(config, stopping) if certificate is None else _TlsServer(config, stopping, protocol, certificate)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which serves until `stopping` is set. An idle one wakes up once a second, not ten times."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self._stopping.is_set():
            await self.on_tick(0)  # sets the date of the responses
            await wait_for_event(self._stopping, DATE_SECONDS)
        await asyncio.sleep(LAST_READ_SECONDS)


class _TlsServer(_Server):
    def __init__(
        self,
        config: uvicorn.Config,
        stopping: asyncio.Event,
        protocol: type[LimitedProtocol],
        certificate: ServerCertificate,
    ) -> None:
        super().__init__(config, stopping)
        self._protocol = protocol
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's start, which would count connections only after their handshake."""
        connections, context = self._protocol.connections_of_all, self._certificate.context()
        self.servers = [TlsListener(one, context, connections, self._make_protocol) for one in sockets or ()]  # type: ignore[misc]
        self.started = True

    def _make_protocol(self) -> LimitedProtocol:
        return self._protocol(self.config, self.server_state, self.lifespan.state)
