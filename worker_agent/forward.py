"""Forward a task to its container: one HTTP call, behind a narrow interface."""

from __future__ import annotations

from typing import Protocol

from queue_engine.aio import CommonTimeout, TimeLimit
from queue_engine.domain.tasks import NOT_CONNECTED, ContainerResponse
from queue_engine.net.connecting import connect_to_host
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import INVALID_REQUEST, CallError
from queue_engine.net.request_head import post_head
from queue_engine.rules.hosts import bracketed, host_header
from worker_agent.codings import TooLarge
from worker_agent.requests import ForwardRequest
from worker_agent.response_reader import ResponseReader

CONNECT_TIMEOUT_SECONDS = 5.0
KEEPALIVE_SECONDS = 1.5
"""Idle time after which a connection is closed. It is shorter than that of common servers (gunicorn 2 s, uvicorn 5 s),
because a task that is sent on a connection which the container is just closing would fail without having run."""
FAILURE_BODY_SECONDS = 2.0
"""Timeout for reading the beginning of a failure's body. It can be short, because only the text of the error depends on
the body."""
MAX_TIMEOUTS = 16
"""Number of different timeouts of tasks that share a timer each. The calls of further ones have their own timers."""
_HTTP_PORT = 80


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
        self._failure_body_seconds = failure_body_seconds
        self._timeouts: dict[float, CommonTimeout] = {}
        self._pool = ConnectionPool(
            connect_to_host,
            max_connections,
            keepalive_seconds=KEEPALIVE_SECONDS,
            connect_seconds=CONNECT_TIMEOUT_SECONDS,
        )

    async def forward(self, request: ForwardRequest) -> ContainerResponse:
        limit = self._limit_of(request.timeout_seconds)
        reader = ResponseReader(
            limit,
            max_bytes=self._max_response_bytes,
            failure_body_seconds=self._failure_body_seconds,
            request_body=request.body,
        )
        try:
            head = head_of(request)
        except ValueError:
            return _failed(CallError(INVALID_REQUEST), request)
        try:
            with limit:
                await self._exchange(request, head, reader)
                if not reader.is_failure:
                    return await reader.success()
        except TooLarge:
            return reader.too_large()
        except TimeoutError:
            if not reader.is_failure:
                return ContainerResponse(error_type="timeout", detail=f"{request.timeout_seconds:g} s")
        except CallError as error:
            if not reader.is_failure:
                return _failed(error, request)
        return reader.failure()

    def _limit_of(self, seconds: float) -> TimeLimit:
        """Return the limit of a call. Calls with the same timeout share a timer, which saves 4 µs a call."""
        common = self._timeouts.get(seconds)
        if common is None:
            common = CommonTimeout(seconds)
            if len(self._timeouts) < MAX_TIMEOUTS:
                self._timeouts[seconds] = common
        return common.limit()

    async def aclose(self) -> None:
        """Close all connections."""
        self._pool.close()

    async def _exchange(self, request: ForwardRequest, head: bytes, reader: ResponseReader) -> None:
        address = (request.host, request.port)
        connection = await self._pool.acquire(address)
        try:
            await connection.post(head, request.body, reader)
        finally:
            self._pool.release(address, connection)


def head_of(request: ForwardRequest) -> bytes:
    """Return the request line and the headers. Raises ValueError if one of them would end its line early."""
    host = host_header(request.host, request.port, default_port=_HTTP_PORT)
    return post_head(request.path, (("Host", host), *request.headers), len(request.body))


def _failed(error: CallError, request: ForwardRequest) -> ContainerResponse:
    where = f" ({bracketed(request.host)}:{request.port})" if error.error_type in NOT_CONNECTED else ""
    return ContainerResponse(error_type=error.error_type, detail=f"{error}{where}")
