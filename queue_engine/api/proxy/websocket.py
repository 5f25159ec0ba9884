"""A request for a WebSocket to a worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import Scope, Send

from queue_engine.api.http.upgrades import READ_BYTES, UPGRADE, Stream, Upgrade
from queue_engine.api.proxy.access import Limits
from queue_engine.api.proxy.handshake import SWITCHING_PROTOCOLS, Handshake, handshake_in, head_for_client
from queue_engine.api.proxy.rules import asks_for_websocket
from queue_engine.api.proxy.tunnel import Tunnel
from queue_engine.domain.errors import InvalidRequest
from queue_engine.net.error_types import BadResponse
from queue_engine.observability import metrics

if TYPE_CHECKING:
    import aiohttp

    from queue_engine.api.proxy.exchange import Exchange


@dataclass(frozen=True)
class Visit:
    """A client that asks for a WebSocket."""

    handshake: Handshake
    upgrade: Upgrade
    send: Send
    key_ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client's key was revoked or has expired."""

    async def run(self, response: aiohttp.ClientResponse, exchange: Exchange, request_id: str, limits: Limits) -> None:
        """Complete the handshake with the worker's 101 response, and return when the WebSocket has ended.

        Raises BadResponse if the response does not complete it, ClientGone, and InvalidRequest.
        """
        from queue_engine.net.http_client import upgraded_stream  # here, because it loads aiohttp

        problem = self.handshake.problem_of(response.raw_headers)
        head = head_for_client(response.raw_headers, request_id)
        if problem is not None or head is None:
            raise BadResponse(problem or "it has a header with an invalid name or value")
        worker = Stream(*upgraded_stream(response, READ_BYTES))
        client = self.upgrade(head)
        exchange.hand_over()
        # Only for the metrics: nothing is sent, because the connection has left HTTP.
        await self.send({"type": "http.response.start", "status": SWITCHING_PROTOCOLS, "headers": []})
        with metrics.open_websockets.track_inprogress():
            await Tunnel(client, worker, limits.websocket_idle_seconds, self.key_ended).run()


def visit_in(scope: Scope, send: Send) -> Visit | None:
    """Return the request for a WebSocket; None for any other request. Raises InvalidRequest."""
    headers = scope["headers"]
    if not asks_for_websocket(headers):
        return None
    upgrade: Upgrade | None = scope.get(UPGRADE)
    if upgrade is None:
        raise InvalidRequest("Connection", "must have the option Upgrade, of HTTP/1.1")
    return Visit(handshake_in(scope["method"], headers), upgrade, send)
