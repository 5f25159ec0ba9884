"""Reconcile: make the workers that run be the workers that are wanted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from queue_engine.controller.backends.base import Backend, BackendError, Observed, WorkerSpec
from queue_engine.controller.plan import (
    FAILED_AFTER_CRASHES,
    Lost,
    Start,
    Stop,
    plan,
    restart_wait_seconds,
)
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.workers import Worker, WorkerStatus

log = logging.getLogger(__name__)


class Endpoints(Protocol):
    """What reconciling needs of the endpoints in the store."""

    async def of_tenant(self, tenant: str | None) -> list[Endpoint]: ...
    async def environment(self, endpoint_id: str) -> dict[str, str]: ...
    async def set_failed(self, endpoint_id: str, failed: bool) -> None: ...


class Workers(Protocol):
    """What reconciling needs of the workers in the store."""

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]: ...
    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, restarts: int = 0) -> None: ...
    async def mark(self, endpoint_id: str, worker_id: str, status: WorkerStatus, *, error: str = "") -> None: ...
    async def remove(self, endpoint_id: str, worker_id: str) -> None: ...


@dataclass
class _History:
    """How an endpoint's workers fared lately. Kept in memory: a new controller gives every endpoint a fresh chance."""

    crashes: int = 0
    """Workers in a row that ended without having run."""
    restarts: int = 0
    not_before: float = 0.0
    stopping: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class Reconciler:
    """One controller's rounds over all endpoints.

    Only the leading controller may run it. Each round is safe to repeat and to break off at any line: it starts from
    what the store and the backend say now.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        workers: Workers,
        backend: Backend,
        *,
        agent_environment: Mapping[str, str],
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._workers = workers
        self._backend = backend
        self._agent_environment = agent_environment
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._histories: dict[str, _History] = {}

    async def step(self) -> int:
        """One round; returns how many workers it started, stopped or found dead."""
        observed = await self._backend.observe()
        endpoints = await self._endpoints.of_tenant(None)
        changes = 0
        for endpoint in endpoints:
            changes += await self._reconcile(endpoint, observed)
        for endpoint_id in self._histories.keys() - {endpoint.endpoint_id for endpoint in endpoints}:
            del self._histories[endpoint_id]
        return changes

    async def _reconcile(self, endpoint: Endpoint, observed: Mapping[str, Observed]) -> int:
        history = self._histories.setdefault(endpoint.endpoint_id, _History())
        workers = await self._workers.of_endpoint(endpoint.endpoint_id)
        await self._note_running(endpoint, workers, history)
        changes = 0
        for action in plan(endpoint, workers, observed):
            match action:
                case Lost(worker, reason):
                    await self._take_off(endpoint, worker, reason, observed.get(worker.worker_id), history)
                    changes += 1
                case Stop(worker):
                    changes += await self._stop(worker, history)
                case Start(count):
                    changes += await self._start(endpoint, count, history)
        return changes

    async def _note_running(self, endpoint: Endpoint, workers: Sequence[Worker], history: _History) -> None:
        if any(worker.status is WorkerStatus.RUNNING for worker in workers):
            history.crashes = 0
            if endpoint.failed:
                await self._endpoints.set_failed(endpoint.endpoint_id, False)

    async def _take_off(
        self, endpoint: Endpoint, worker: Worker, reason: str, seen: Observed | None, history: _History
    ) -> None:
        wanted_end = worker.worker_id in history.stopping or worker.status is WorkerStatus.STOPPED
        if not wanted_end:
            history.restarts += 1
            if worker.status is not WorkerStatus.RUNNING:
                history.crashes += 1
            history.not_before = self._clock() + restart_wait_seconds(history.crashes)
            last_lines = "\n".join(seen.last_lines) if seen else ""
            log.warning(
                "a worker ended by itself",
                extra={
                    "endpoint": endpoint.endpoint_id,
                    "worker": worker.worker_id,
                    "reason": reason,
                    "output": last_lines,
                },
            )
        await self._backend.stop(worker.worker_id, 0)
        await self._workers.remove(endpoint.endpoint_id, worker.worker_id)
        if history.crashes >= FAILED_AFTER_CRASHES and not endpoint.failed:
            await self._endpoints.set_failed(endpoint.endpoint_id, True)

    async def _start(self, endpoint: Endpoint, count: int, history: _History) -> int:
        if self._clock() < history.not_before:
            return 0
        environment = await self._endpoints.environment(endpoint.endpoint_id)
        for _ in range(count):
            worker_id = f"{endpoint.endpoint_id}-{secrets.token_hex(5)}"
            await self._workers.put(endpoint.endpoint_id, worker_id, managed=True, restarts=history.restarts)
            try:
                await self._backend.start(self._spec(endpoint, worker_id, environment))
            except BackendError as error:
                history.crashes += 1
                history.not_before = self._clock() + restart_wait_seconds(history.crashes)
                log.warning(
                    "a worker cannot be started: %s",
                    error,
                    extra={"endpoint": endpoint.endpoint_id, "worker": worker_id},
                )
                await self._workers.remove(endpoint.endpoint_id, worker_id)
                if history.crashes >= FAILED_AFTER_CRASHES:
                    await self._endpoints.set_failed(endpoint.endpoint_id, True)
                return 0
        return count

    async def _stop(self, worker: Worker, history: _History) -> int:
        """Drain in the background: a busy worker must not hold up the other endpoints."""
        if worker.worker_id in history.stopping:
            return 0
        await self._workers.mark(worker.endpoint_id, worker.worker_id, WorkerStatus.STOPPING)
        drain = asyncio.create_task(self._backend.stop(worker.worker_id, self._grace_seconds))
        history.stopping[worker.worker_id] = drain
        drain.add_done_callback(lambda _: history.stopping.pop(worker.worker_id, None))
        return 1

    def _spec(self, endpoint: Endpoint, worker_id: str, environment: Mapping[str, str]) -> WorkerSpec:
        config = endpoint.config
        return WorkerSpec(
            endpoint_id=endpoint.endpoint_id,
            worker_id=worker_id,
            image=config.image,
            image_registry=config.image_registry,
            command=config.initialization_command,
            environment=environment,
            exposed_port=config.expose.port if config.expose else None,
            concurrency=config.concurrency,
            agent_environment=self._agent_environment,
        )
