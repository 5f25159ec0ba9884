"""Workers: the controller creates their records, and their agents report to them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import AGENT_PROTOCOL, Pace, Worker, WorkerStatus
from queue_engine.observability import metrics
from queue_engine.store.api_keys import hash_of
from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import is_indexed
from queue_engine.store.keys import FORMAT, META, Partitions, WorkerKeys
from queue_engine.store.redis.client import optional_int

log = logging.getLogger(__name__)

PAGE_SIZE = 100
"""Number of commands in one pipeline."""
BEAT_TTL_MS = 10 * 365 * 86_400_000
"""Time to live that a heartbeat gives to the record of a worker. The time of the latest heartbeat follows from the time
of expiry, which is not reached."""


class Stop(StrEnum):
    """The result of an order to stop a worker."""

    OK = "OK"
    UNCHANGED = "UNCHANGED"
    """The worker is being stopped."""
    BY_HAND = "BY_HAND"
    """The worker's agent was started by hand."""
    NOT_FOUND = "NOT_FOUND"


class WorkerStore:
    """The workers of all endpoints. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, revision: int = 1) -> None:
        """Record a worker that is about to start. Does nothing when it exists, or its endpoint was deleted."""
        await self._scripts.put_worker(self._keys(endpoint_id, worker_id), is_managed=managed, revision=revision)

    async def begin_start(self, endpoint_id: str, worker_id: str, agent_token: str | None = None) -> int | None:
        """Record a start of the worker. Return the number of this start; None when there is no such worker.

        Reports from agents of earlier starts, and their tokens, are refused from then on. `agent_token` is that of the
        agent that is about to start, which must be new.
        """
        reply = await self._scripts.start_worker(
            self._keys(endpoint_id, worker_id),
            worker_id=worker_id,
            token_hash="" if agent_token is None else hash_of(agent_token),
        )
        return reply.run if reply.word == "OK" else None

    async def report(
        self,
        endpoint_id: str,
        worker_id: str,
        status: WorkerStatus,
        *,
        running_tasks: int,
        address: str,
        reason: str = "",
        run: int = 0,
        error: str = "",
        pace: Pace | None = None,
        seen: Callable[[bool, bool], None] | None = None,
    ) -> DesiredState | None:
        """Record the status that an agent reports for its worker. Return the desired state of the endpoint.

        `run` is the number of the worker's start, 0 when no controller started the agent. `error` is the reason why the
        worker is not ready, or why it runs and does not claim all tasks. An empty text removes it when the worker runs,
        and changes nothing otherwise. `pace` is None from an agent that does not know it. Return None when the worker
        or its endpoint no longer exists, or the worker was started again: the agent must end. Otherwise `seen` is
        called with what was found in the queue: whether tasks are queued, and whether neither a pause nor a rate limit
        keeps the agent from claiming them.
        """
        reply = await self._scripts.report_worker(
            self._keys(endpoint_id, worker_id),
            reported=status.value,
            running_tasks=running_tasks,
            address=address,
            reason=reason,
            run=run,
            error_text=error,
            slots=None if pace is None else pace.slots,
            mean_run_ms=None if pace is None else pace.mean_run_ms,
            protocol=AGENT_PROTOCOL,
        )
        if reply.word != "OK":
            return None
        if seen is not None:
            seen(reply.has_queued, reply.is_open)
        return DesiredState(reply.desired)

    async def beat(
        self, endpoint_id: str, worker_id: str, status: WorkerStatus, *, run: int = 0
    ) -> DesiredState | None:
        """Record that an agent lives whose report would change nothing, and return the desired state of the endpoint.

        Return None if a report is needed, because the record is another one than after the agent's latest report, does
        not exist, or tasks are queued. Most agents of a large installation are idle, and a script that the server runs
        now and then costs it twice as much as all these commands.
        """
        keys = self._keys(endpoint_id, worker_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.pexpire(keys.worker, BEAT_TTL_MS)  # does nothing without a record
        pipeline.hmget(keys.worker, ["status", "run", "error"])
        pipeline.hget(keys.endpoint_keys.endpoint, "wanted")
        pipeline.hget(keys.endpoint_keys.counts, "queued")
        _, (stored, latest_run, error), desired, queued = await pipeline.execute()
        is_same = stored == status.value.encode() and not error and run in (0, int(latest_run or 0))
        return DesiredState(desired.decode()) if is_same and desired and int(queued or 0) <= 0 else None

    async def may_use_lanes(self, endpoint_id: str) -> bool:
        """Return True if the user of the store may read the lanes of an endpoint."""
        try:
            await self._redis.exists(self._partitions.of(endpoint_id).lanes)
        except NoPermissionError:
            return False
        return True

    async def are_beats_read(self) -> bool:
        """Return True if no controller runs that reads heartbeats from reports only, which are those of format 1."""
        return is_indexed(await self._redis.hget(META, FORMAT))  # type: ignore[misc]

    async def mark(
        self,
        endpoint_id: str,
        worker_id: str,
        status: WorkerStatus,
        *,
        reason: str,
        error: str = "",
        outdated_error: str = "",
        restarted: bool = False,
    ) -> None:
        """Set a worker's status, as decided by the controller. Does nothing when there is no such worker.

        `error` replaces the recorded error. Without it, `outdated_error` is removed if it is still the recorded one.
        """
        await self._scripts.mark_worker(
            self._keys(endpoint_id, worker_id),
            status=status.value,
            reason=reason,
            error_text=error,
            outdated_error=outdated_error,
            restarts=int(restarted),
        )

    async def stop(self, endpoint_id: str, worker_id: str, tenant: str, *, reason: str, call_id: str) -> Stop:
        """Let a managed worker finish or release its tasks and end. A controller starts one in its place if needed."""
        reply = await self._scripts.stop_worker(
            self._keys(endpoint_id, worker_id), tenant=tenant, reason=reason, call_id=call_id, version=0, fields={}
        )
        return Stop(reply.word)

    async def remove(
        self,
        endpoint_id: str,
        worker_id: str,
        *,
        status: WorkerStatus = WorkerStatus.STOPPED,
        reason: str = "stopped",
        by_agent: bool = False,
    ) -> None:
        """Remove a worker that has ended with `status` (STOPPED or FAILED), and its agent token. Safe to repeat.

        With `by_agent`, tokens and waiting deliveries are not accessed: the user of an agent on the store must not be
        able to. Other callers also drop events of removed workers, if too many wait.
        """
        keys = self._keys(endpoint_id, worker_id)
        endpoint, partition = keys.endpoint_keys, keys.endpoint_keys.partition
        reply = await self._scripts.remove_worker(
            keys,
            of_engine=[] if by_agent else [endpoint.worker_tokens, partition.outbox_due, partition.outbox_parked],
            worker_id=worker_id,
            status=status.value,
            reason=reason,
        )
        if reply.dropped:
            metrics.worker_events_dropped.inc(reply.dropped)
            ids = {"endpoint": endpoint_id, "events": reply.dropped}
            log.warning("status events of removed workers were dropped: too many wait for the webhook", extra=ids)

    async def count(self, endpoint_id: str) -> int:
        """Return the number of the endpoint's workers."""
        number: int = await self._redis.hlen(self._partitions.of(endpoint_id).workers)  # type: ignore[misc]
        return number

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]:
        """Return the endpoint's workers, oldest first."""
        return (await self.of_endpoints([endpoint_id])).get(endpoint_id, [])

    async def of_endpoints(self, endpoint_ids: Sequence[str]) -> dict[str, list[Worker]]:
        """Return the workers of endpoints that have some, by endpoint id, oldest first. A pipeline reads a page."""
        keys = [self._partitions.of(endpoint_id) for endpoint_id in endpoint_ids]
        names = await self._read([("HKEYS", one.workers) for one in keys])
        pairs = [(one.endpoint_id, name.decode()) for one, of_one in zip(keys, names, strict=True) for name in of_one]
        found: dict[str, list[Worker]] = defaultdict(list)
        for worker in await self._get(pairs):
            found[worker.endpoint_id].append(worker)
        return {
            endpoint_id: sorted(workers, key=lambda one: (one.created_at_ms, one.worker_id))
            for endpoint_id, workers in found.items()
        }

    async def get(self, endpoint_id: str, worker_id: str) -> Worker | None:
        """Return the worker, or None when there is no such worker."""
        return next(iter(await self._get([(endpoint_id, worker_id)])), None)

    async def _get(self, pairs: Sequence[tuple[str, str]]) -> list[Worker]:
        """Return the workers with these endpoint and worker ids that exist."""
        keys = [self._keys(*pair).worker for pair in pairs]
        replies = iter(await self._read([(name, key) for key in keys for name in ("HGETALL", "PEXPIRETIME")]))
        workers = (_worker(*pair, *found) for pair, *found in zip(pairs, replies, replies, strict=True))
        return [worker for worker in workers if worker is not None]

    async def _read(self, commands: Sequence[tuple[str, str]]) -> list[Any]:
        replies: list[Any] = []
        for first in range(0, len(commands), PAGE_SIZE):
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands[first : first + PAGE_SIZE]:
                pipeline.execute_command(*command)
            replies += await pipeline.execute()
        return replies

    def _keys(self, endpoint_id: str, worker_id: str) -> WorkerKeys:
        return self._partitions.of(endpoint_id).of_worker(worker_id)


