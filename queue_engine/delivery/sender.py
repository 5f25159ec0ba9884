"""A single delivery attempt over HTTP: send it, read an excerpt of the response, and return its error type."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from queue_engine.delivery.guard import ConnectionUse, Guard, guarded_session
from queue_engine.delivery.responses import (
    ERROR_TEXTS,
    EXCERPT_BYTES,
    REDIRECT,
    error_type_of_status,
    excerpt_of,
    redirect_of,
    retry_after_seconds,
)
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.net.client_errors import error_type_of
from queue_engine.net.error_types import INTERNAL, RESET, TLS_ERROR, BadResponse
from queue_engine.rules.excerpts import printable
from queue_engine.rules.headers import is_secret_name
from queue_engine.rules.webhook_urls import parse_webhook

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutgoingRequest:
    """A POST to a webhook. `headers` has the content type, the signature and the receiver's key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class SenderLimits:
    """Timeouts of an attempt, and the size limit of a response's body."""

    total_seconds: float = 15.0
    """Timeout of the whole attempt, from the name lookup to the last byte read."""
    connect_seconds: float = 5.0
    """Timeout of name lookup, connection and TLS handshake."""
    body_seconds: float = 2.0
    """Timeout of the response's body after its headers. It can be short, because only the excerpt depends on it."""
    body_bytes: int = 16 * 1024


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
"""Errors of OpenSSL for a peer that does not speak TLS."""


class Sender:
    """Sends attempts with `session`. Safe to use from many tasks of one event loop.

    `unshared` is a session without keep-alive, for the repeat of an attempt on a new connection.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        unshared: aiohttp.ClientSession,
        limits: SenderLimits | None = None,
        *,
        epoch_seconds: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._unshared = unshared
        self._limits = limits or SenderLimits()
        self._epoch_seconds = epoch_seconds
        self._monotonic = monotonic

    async def send(self, request: OutgoingRequest) -> WebhookResponse:
        """Make an attempt, and return its result. Raises only CancelledError, because the result includes errors.

        Only the status decides: a 2xx means delivered, even if reading its body fails. Redirects are not followed. If
        a reused connection breaks before the first byte of a response, the attempt is repeated once on a new one. The
        receiver may then get the request twice, with the same `webhook-id`.
        """
        started = self._monotonic()
        try:
            response = await self._attempt(request)
        except Exception as error:
            response = _failed(error, request)
            if response.error_type == INTERNAL:
                logger.exception("a delivery attempt failed with an internal error in the sender")
        return replace(response, duration_seconds=self._monotonic() - started)

    async def _attempt(self, request: OutgoingRequest) -> WebhookResponse:
        # Send the URL exactly as it was validated: without `encoded`, yarl would rewrite the query.
        url = URL(parse_webhook(request.url).url, encoded=True)
        if not all(value.isascii() and value.isprintable() for value in request.headers.values()):
            raise ValueError("a header's value must be visible ASCII")
        deadline = asyncio.get_running_loop().time() + self._limits.total_seconds
        async with asyncio.timeout_at(deadline):
            response = await self._response(url, request)
        try:
            return await self._read(response, request, deadline)
        finally:
            response.close()

    async def _response(self, url: URL, request: OutgoingRequest) -> aiohttp.ClientResponse:
        use = ConnectionUse()
        try:
            return await self._post(self._session, url, request, use)
        except aiohttp.ClientConnectionError as error:
            if not (use.reused and _broke_without_response(error)):
                raise
        return await self._post(self._unshared, url, request, ConnectionUse())

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, request: OutgoingRequest, use: ConnectionUse
    ) -> aiohttp.ClientResponse:
        return await session.post(
            url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_seconds),
            trace_request_ctx=use,
        )

    async def _read(
        self, response: aiohttp.ClientResponse, request: OutgoingRequest, deadline: float
    ) -> WebhookResponse:
        body = b"" if response.status < 200 else await self._excerpted(response, deadline)
        secrets = [value for name, value in request.headers.items() if is_secret_name(name)]
        excerpt = excerpt_of(body, secrets)
        error_type = error_type_of_status(response.status)
        if error_type == REDIRECT and (location := response.headers.get("Location")):
            excerpt = printable(f"{redirect_of(location, secrets)}: {excerpt}".removesuffix(": "), EXCERPT_BYTES)
        return WebhookResponse(
            status=response.status,
            error_type=error_type,
            excerpt=excerpt,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), self._epoch_seconds()),
        )

    async def _excerpted(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        try:
            return await self._body(response, deadline)
        except BadResponse as error:
            return f"(the body of the response cannot be understood: {error.problem})".encode()

    async def _body(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        """Return the part of the body that arrives within the limits. Raises BadResponse; other errors end the body."""
        body = bytearray()
        until = min(deadline, asyncio.get_running_loop().time() + self._limits.body_seconds)
        with suppress(TimeoutError, OSError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            async with asyncio.timeout_at(until):
                while len(body) < self._limits.body_bytes:
                    chunk = await response.content.read(self._limits.body_bytes - len(body))
                    if not chunk:
                        break
                    body += chunk
        return bytes(body)


@asynccontextmanager
async def open_sender(
    guard: Guard, resolver: AbstractResolver, limits: SenderLimits | None = None, *, connections: int = 256
) -> AsyncIterator[Sender]:
    """Yield a sender, and close its sessions afterwards. The resolver belongs to the caller and is not closed."""
    tls = ssl.create_default_context()  # once, because reading the system's authorities takes 40 ms
    async with (
        guarded_session(guard, resolver, connections=connections, tls=tls) as session,
        guarded_session(guard, resolver, connections=connections, keep_alive_seconds=None, tls=tls) as unshared,
    ):
        yield Sender(session, unshared, limits)


def _broke_without_response(error: Exception) -> bool:
    """Return True if the connection broke before a response. A reset counts, because it discards received bytes."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # otherwise it is the received part of a response
    return isinstance(error, aiohttp.ClientConnectionError) and error_type_of(error) == RESET


def _failed(error: Exception, request: OutgoingRequest) -> WebhookResponse:
    error_type = error_type_of(error)
    detail = _detail(error, error_type, plain=request.url.startswith("http:"))
    text = ERROR_TEXTS[error_type]
    return WebhookResponse(status=None, error_type=error_type, excerpt=f"{text}: {detail}" if detail else text)


def _detail(error: Exception, error_type: str, *, plain: bool) -> str:
    """Return a detail that helps the receiver's owner and has no address; empty if there is none."""
    if isinstance(error, BadResponse):
        return error.problem
    if error_type == TLS_ERROR:
        return _tls_problem(error)
    if plain and error_type == RESET and _broke_without_response(error):
        return "it was closed without a response, perhaps because the port speaks TLS (https)"
    return ""


def _tls_problem(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ConnectionError):
        return "the connection was closed; does the port speak TLS?"
    if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
        return "the response is not TLS; does the port speak plain http?"
    return ""
