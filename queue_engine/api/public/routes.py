"""Routes for the operator: health, metrics, documentation. They need no API key."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, Literal

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Response, success
from queue_engine.api.public.docs_page import CONTENT_SECURITY_POLICY, render
from queue_engine.engine.engine import Engine
from queue_engine.observability.exporter import Page

TAG = "operations"
READINESS_SECONDS = 1.0
"""How long the result of a readiness check is used."""


class IndexView(View):
    """Paths of this server that need no API key."""

    docs: str = Field(description="Path of the API's description as a page")
    openapi: str = Field(description="Path of the API's description as an OpenAPI document")
    health: str = Field(description="Path of the check that this process is alive")
    ready: str = Field(description="Path of the check that the store is reachable and writable")
    console: str | None = Field(default=None, description="Path of the web console; missing when it is off")


class HealthView(View):
    """The check has passed."""

    status: Literal["ok"] = Field(description="Always `ok`")


class Readiness:
    """The check of the store, at most once a second: requests without a key must not load the store."""

    def __init__(self, engine: Engine, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._checking: asyncio.Task[None] | None = None
        self._expires_at = 0.0

    async def check(self) -> None:
        """Raise StoreUnavailable if the store was not reachable or did not accept writes within the last second."""
        if self._checking is None or (self._checking.done() and self._monotonic() >= self._expires_at):
            self._checking = asyncio.create_task(self._check(), name="readiness")
            self._checking.add_done_callback(_retrieve)
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        try:
            await self._engine.check_ready()
        finally:
            self._expires_at = self._monotonic() + READINESS_SECONDS


def _retrieve(checked: asyncio.Task[None]) -> None:
    """Mark the error as retrieved: all requests may have ended, and asyncio would log it."""
    if not checked.cancelled():
        checked.exception()


class OperationsRoutes:
    """Routes without a key. `document` returns the OpenAPI document of all operations."""

    def __init__(
        self,
        engine: Engine,
        document: Callable[[], dict[str, Any]],
        metrics_page: Page,
        *,
        shows_metrics: bool = True,
        has_console: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._readiness = Readiness(engine, monotonic=monotonic)
        # Made once: the document does not change, and making a page takes some milliseconds.
        self._openapi = functools.cache(lambda: orjson.dumps(document()))
        self._docs = functools.cache(lambda: render(document()).encode())
        self._metrics_page = metrics_page
        self._shows_metrics = shows_metrics
        self._has_console = has_console
        self._scrape: asyncio.Task[bytes] | None = None

    def operations(self) -> list[Operation]:
        """Return the operations, without `/metrics` if it is not shown here."""
        return [one for one in self._operations() if self._shows_metrics or one.path != "/metrics"]

    def _operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/", self.show_index, summary="List the paths of the documentation and the checks", tag=TAG,
                right=None, response=Success[IndexView],
            ),
            Operation(
                "GET", "/healthz", self.is_alive, summary="Check that this process is alive", tag=TAG, right=None,
                response=Success[HealthView],
            ),
            Operation(
                "GET", "/readyz", self.is_ready, summary="Check that the store is reachable and writable", tag=TAG,
                right=None, response=Success[HealthView], failures=(503,),
            ),
            Operation(
                "GET", "/metrics", self.show_metrics, summary="Read the metrics in the Prometheus text format", tag=TAG,
                right=None, media_type="text/plain",
            ),
            Operation(
                "GET", "/openapi.json", self.show_openapi, summary="Read this description as an OpenAPI document",
                tag=TAG, right=None, response=dict[str, Any],
            ),
            Operation(
                "GET", "/docs", self.show_docs, summary="Read this description as a page", tag=TAG, right=None,
                media_type="text/html",
            ),
        ]  # fmt: skip

    async def show_index(self, _request: Request) -> Response:
        paths = {"docs": "/docs", "openapi": "/openapi.json", "health": "/healthz", "ready": "/readyz"}
        return success(paths | ({"console": "/console"} if self._has_console else {}))

    async def is_alive(self, _request: Request) -> Response:
        return success({"status": "ok"})

    async def is_ready(self, _request: Request) -> Response:
        """The result is up to a second old."""
        await self._readiness.check()
        return success({"status": "ok"})

    async def show_metrics(self, _request: Request) -> Response:
        """Only with `QUEUE_ENGINE_API_METRICS=public`, as with `up`. Otherwise at the process's metrics address."""
        # In a thread, because it may ask other processes. Requests at the same time share one page, so that a burst of
        # them does not take the threads that other work needs.
        if self._scrape is None or self._scrape.done():
            self._scrape = asyncio.create_task(asyncio.to_thread(self._metrics_page))
        return Response(200, await asyncio.shield(self._scrape), CONTENT_TYPE_LATEST.encode())

    async def show_openapi(self, _request: Request) -> Response:
        return Response(200, self._openapi())

    async def show_docs(self, _request: Request) -> Response:
        policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
        return Response(200, self._docs(), b"text/html; charset=utf-8", (policy,))
