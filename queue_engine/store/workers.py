"""Workers in the store: put by the controller, reported on by their agents."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.client import optional_int, word_of
from queue_engine.store.keys import Partitions
from queue_engine.store.scripts import ScriptRunner


class WorkerStore:
    """The workers of all endpoints. Every method may be called again after a lost reply."""

    def __init__(self, redis: Redis, scripts: ScriptRunner, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, restarts: int = 0) -> None:
        """Record a worker that is about to start; does nothing when it is recorded."""
        keys = self._partitions.of(endpoint_id)
        await self._scripts.run(
            "put_worker",
            [keys.worker(worker_id), keys.workers],
            [worker_id, "1" if managed else "0", restarts],
        )

    async def report(
        self,
        endpoint_id: str,
        worker_id: str,
        status: WorkerStatus,
        *,
        running_tasks: int,
        address: str,
        error: str = "",
    ) -> bool:
        """An agent's word on its worker. False when the worker is not wanted any more and the agent must end."""
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.run(
            "report_worker",
            [keys.worker(worker_id), keys.workers],
            [worker_id, status.value, running_tasks, address, error],
        )
        return word_of(reply) == "OK"

    async def mark(self, endpoint_id: str, worker_id: str, status: WorkerStatus, *, error: str = "") -> None:
        """A controller's word on a worker; does nothing when there is no such worker."""
        keys = self._partitions.of(endpoint_id)
        await self._scripts.run("mark_worker", [keys.worker(worker_id), keys.workers], [worker_id, status.value, error])

    async def remove(self, endpoint_id: str, worker_id: str) -> None:
        """Forget a worker."""
        keys = self._partitions.of(endpoint_id)
        await self._scripts.run(
            "remove_worker", [keys.worker(worker_id), keys.workers, keys.queue, keys.retry_queue], [worker_id]
        )

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]:
        """The endpoint's workers, oldest first."""
        keys = self._partitions.of(endpoint_id)
        ids = [name.decode() for name in await self._redis.hkeys(keys.workers)]  # type: ignore[misc]
        workers = await asyncio.gather(*(self.get(endpoint_id, worker_id) for worker_id in ids))
        return sorted((worker for worker in workers if worker), key=lambda one: (one.created_at_ms, one.worker_id))

    async def get(self, endpoint_id: str, worker_id: str) -> Worker | None:
        """One worker, or None."""
        record = await self._redis.hgetall(self._partitions.of(endpoint_id).worker(worker_id))  # type: ignore[misc]
        fields = {name.decode(): value.decode("utf-8", "replace") for name, value in record.items()}
        if "status" not in fields:
            return None
        return Worker(
            worker_id=worker_id,
            endpoint_id=endpoint_id,
            status=WorkerStatus(fields["status"]),
            created_at_ms=int(fields["created"]),
            managed=fields.get("managed") == "1",
            last_heartbeat_at_ms=optional_int(fields.get("beat")),
            running_tasks=int(fields.get("running", 0)),
            restarts=int(fields.get("restarts", 0)),
            error=fields.get("error"),
            address=fields.get("address"),
        )
