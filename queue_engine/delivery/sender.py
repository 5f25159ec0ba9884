"""A single delivery attempt over HTTP: send it, read an excerpt of the response, and return its error type."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from queue_engine import __version__
from queue_engine.delivery.guard import Guard, Origin, Resolver, TlsContext, guarded_pool
from queue_engine.delivery.phases import Stopwatch
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
from queue_engine.net.authorities import Authorities
from queue_engine.net.connecting import tls_problem
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import (
    INTERNAL,
    INVALID_REQUEST,
    READ_TIMEOUT,
    TLS_ERROR,
    BadResponse,
    CallError,
    NoResponse,
)
from queue_engine.net.request_head import post_head
from queue_engine.net.response_head import Head
from queue_engine.rules.excerpts import printable
from queue_engine.rules.headers import is_secret_name
from queue_engine.rules.hosts import host_header
from queue_engine.rules.webhook_urls import DEFAULT_PORTS, parse_webhook

logger = logging.getLogger(__name__)

USER_AGENT = f"queue-engine/{__version__}"


@dataclass(frozen=True)
class OutgoingRequest:
    """A POST to a webhook. `headers` has the content type, the signature and the receiver's key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    tenant: str = ""


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


class Sender:
    """Sends attempts over the connections of `pool`. Safe to use from many tasks of one event loop."""

    def __init__(
        self,
        pool: ConnectionPool[Origin],
        limits: SenderLimits | None = None,
        *,
        epoch_seconds: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._limits = limits or SenderLimits()
        self._epoch_seconds = epoch_seconds
        self._monotonic = monotonic

    async def send(self, request: OutgoingRequest) -> WebhookResponse:
        """Make an attempt, and return its result. Raises only CancelledError, because the result includes errors.

        Only the status decides: a 2xx means delivered, even if reading its body fails. Redirects are not followed. If
        a reused connection breaks before the first byte of a response, the attempt is repeated once on a new one. The
        receiver may then get the request twice, with the same `webhook-id`.
        """
        started, watch = self._monotonic(), Stopwatch(self._monotonic)
        try:
            response = await self._attempt(request, watch)
        except Exception as error:
            response = _failed(error, request)
            if response.error_type == INTERNAL:
                logger.exception("a delivery attempt failed with an internal error in the sender")
        return replace(response, duration_seconds=self._monotonic() - started, phases=watch.phases())

    async def _attempt(self, request: OutgoingRequest, watch: Stopwatch) -> WebhookResponse:
        target = _target_of(request.url, request.tenant)
        head = target.head_of(request)
        reader = _ResponseReader(self._limits, watch)
        problem = ""
        try:
            async with reader.limit:
                await self._exchange(target.origin, head, request.body, reader)
        except (CallError, TimeoutError) as error:
            if reader.head is None:
                raise
            if isinstance(error, BadResponse):
                problem = error.problem
        return self._response(request, reader, problem)

    async def _exchange(self, origin: Origin, head: bytes, body: bytes, reader: _ResponseReader) -> None:
        fresh = False
        while True:
            reader.watch.connecting()
            connection = await self._pool.acquire(origin, fresh=fresh)
            reader.watch.connected(connection)
            try:
                return await connection.post(head, body, reader)
            except NoResponse:
                if not connection.is_reused:
                    raise
            finally:
                self._pool.release(origin, connection)
            fresh = True

    def _response(self, request: OutgoingRequest, reader: _ResponseReader, problem: str) -> WebhookResponse:
        """Return the result of a response; `problem` is why its body cannot be understood."""
        head, body = reader.result()
        if problem:
            body = f"(the body of the response cannot be understood: {problem})".encode()
        secrets = [value for name, value in request.headers.items() if _is_secret_name(name)]
        excerpt = excerpt_of(body, secrets)
        error_type = error_type_of_status(head.status)
        if error_type == REDIRECT and (location := head.value(b"location")):
            excerpt = printable(f"{redirect_of(location, secrets)}: {excerpt}".removesuffix(": "), EXCERPT_BYTES)
        return WebhookResponse(
            status=head.status,
            error_type=error_type,
            excerpt=excerpt,
            retry_after_seconds=retry_after_seconds(head.value(b"retry-after"), self._epoch_seconds()),
        )


@asynccontextmanager
async def open_sender(
    guard: Guard,
    resolver: Resolver,
    limits: SenderLimits | None = None,
    *,
    connections: int = 256,
    tls: TlsContext | None = None,
) -> AsyncIterator[Sender]:
    """Yield a sender, and close its connections afterwards. The resolver belongs to the caller.

    At most `connections` are open at the same time. `tls` returns the context of a new connection; by default
    certificates are verified against the system's authorities. Proxies, cookies and the environment are not used.
    """
    limits = limits or SenderLimits()
    pool = guarded_pool(
        guard,
        resolver,
        tls=tls or Authorities().context,
        connections=connections,
        connect_seconds=limits.connect_seconds,
    )
    try:
        yield Sender(pool, limits)
    finally:
        pool.close()


class _ResponseReader:
    """Keeps the head of a response and the first bytes of its body.

    `limit` is the timeout of the attempt. After the head it ends with the timeout of the body, if that comes first.
    """

    def __init__(self, limits: SenderLimits, watch: Stopwatch) -> None:
        self._limits = limits
        self.watch = watch
        self.limit = asyncio.timeout(limits.total_seconds)
        self.head: Head | None = None
        self._body = bytearray()

    def begin(self, head: Head) -> bool:
        self.head = head
        self.watch.got_head()
        until = asyncio.get_running_loop().time() + self._limits.body_seconds
        self.limit.reschedule(min(until, self.limit.when() or until))
        return True

    def feed(self, data: bytes) -> bool:
        self._body += data[: self._limits.body_bytes - len(self._body)]
        return len(self._body) < self._limits.body_bytes

    def result(self) -> tuple[Head, bytes]:
        if self.head is None:
            raise RuntimeError("the response has no head")
        return self.head, bytes(self._body)


@dataclass(frozen=True)
class _Target:
    """The common part of all requests to a URL."""

    origin: Origin
    target: str
    headers: tuple[tuple[str, str], ...]

    def head_of(self, request: OutgoingRequest) -> bytes:
        """Return the head of a request. Raises ValueError for a header that cannot be sent."""
        if not all(value.isascii() and value.isprintable() for value in request.headers.values()):
            raise ValueError("a header's value must be visible ASCII")
        return post_head(self.target, (*self.headers, *request.headers.items()), len(request.body))


_is_secret_name = lru_cache(maxsize=64)(is_secret_name)
"""All deliveries have the same few names, and looking at one takes 1.5 µs."""


@lru_cache(maxsize=512)  # as many as parsed URLs
def _target_of(url: str, tenant: str) -> _Target:
    """Return the target of a tenant's webhook, whose URL is sent exactly as it was validated. Raises ValueError."""
    webhook = parse_webhook(url)
    host = host_header(webhook.host, webhook.port, default_port=DEFAULT_PORTS[webhook.scheme])
    return _Target(
        Origin(webhook.host, webhook.port, webhook.scheme == "https", tenant),
        webhook.target,
        (("Host", host), ("User-Agent", USER_AGENT), ("Accept-Encoding", "identity")),
    )


def _failed(error: Exception, request: OutgoingRequest) -> WebhookResponse:
    error_type = _error_type_of(error)
    detail = _detail(error, plain=request.url.startswith("http:"))
    text = ERROR_TEXTS[error_type]
    return WebhookResponse(status=None, error_type=error_type, excerpt=f"{text}: {detail}" if detail else text)


def _error_type_of(error: Exception) -> str:
    match error:
        case CallError():
            return error.error_type
        case TimeoutError():
            return READ_TIMEOUT
        case ValueError():
            return INVALID_REQUEST
        case _:
            return INTERNAL


def _detail(error: Exception, *, plain: bool) -> str:
    """Return a detail that helps the receiver's owner and has no address; empty if there is none."""
    match error:
        case BadResponse():
            return error.problem
        case CallError() if error.error_type == TLS_ERROR:
            return tls_problem(error)
        case NoResponse() if plain:
            # A receiver that failed closes it in the same way.
            return "it was closed without a response: the receiver failed, or the port speaks TLS (https)"
        case _:
            return ""
