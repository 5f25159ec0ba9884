"""An exchange with a worker: a request and its response, streamed both ways."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import ResolveResult
from starlette.types import Message, Receive, Send
from yarl import URL

from queue_engine.aio import end_tasks
from queue_engine.api.http.errors import BodyStalled, BodyTooLarge, ClientGone, ResponseCutOff, WorkerUnavailable
from queue_engine.api.proxy.access import MAX_KEPT, MAX_KEPT_PER_WORKER, Limits
from queue_engine.api.proxy.rules import headers_for_client
from queue_engine.engine.upstreams import Upstream
from queue_engine.net.client_errors import error_type_of, problem_of
from queue_engine.net.connecting import checked_sockets
from queue_engine.net.error_types import (
    BAD_RESPONSE,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DNS_ERROR,
    BadResponse,
    BlockedAddress,
    NoResponse,
)
from queue_engine.net.http_client import Keeping, ResponseConnector
from queue_engine.net.ports import machine_addresses
from queue_engine.net.transfer_codings import problem_of_transfer_codings
from queue_engine.rules.addresses import WorkerPolicy

CONNECT_SECONDS = 3.0
READ_BUFFER_BYTES = 64 * 1024
MAX_RESPONSE_HEADERS = 256
MAX_RESPONSE_LINE_BYTES = 64 * 1024

DEFAULT_POLICY = WorkerPolicy()

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods whose requests have the same effect when they are received twice (RFC 9110, section 9.2.2)."""

_NOT_CONNECTED = frozenset({CONNECT_REFUSED, CONNECT_TIMEOUT, DNS_ERROR})


class NotConnected(Exception):
    """No connection to the worker was made, so no part of the request was sent."""


class AddressRefused(NotConnected):
    """No connection to the worker's address may be made."""


class _Broken(Exception):
    """The worker broke the connection. Not an aiohttp error, because aiohttp resends some requests after those."""


@dataclass(frozen=True)
class Outgoing:
    """A request to a worker, without the body."""

    method: str
    target: str
    """Path and query, percent-encoded as in the client's request."""
    headers: list[tuple[str, str]] = field(repr=False)
    request_id: str
    endpoint_id: str


class WorkerClient:
    """The HTTP client towards workers. Connects only when a request is sent. Close it with `aclose`.

    `policy` checks the address of every connection, after names are resolved. An idle connection is kept for
    `kept_seconds` (0: not at all), for requests to the same worker of the same endpoint. Two endpoints may have workers
    at the same address, and what the worker of one does to a connection must not reach the other.

    A worker may close a kept connection at any time, also while a request is on its way. That request is sent again
    only if it is idempotent, has no body, and nothing of a response has arrived.
    """

    def __init__(
        self,
        policy: WorkerPolicy = DEFAULT_POLICY,
        *,
        kept_seconds: float = 0.0,
        machine: Callable[[], Collection[str]] = machine_addresses,
    ) -> None:
        self._policy = policy
        self._keeping = Keeping(kept_seconds, MAX_KEPT_PER_WORKER, MAX_KEPT)
        self._machine = machine
        self._connector: ResponseConnector | None = None
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, upstream: Upstream, outgoing: Outgoing, body: AsyncIterator[bytes] | None
    ) -> aiohttp.ClientResponse:
        """Return the worker's response when its headers have arrived; the body is not yet read.

        Raises AddressRefused, another NotConnected, or the error that broke the connection.
        """
        session, connector = self._opened()
        users = f"{outgoing.endpoint_id}/{upstream.worker_id}"
        try:
            return await self._sent(session, users, upstream, outgoing, body)
        except NoResponse as error:
            if body is not None or outgoing.method not in _IDEMPOTENT:
                raise _Broken(str(error)) from error
        connector.close_kept(users)  # so that the second try has a new connection
        try:
            return await self._sent(session, users, upstream, outgoing, body)
        except NoResponse as error:
            raise _Broken(str(error)) from error

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        if self._session is not None:
            await self._session.close()

    async def _sent(
        self,
        session: aiohttp.ClientSession,
        users: str,
        upstream: Upstream,
        outgoing: Outgoing,
        body: AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        """Send the request over a connection that only these `users` have."""
        try:
            return await session.request(
                outgoing.method,
                URL(upstream.origin + outgoing.target, encoded=True),
                headers=outgoing.headers,
                data=body,
                allow_redirects=False,
                server_hostname=users,  # without TLS it only tells kept connections apart
            )
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, BlockedAddress):
                raise AddressRefused(str(error.os_error)) from error
            if error_type_of(error) in _NOT_CONNECTED:
                raise NotConnected(str(error)) from error
            raise

    def _opened(self) -> tuple[aiohttp.ClientSession, ResponseConnector]:
        if self._session is None or self._connector is None:
            self._connector = ResponseConnector(
                self._keeping,
                limit=0,
                resolver=_CheckedResolver(self._check_connect),
                socket_factory=checked_sockets(self._check_connect),
            )
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                middlewares=(_once,),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=MAX_RESPONSE_LINE_BYTES,
                max_field_size=MAX_RESPONSE_LINE_BYTES,
                max_headers=MAX_RESPONSE_HEADERS,
            )
        return self._session, self._connector

    def _check_connect(self, address: str, port: int) -> None:
        machine = self._machine() if port in self._policy.own_ports else ()
        refusal = self._policy.refusal(address, port, machine)
        if refusal is not None:
            raise BlockedAddress(f"no connection may be made to {address}, port {port}: {refusal}")


