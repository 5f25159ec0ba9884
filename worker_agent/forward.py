"""Forward a task to its container: one HTTP call, behind a narrow interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

import aiohttp
from yarl import URL

from queue_engine.domain.retry import container_retry_after
from queue_engine.domain.tasks import ERROR_EXCERPT_BYTES, NOT_CONNECTED, ContainerResponse
from queue_engine.net.error_types import BadResponse, error_type_of, problem_of
from queue_engine.net.http_client import MAX_HEAD_BYTES, ResponseConnector
from queue_engine.rules.excerpts import printable
from queue_engine.rules.outputs import output_of, text_of
from worker_agent.codings import BodyDecoder, TooLarge
from worker_agent.requests import ForwardRequest

CONNECT_TIMEOUT_SECONDS = 5.0
KEEPALIVE_SECONDS = 1.5
"""Idle time after which a connection is closed. It is shorter than that of common servers (gunicorn 2 s, uvicorn 5 s),
because a task that is sent on a connection which the container is just closing would fail without having run."""
MAX_LOCATION_BYTES = 200
MAX_ON_LOOP_BYTES = 64 * 1024
"""Limit for a body that is decoded on the event loop. A larger one is decoded in a thread, so that it does not delay
heartbeats."""
READ_BUFFER_BYTES = 64 * 1024
MAX_FAILURE_BYTES = 1024 * 1024
"""Limit for the decoded bytes of a failed response's body, of which the error quotes the beginning."""
FAILURE_BODY_SECONDS = 2.0
"""Timeout for reading that beginning. It can be short, because only the text of the error depends on the body."""


class Forwarder(Protocol):
    """Sends one request to the container."""

    async def forward(self, request: ForwardRequest) -> ContainerResponse:
        """Return the container's response, or the error type of the failed call. Raises only CancelledError."""
        ...


class HttpForwarder:
    """Forwards over HTTP/1.1 with keep-alive connections; cookies, redirects and proxies are not used.

    `max_response_bytes` limits the size of a response after decoding. Close the forwarder with `aclose`.
    """

    def __init__(
        self, *, max_response_bytes: int, max_connections: int, failure_body_seconds: float = FAILURE_BODY_SECONDS
    ) -> None:
        self._max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._failure_body_seconds = failure_body_seconds
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, request: ForwardRequest) -> ContainerResponse:
        try:
            async with asyncio.timeout(request.timeout_seconds) as limit:
                return await self._exchange(request, limit)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if limit.expired():
                return ContainerResponse(error_type="timeout", detail=f"{request.timeout_seconds:g} s")
            error_type, problem = error_type_of(error), problem_of(error)
            if error_type in NOT_CONNECTED:
                problem = f"{problem} ({_authority(request)})"
            return ContainerResponse(error_type=error_type, detail=problem)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, request: ForwardRequest, limit: asyncio.Timeout) -> ContainerResponse:
        response = await self._opened().post(
            URL(f"http://{_authority(request)}{request.path}", encoded=True),
            headers=request.headers,
            data=request.body,
            allow_redirects=False,
        )
        try:
            if 200 <= response.status < 300:
                return await self._success(response)
            deadline = limit.when() or 0.0
            limit.reschedule(None)  # because the status decides the outcome, even if the body does not end in time
            return await self._failure(response, deadline)
        except ValueError as error:  # `forward` would treat it as a request that cannot be sent
            raise BadResponse("its body cannot be read") from error
        finally:
            response.close()

    async def _success(self, response: aiohttp.ClientResponse) -> ContainerResponse:
        """Return the response with its whole body. Raises BadResponse, and the errors of the connection."""
        body = bytearray()
        try:
            async for piece in _decoded(response, self._max_response_bytes):
                body += piece
        except TooLarge:
            return self._too_large(response)
        content_type = response.headers.get("Content-Type", "")
        if len(body) <= MAX_ON_LOOP_BYTES:
            return ContainerResponse(response.status, output_of(content_type, bytes(body)))
        return ContainerResponse(response.status, await asyncio.to_thread(output_of, content_type, bytes(body)))

    async def _failure(self, response: aiohttp.ClientResponse, deadline: float) -> ContainerResponse:
        """Return the status, and as much of the body as the error quotes."""
        body = await _beginning(response, min(deadline, asyncio.get_running_loop().time() + self._failure_body_seconds))
        text = text_of(response.headers.get("Content-Type", ""), body)
        location = response.headers.get("Location", "") if 300 <= response.status < 400 else ""
        return ContainerResponse(
            response.status,
            excerpt=printable(text.replace("\r\n", "\n"), ERROR_EXCERPT_BYTES, keep="\n\t"),
            location=printable(location, MAX_LOCATION_BYTES),
            retry_after_seconds=container_retry_after(response.headers.get("Retry-After")),
        )

    def _too_large(self, response: aiohttp.ClientResponse) -> ContainerResponse:
        announced = response.content_length
        coded = "Content-Encoding" in response.headers
        size = f"more than {self._max_response_bytes} bytes" if coded or announced is None else f"{announced} bytes"
        decoded = " when decoded" if coded else ""
        detail = f"the worker's container answered with {size}{decoded}; the limit is {self._max_response_bytes}"
        return ContainerResponse(status=response.status, error_type="too_large", detail=detail)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = ResponseConnector(
                limit=self._max_connections, keepalive_timeout=KEEPALIVE_SECONDS, resolver=aiohttp.ThreadedResolver()
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=MAX_HEAD_BYTES,
                max_field_size=MAX_HEAD_BYTES,
                max_headers=MAX_HEAD_BYTES,
            )
        return self._session


def _authority(request: ForwardRequest) -> str:
    host = f"[{request.host}]" if ":" in request.host else request.host
    return f"{host}:{request.port}"


async def _beginning(response: aiohttp.ClientResponse, until: float) -> bytes:
    """Return the beginning of a failed response's body: what arrives before `until`, up to the length an error quotes.

    An error while reading ends the body.
    """
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError, TooLarge):
        async with asyncio.timeout_at(until):
            async for piece in _decoded(response, MAX_FAILURE_BYTES):
                body += piece
                if len(body) >= ERROR_EXCERPT_BYTES:
                    break
    return bytes(body[:ERROR_EXCERPT_BYTES])


async def _decoded(response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body without its content codings. Raises BadResponse, TooLarge, and the errors of the connection."""
    for value in response.headers.getall("Transfer-Encoding", ()):
        for name in value.lower().split(","):
            if name.strip() not in ("chunked", "identity"):
                shown = name.strip()[:40].encode("unicode_escape").decode()
                raise BadResponse(f"it has the transfer coding {shown}; only chunked is decoded")
    decoder = BodyDecoder(response.headers.getall("Content-Encoding", ()), max_bytes=max_bytes)
    async for chunk in response.content.iter_any():
        for piece in decoder.feed(chunk):
            yield piece
    decoder.end()
