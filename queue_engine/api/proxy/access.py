"""The HTTP client towards workers, loaded and made with the first request to a worker.

Its library takes 9 MB and a fifth of a second to load, which an API without requests to workers does not need.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from queue_engine.rules.addresses import WorkerPolicy

if TYPE_CHECKING:
    from queue_engine.api.proxy.exchange import WorkerClient

MAX_KEPT_PER_WORKER = 16
"""Limit of idle connections to a worker. Its server has a thread for each in the worst case."""
MAX_KEPT = 128
"""Limit of all idle connections to workers, so that they do not use up the process's files."""

_CLIENT_MODULE = "queue_engine.api.proxy.exchange"


@dataclass(frozen=True)
class Limits:
    """Limits of an exchange."""

    max_body_bytes: int
    silence_seconds: float
    """Time limit while no data moves in either direction."""
    websocket_idle_seconds: float
    """The same limit of a WebSocket."""


class WorkerAccess:
    """Makes the client. `policy` checks the address of every connection. Close it with `aclose`.

    An idle connection is kept for `kept_seconds`.
    """

    def __init__(self, policy: WorkerPolicy, kept_seconds: float) -> None:
        self._policy = policy
        self._kept_seconds = kept_seconds
        self._opening = asyncio.Lock()
        self._client: WorkerClient | None = None

    async def client(self) -> WorkerClient:
        """Return the client, the same one for all requests. Its module is loaded when this returns."""
        async with self._opening:
            if self._client is None:
                # In a thread, so that other requests do not wait for the imports.
                module = await asyncio.to_thread(import_module, _CLIENT_MODULE)
                client: WorkerClient = module.WorkerClient(self._policy, kept_seconds=self._kept_seconds)
                self._client = client
            return self._client

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        if self._client is not None:
            await self._client.aclose()