def _worker(endpoint_id: str, worker_id: str, record: Mapping[bytes, bytes], expires_at_ms: int) -> Worker | None:
    fields = {name.decode(): value.decode("utf-8", "replace") for name, value in record.items()}
    if "status" not in fields:
        return None
    return Worker(
        worker_id=worker_id,
        endpoint_id=endpoint_id,
        status=WorkerStatus(fields["status"]),
        created_at_ms=int(fields["created"]),
        started_at_ms=optional_int(fields.get("started")),
        managed=fields.get("managed") == "1",
        last_heartbeat_at_ms=_latest_beat(optional_int(fields.get("beat")), expires_at_ms),
        running_tasks=int(fields.get("running", 0)),
        restarts=int(fields.get("restarts", 0)),
        error=fields.get("error"),
        revision=int(fields.get("revision", 1)),
        address=fields.get("address"),
        pace=_pace(fields),
        protocol=int(fields.get("protocol", 1)),
    )


def _latest_beat(reported_at_ms: int | None, expires_at_ms: int) -> int | None:
    """Return the time of the latest report or heartbeat. Before the first report of a start, a heartbeat is that of an
    agent of an earlier start."""
    return None if reported_at_ms is None else max(reported_at_ms, expires_at_ms - BEAT_TTL_MS)


def _pace(fields: Mapping[str, str]) -> Pace | None:
    slots, mean = fields.get("slots"), fields.get("run_ms")
    return Pace(int(slots), float(mean) if mean else None) if slots else None
