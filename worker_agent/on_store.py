"""An agent that reaches the engine through its store: the fastest way, for hosts that all tenants trust."""

from __future__ import annotations

import asyncio
import logging

from queue_engine.aio import retry_while_unavailable
from queue_engine.config.agent import AgentSettings
from queue_engine.domain.errors import EngineError
from queue_engine.store.queue import TaskQueue
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreLog, StoreTaskSource, StoreWorkerRecord

log = logging.getLogger("worker_agent")


class StoreLink:
    """The ports of an agent on the store: see EngineLink."""

    def __init__(self, settings: AgentSettings) -> None:
        self._store = Store(
            settings.redis_url.get_secret_value(),
            settings.sealer(),
            partitions=settings.partitions,
            durability=settings.asked_durability(),
            is_agent=True,
            endpoint_keys=settings.endpoint_sealer(),
        )
        self._queue: TaskQueue | None = None

    async def open(self, settings: AgentSettings) -> tuple[AgentSettings, str]:
        info = await self._store.wait_until_ready()
        _warn_of_keys(settings)
        return await completed(settings, self._store), str(info)

    def source(self, settings: AgentSettings) -> StoreTaskSource:
        return StoreTaskSource(self._queue_of(settings), is_reported=True)

    def record(self, settings: AgentSettings) -> StoreWorkerRecord:
        return StoreWorkerRecord(
            self._store.workers,
            endpoint_id=settings.endpoint,
            worker_id=settings.worker_id,
            run=settings.run,
            queue=self._queue_of(settings),
        )

    def _queue_of(self, settings: AgentSettings) -> TaskQueue:
        if self._queue is None:
            self._queue = self._store.queue(
                endpoint_id=settings.endpoint,
                worker_id=settings.worker_id,
                lease_ms=int(settings.lease_seconds * 1000),
            )
        return self._queue

    def log(self, settings: AgentSettings) -> StoreLog:
        return StoreLog(
            self._store.logs,
            endpoint_id=settings.endpoint,
            worker_id=settings.worker_id,
            retention_seconds=settings.log_retention_seconds,
        )

    async def refusal(self) -> str:
        """Wait forever, because a store that refuses its password may accept it later."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self) -> None:
        await self._store.close()


def _warn_of_keys(settings: AgentSettings) -> None:
    """Log a warning when the agent cannot open the headers of its tasks, or could open more than these."""
    if settings.endpoint_key is not None:
        return
    if settings.secret_key is None:
        log.warning("no key (WORKER_AGENT_ENDPOINT_KEY): tasks with headers are left to other agents")
    else:
        log.warning(
            "the agent has the secret key, which opens all secrets of the store: give it the key of its endpoint in "
            "WORKER_AGENT_ENDPOINT_KEY, which `queue-engine agents key %s` prints, and remove the secret key",
            settings.endpoint,
        )


async def completed(settings: AgentSettings, store: Store) -> AgentSettings:
    """Return the settings, with defaults read from the endpoint in the store.

    The store is not read for a worker that a backend manages, because the backend passes all settings. It omits the
    ready path and the exposed port if the endpoint has none.
    """
    if settings.is_complete:
        return settings
    endpoint = await retry_while_unavailable(
        lambda: store.endpoints.get(settings.endpoint, None), passing=unavailability, what="the endpoint"
    )
    if endpoint is None:
        raise EngineError(f"endpoint {settings.endpoint} does not exist in this store")
    config = endpoint.config
    return settings.completed_by(
        service_mode=config.service_mode,
        concurrency=config.concurrency,
        exposed_port=config.expose.port if config.expose else None,
        ready_path=config.ready_path,
        start_timeout_seconds=config.start_timeout_seconds,
    )
