"""HTTP calls of an agent to the engine's API, over connections of its own for each kind of work.

    CLAIMS   a connection on which the API holds a claim until a task waits
    WATCH    a connection on which it holds the question whether a running task is cancelled
    BEATS    renewals of leases and reports: a large result on another connection does not delay them
    WORK     starts, results, releases, logs

A call is made once, and repeated only when the API had closed an idle connection. The callers retry the others, because
every call may be repeated. A call raises StoreUnavailable for everything that may pass: no connection, a certificate
that cannot be verified, a response that is no HTTP or not from an API of the engine.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType

from queue_engine import __version__
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.net.authorities import Authorities
from queue_engine.net.connecting import Tls, connect, tls_problem
from queue_engine.net.connection import Connection
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import READ_TIMEOUT, TLS_ERROR, BadResponse, CallError, NoResponse
from queue_engine.net.names import is_literal, look_up
from queue_engine.net.request_head import post_head
from queue_engine.net.response_head import Head
from queue_engine.rules.hosts import bracketed, host_header

USER_AGENT = f"queue-engine-agent/{__version__}"
CONNECT_SECONDS = 5.0
"""Timeout of name lookup, connection and TLS handshake."""
KEEPALIVE_SECONDS = 30.0
"""Idle time after which a connection is closed: shorter than that of the API (75 s) and of common proxies (60 s)."""
SILENCE_SECONDS = 15.0
"""Time without a sign of the API after which a connection is given up: in a response, and after sent data."""
MIN_BYTES_PER_SECOND = 32 * 1024
"""The slowest transfer of a large body that is not given up."""
MAX_ERROR_BYTES = 64 * 1024
"""The part of a body that is read with another status than 200."""
ELSEWHERE_STATUSES = frozenset({404, 500})
"""Statuses after which a connection is closed, because a new one may lead to another process of the API."""
_PORTS = {"http": 80, "https": 443}


class Lane(Enum):
    """Connections that the calls of other lanes do not use."""

    CLAIMS = "claims"
    WATCH = "watch"
    BEATS = "beats"
    WORK = "work"


MAX_CONNECTIONS = {Lane.CLAIMS: 1, Lane.WATCH: 1, Lane.BEATS: 3, Lane.WORK: 8}
"""Maximum number of connections of each lane. Beats: a renewal, a note of begun calls, and a report. Work: several
large results may be under way, and starts beside them. An agent without tasks has a claim, and a beat now and then."""


@dataclass(frozen=True)
class ServerAddress:
    """The API that an agent uses."""

    host: str
    port: int
    is_tls: bool

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Return the address of a URL that was validated before."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or _PORTS[parts.scheme], parts.scheme == "https")

    @property
    def host_header(self) -> str:
        return host_header(self.host, self.port, default_port=_PORTS["https" if self.is_tls else "http"])

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class ApiResponse:
    """A response of the API, or of something in front of it."""

    status: int
    body: memoryview
    """The whole body with status 200; else at most MAX_ERROR_BYTES of it."""
    location: str = ""
    retry_after_seconds: float = 0.0


class HttpClient:
    """Posts to one API. `close` it."""

    def __init__(self, address: ServerAddress, authorities: Authorities) -> None:
        self._address = address
        self._authorities = authorities
        self._pools = {lane: self._pool(size) for lane, size in MAX_CONNECTIONS.items()}
        self.own_host = ""
        """The address of this machine on the latest connection."""

    async def post(
        self,
        path: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes | memoryview,
        *,
        lane: Lane,
        max_bytes: int,
        seconds: float,
    ) -> ApiResponse:
        """Return the response, whose body may have `max_bytes`. Raises StoreUnavailable.

        `seconds` is the time that the API may take until its response begins, besides the time for the bodies.
        """
        common = (("Host", self._address.host_header), ("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"))
        head = post_head(path, (*common, *headers), len(body))
        limit = asyncio.timeout(seconds + len(body) / MIN_BYTES_PER_SECOND)
        reader = _BodyReader(limit, max_bytes=max_bytes)
        try:
            async with limit:
                await self._exchange(head, body, reader, self._pools[lane])
        except CallError as error:
            raise self.away(_problem(error)) from error
        except TimeoutError as error:
            raise self.away(str(CallError(READ_TIMEOUT))) from error
        return reader.response()

    def away(self, problem: str) -> StoreUnavailable:
        """Return the error of a call that may succeed later."""
        return StoreUnavailable(f"{self._address}: {problem}")

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()

    async def _exchange(
        self, head: bytes, body: bytes | memoryview, reader: _BodyReader, pool: ConnectionPool[ServerAddress]
    ) -> None:
        fresh = False
        while True:
            connection = await pool.acquire(self._address, fresh=fresh)
            try:
                await connection.post(head, body, reader)
                if reader.status in ELSEWHERE_STATUSES:
                    connection.close()
                return
            except NoResponse:
                if not connection.is_reused:
                    raise
            finally:
                pool.release(self._address, connection)
            fresh = True

    def _pool(self, size: int) -> ConnectionPool[ServerAddress]:
        return ConnectionPool(self._connect, size, keepalive_seconds=KEEPALIVE_SECONDS, connect_seconds=CONNECT_SECONDS)

    async def _connect(self, address: ServerAddress) -> Connection:
        flags = 0 if is_literal(address.host) else socket.AI_ADDRCONFIG
        found = await look_up(address.host, address.port, flags=flags)
        tls = Tls(self._authorities.context(), address.host) if address.is_tls else None
        connection = await connect(found, new_socket=_watched_socket, tls=tls)
        self.own_host = connection.own_host
        return connection


class _BodyReader:
    """Collects one response. `limit` is the timeout of the call."""

    def __init__(self, limit: asyncio.Timeout, *, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._head: Head | None = None
        self.status = 0
        self._body = bytearray()

    def begin(self, head: Head) -> bool:
        self._head, self.status = head, head.status
        if head.status == 200 and (head.length or 0) > self._max_bytes:
            raise self._too_large()
        self._ends_at = self._loop.time() + SILENCE_SECONDS + self._max_bytes / MIN_BYTES_PER_SECOND
        self._go_on()
        return True

    def feed(self, data: bytes) -> bool:
        if self.status != 200:
            self._body += data[: MAX_ERROR_BYTES - len(self._body)]
            return len(self._body) < MAX_ERROR_BYTES
        if len(self._body) + len(data) > self._max_bytes:
            raise self._too_large()
        self._body += data
        self._go_on()
        return True

    def response(self) -> ApiResponse:
        if self._head is None:
            raise RuntimeError("the response has no head")
        pause = self._head.value(b"retry-after") or ""
        return ApiResponse(
            self._head.status,
            memoryview(self._body),
            location=self._head.value(b"location") or "",
            retry_after_seconds=float(pause) if pause.isascii() and pause.isdigit() else 0.0,
        )

    def _too_large(self) -> BadResponse:
        return BadResponse(f"its body is longer than {self._max_bytes} bytes")

    def _go_on(self) -> None:
        """Prolong the time limit, because a part of the response has arrived."""
        if not self._limit.expired():
            self._limit.reschedule(min(self._loop.time() + SILENCE_SECONDS, self._ends_at))


def _watched_socket(info: AddrInfoType) -> socket.socket:
    """Return a socket that notices within SILENCE_SECONDS that the other side does not receive what was sent."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_SECONDS * 1000))
    return made


def _problem(error: CallError) -> str:
    detail = tls_problem(error) if error.error_type == TLS_ERROR else ""
    if isinstance(error, BadResponse):
        return f"the response cannot be understood: {error}"
    return f"{error}: {detail}" if detail else str(error)