class _CheckedResolver(aiohttp.ThreadedResolver):
    """Returns the addresses of a name that pass `check`. Raises the error of `check` when none passes."""

    def __init__(self, check: Callable[[str, int], None]) -> None:
        super().__init__()
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        passed, refused = [], None
        for found in await super().resolve(host, port, family):
            try:
                self._check(found["host"], port)
                passed.append(found)
            except BlockedAddress as error:
                refused = error
        if refused is not None and not passed:
            raise refused
        return passed


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken(str(error)) from error


class Exchange:
    """A request of a client. Inside the context, the request is tried on workers until one of them accepts it.

    The block ends early with ClientGone when the client has disconnected, with BodyTooLarge or BodyStalled when its
    body breaks a limit, with WorkerUnavailable when the worker fails, and with ResponseCutOff when the worker fails
    after its response has begun.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits, *, length: int | None) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._length = length
        self._limit = asyncio.timeout(limits.silence_seconds)
        self._watch: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._over = False
        self._started = False
        self._awaits_client = False

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        if self._length == 0:
            self._watch_client()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise self._failure("it was silent for too long") from None
        finally:
            if self._watch is not None:
                await end_tasks(self._watch)
        if isinstance(error, (aiohttp.ClientError, BadResponse, OSError, _Broken)):
            if error_type_of(error) == BAD_RESPONSE:
                not_http = f"is not valid HTTP: {problem_of(error)}"
                raise self._failure(f"it {not_http}", f"the worker's response {not_http}") from error
            raise self._failure("it broke the connection") from error

    def body(self) -> AsyncIterator[bytes] | None:
        """Return the request's body for one try; None when it has none."""
        return None if self._length == 0 else self._chunks()

    def hand_over(self) -> None:
        """End the limits of the exchange, because a tunnel follows the response, with limits of its own."""
        self._over = self._started = True
        if not self._limit.expired():
            self._limit.reschedule(None)

    async def relay(self, response: aiohttp.ClientResponse, request_id: str) -> None:
        """Send the worker's response to the client while it arrives.

        Raises BadResponse, and the errors of the connection.
        """
        headers = headers_for_client(response.status, response.raw_headers, request_id)
        if headers is None:
            raise BadResponse("it has a header with an invalid name or value")
        if not 200 <= response.status <= 599:
            raise BadResponse(f"its status is {response.status}")
        problem = problem_of_transfer_codings(response.headers.getall("Transfer-Encoding", ()))
        if problem and response.method != "HEAD":
            raise BadResponse(problem)
        self._move()
        self._started = True
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        async for chunk in response.content.iter_any():
            self._move()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._move()
        await self._send({"type": "http.response.body", "body": b""})

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b""  # sends the headers at once, before a slow client's body
        received = 0
        while True:
            message = await self._next()
            chunk: bytes = message.get("body", b"")
            received += len(chunk)
            if received > self._limits.max_body_bytes:
                raise self._end(BodyTooLarge(self._limits.max_body_bytes))
            if chunk:
                yield chunk
                self._move()
            if not message.get("more_body", False):
                break
        self._watch_client()

    async def _next(self) -> Message:
        self._awaits_client = True
        message = await self._receive()
        self._awaits_client = False
        if message["type"] == "http.disconnect":
            raise self._end(ClientGone())
        self._move()
        return message

    def _watch_client(self) -> None:
        """Watch for the client's disconnect: after its body, no other message can come."""
        if not self._over:
            self._watch = asyncio.create_task(self._see_client_off(), name="client")

    async def _see_client_off(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._end(ClientGone())

    def _move(self) -> None:
        """Restart the timer of the silence, because data moved."""
        self._reschedule(self._limits.silence_seconds)

    def _end(self, error: Exception) -> Exception:
        """End the block with `error`, from another task."""
        if self._error is None and not self._over:
            self._error = error
            self._limit.reschedule(0)
        return error

    def _reschedule(self, seconds: float) -> None:
        if self._error is None and not self._over and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def _failure(self, problem: str, without_response: str = "") -> Exception:
        """Return the error that names the failed side: for the client or, after a response has begun, for the log.

        `without_response` replaces the default text for a worker whose response has not begun.
        """
        if isinstance(self._error, ClientGone):
            return self._error
        if self._started:
            return ResponseCutOff(str(self._error or f"the worker's response was cut off: {problem}"))
        if self._error is not None:
            return self._error
        text = without_response or f"the worker gave no response: {problem}"
        return BodyStalled() if self._awaits_client else WorkerUnavailable(text)
