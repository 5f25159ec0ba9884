"""Forwarding a task to its container: one HTTP call, behind a narrow interface."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from queue_engine.domain.retry import container_retry_after
from queue_engine.domain.tasks import ERROR_EXCERPT_BYTES, ClaimedTask, ContainerAnswer
from queue_engine.runtime.http_faults import fault_of
from worker_agent.container import ContainerAddress

CONNECT_TIMEOUT_SECONDS = 5.0
CANCEL_TIMEOUT_SECONDS = 5.0
"""How long a container may take to answer that it has heard of a cancellation."""
KEEPALIVE_SECONDS = 1.5
"""Idle connections are closed before common servers close them (gunicorn after 2 s, uvicorn after 5 s): a task sent on
a connection that its container is closing at that moment would fail without having run."""


@dataclass(frozen=True)
class ForwardRequest:
    """What is sent to the container."""

    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    timeout_seconds: float


class Forwarder(Protocol):
    """Sends one request to the container."""

    async def forward(self, request: ForwardRequest) -> ContainerAnswer:
        """The container's answer, or the fault that came instead of one. Raises nothing but CancelledError."""
        ...


def request_for(task: ClaimedTask, address: ContainerAddress) -> ForwardRequest | None:
    """The request by the contract, or None when the worker does not expose the task's workerPort."""
    port = address.port_for(task.spec.worker_port)
    if port is None:
        return None
    headers = dict(task.spec.headers)
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    headers |= _ids(task)
    if task.spec.traceparent is not None and not any(name.lower() == "traceparent" for name in headers):
        headers["traceparent"] = task.spec.traceparent
    return ForwardRequest(
        address.host, port, task.spec.process_uri, tuple(headers.items()), task.input, task.timeout_seconds
    )


def cancel_request_for(task: ClaimedTask, path: str | None, address: ContainerAddress) -> ForwardRequest | None:
    """The request that tells the container that this task is cancelled; None when there is no path for that."""
    port = address.port_for(task.spec.worker_port)
    if path is None or port is None:
        return None
    headers = {"Content-Type": "application/json"} | _ids(task)
    body = json.dumps({"taskId": task.lease.task_id}).encode()
    return ForwardRequest(address.host, port, path, tuple(headers.items()), body, CANCEL_TIMEOUT_SECONDS)


def _ids(task: ClaimedTask) -> dict[str, str]:
    return {
        "X-Task-Id": task.lease.task_id,
        "X-Endpoint-Id": task.lease.endpoint_id,
        "X-Task-Attempt": str(task.attempt),
    }


class HttpForwarder:
    """Forwards over HTTP/1.1 with kept-alive connections: httpx's model of requests on aiohttp's transport.

    The transport is called directly: a client's cookies, redirects and proxies have no place here. `max_answer_bytes`
    bounds what is read, after decompression. Close it with `aclose`.
    """

    def __init__(self, *, max_answer_bytes: int, max_connections: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._max_connections = max_connections
        self._transport: AiohttpTransport | None = None

    async def forward(self, request: ForwardRequest) -> ContainerAnswer:
        try:
            async with asyncio.timeout(request.timeout_seconds):
                return await self._exchange(request)
        except TimeoutError:
            return ContainerAnswer(fault="timeout", detail=f"{request.timeout_seconds:g} s")
        except (httpx.HTTPError, aiohttp.ClientError, OSError, ValueError) as error:
            return ContainerAnswer(fault=fault_of(error), detail=str(error) or type(error).__name__)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.aclose()

    async def _exchange(self, request: ForwardRequest) -> ContainerAnswer:
        outgoing = httpx.Request(
            "POST",
            _url(request.host, request.port, request.path),
            headers=request.headers,
            content=request.body,
            extensions={"timeout": {"connect": CONNECT_TIMEOUT_SECONDS}},
        )
        response = await self._connected().handle_async_request(outgoing)
        try:
            return await self._read(response)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response) -> ContainerAnswer:
        """The whole body of a success; of any other answer only what an error repeats."""
        succeeded = 200 <= response.status_code < 300
        content_type = response.headers.get("content-type", "")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if succeeded and size > self._max_answer_bytes:
                return self._too_large(response)
            chunks.append(chunk)
            if not succeeded and size >= ERROR_EXCERPT_BYTES:
                break
        return ContainerAnswer(
            status=response.status_code,
            content_type=content_type,
            body=b"".join(chunks),
            retry_after_seconds=container_retry_after(response.headers.get("retry-after")),
        )

    def _too_large(self, response: httpx.Response) -> ContainerAnswer:
        announced = response.headers.get("content-length", "")
        size = f"{announced} bytes" if announced.isdigit() else f"more than {self._max_answer_bytes} bytes"
        detail = f"the worker's container answered with {size}; the limit is {self._max_answer_bytes}"
        return ContainerAnswer(status=response.status_code, fault="too_large", detail=detail)

    def _connected(self) -> AiohttpTransport:
        if self._transport is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=KEEPALIVE_SECONDS, resolver=aiohttp.ThreadedResolver()
            )
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                trust_env=False,
            )
            self._transport = AiohttpTransport(client=session)
        return self._transport


@lru_cache(maxsize=512)
def _url(host: str, port: int, path: str) -> httpx.URL:
    bracketed = f"[{host}]" if ":" in host else host
    return httpx.URL(f"http://{bracketed}:{port}{path}")
