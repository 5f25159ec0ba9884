"""The controller: every replica runs background jobs, and the leader also runs the workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from queue_engine.aio import end_tasks, retry_while_unavailable, run_forever
from queue_engine.backends.base import AsksForLeadership, Backend, BackendError, ListsInParts, Observed
from queue_engine.controller.deletions import Deleter
from queue_engine.controller.endpoint_figures import EndpointQueue, endpoint_figures
from queue_engine.controller.jobs import LEADERS_QUEUE, SHARED_QUEUE, Periodic, run_jobs
from queue_engine.controller.operations import Operations
from queue_engine.controller.reconcile import Reconciler
from queue_engine.controller.resync import Resync
from queue_engine.controller.sampling import Sampler
from queue_engine.controller.waiting_tasks import WaitingTasks
from queue_engine.domain.series import STEP_SECONDS
from queue_engine.domain.workers import endpoint_of_worker
from queue_engine.domain.workers_left import WorkersLeft
from queue_engine.observability import metrics
from queue_engine.store.keys import Partition
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1
RECONCILE_SECONDS = 1
PURGE_SECONDS = 10
DELETE_SECONDS = 2
RECOVER_SECONDS = 5
"""Interval at which recoveries are advanced that no delivery process has advanced, because it died or deferred their
deliveries."""
GAUGES_SECONDS = 5.0
BUILD_SECONDS = 5.0
"""Interval at which the leader checks if the index of given-up deliveries must be built."""
MIGRATE_SECONDS = 5.0
"""Interval at which the controller checks if the data must be migrated."""
HEADERS_SECONDS = 1.0
"""Interval at which the leader looks for tasks whose headers agents ask for."""
OPERATIONS_SECONDS = 1.0
"""Interval at which the leader looks for operations while none runs."""
RESYNC_SECONDS = 4.0
"""Interval at which the leader checks the index entries of a page of endpoints."""
LIST_SECONDS = 30.0
"""Time for which a controller that must end its workers waits for the backend to list them, beyond a leader's lease."""
LIST_POLL_SECONDS = 0.1
FORGET_SECONDS = 3.0
"""Time for which a controller that ends removes the records of its workers. The rest is for the next leader."""
PARTITIONS_AT_ONCE = 16
"""Number of partitions in which a job works at the same time. There are several, because an unresponsive server must
not make the sweeps of other partitions late: after a late sweep, expired leases are extended."""
ROUND_TASKS = 250
"""Maximum number of tasks in one round of a sweep."""
ROUND_ENDPOINTS = 100
"""Maximum number of endpoints in one round of a purge."""
MAX_ROUNDS = 200
"""Maximum number of rounds in one sweep or purge of a partition, so that a million due tasks take minutes instead of
blocking the store."""

_OF_THE_LEADER = (
    metrics.queue_oldest_task_timestamp,
    metrics.endpoint_waiting_tasks,
    metrics.endpoint_oldest_task_timestamp,
    metrics.paused_queues,
    metrics.oldest_pause_timestamp,
    metrics.queue_lanes,
)
"""Metrics that only the leading controller exports."""


MakeReconciler = Callable[[Callable[[], bool]], Reconciler]


@dataclass(frozen=True)
class ControllerConfig:
    """Times in seconds."""

    controller_id: str
    jobs_redis_url: str
    lease_seconds: float
    max_lost: int
    leader_lease_seconds: float
    grace_seconds: float
    metrics_endpoint_limit: int = 0
    """Maximum number of endpoints that have their own metrics; 0 disables them."""
    ends_workers: bool = False
    """True if this controller stops all workers when it ends, even if they could outlive it."""
    one_tenant_reason: str | None = None
    """The reason why only one tenant may have endpoints, for the owners of others; None if workers are kept apart."""
    forget_seconds: float = FORGET_SECONDS


@dataclass(frozen=True)
class _Ended:
    """The workers that this controller has ended."""

    endpoint_ids: frozenset[str]
    """Endpoints of which workers ran."""
    left: frozenset[str]
    """Ids of the workers that have not ended."""


class Controller:
    """Runs until `stop`. Several controllers may run at the same time: they share the jobs, and one of them leads.

    `make_reconciler` returns a new reconciler, which the leader runs, from a function that returns True while this
    controller leads; `backend` is the backend that the reconciler uses.
    """

    def __init__(
        self, config: ControllerConfig, store: Store, backend: Backend, make_reconciler: MakeReconciler
    ) -> None:
        self._config = config
        self._store = store
        self._backend = backend
        self._make_reconciler = make_reconciler
        self._deleter = Deleter(store)
        self._stopping = asyncio.Event()
        self._leading: asyncio.Task[None] | None = None
        self._leads_until = 0.0
        """Monotonic time at which the leadership expires, as far as this controller knows."""
        if isinstance(backend, AsksForLeadership):
            backend.leads = self._leads
        self._waiting_tasks = WaitingTasks(store.sweeper.waiting)
        metrics.controller_leading.set_function(lambda: float(self._leads()))
        self._deposed = False
        """True if another controller leads and the backend has not been closed since."""
        self._workers_left: WorkersLeft | None = None

    def stop(self) -> None:
        """Resign and end. Drain the workers first, unless they outlive this controller. Safe to call from a signal
        handler and more than once."""
        self._stopping.set()

    async def run(self) -> WorkersLeft | None:
        """Work until stopped. When it returns, no worker of this controller runs, unless workers outlive it.

        If they outlive it and `ends_workers` is set, return the reason why some are left; None if all have ended.
        """
        background = [
            asyncio.create_task(self._shared_jobs(), name="jobs"),
            asyncio.create_task(
                run_forever(self._gauges, idle_seconds=GAUGES_SECONDS, name="gauges", passing=unavailability)
            ),
            asyncio.create_task(
                run_forever(
                    self._lead,
                    idle_seconds=self._config.leader_lease_seconds / 3,
                    name="leadership",
                    passing=unavailability,
                )
            ),
        ]
        try:
            await self._stopping.wait()
        finally:
            self._stopping.set()
            await self._stop_leading()
            # Leadership is renewed during this, because another leader would start the workers that are drained here.
            ended = await self._end_workers()
            await self._close_backend()
            await end_tasks(background[2])
            with suppress(Exception):  # if the store is unavailable, the leadership expires
                await self._resign(ended)
            await end_tasks(*background)
        return self._workers_left

    # Leadership

    async def _lead(self) -> int:
        """Acquire or renew the leadership. While the store is unavailable, workers continue to run.

        After losing leadership, close the backend, retrying until it succeeds. That stops all workers, unless they
        outlive this controller.
        """
        held = await self._hold_leadership()
        if held:
            self._deposed = False
            if self._leading is None and not self._stopping.is_set():
                log.info("leading", extra={"controller": self._config.controller_id})
                self._leading = asyncio.create_task(self._leaders_jobs())
            return 0
        if self._leading is not None:
            log.warning("another controller leads now", extra={"controller": self._config.controller_id})
            self._deposed = True
            await self._stop_leading()
        if self._deposed:
            await self._backend.aclose(self._config.grace_seconds)
            self._deposed = False
        return 0

    def _leads(self) -> bool:
        return time.monotonic() < self._leads_until

    async def _leaders_jobs(self) -> None:
        reconciler = self._make_reconciler(self._leads)
        sampler = Sampler(self._store.series, self._store.partitions)
        works = (
            self._note_one_tenant,
            self._migrate,
            self._resync,
            self._build_given_up,
            self._seal_headers,
            self._operate,
        )
        background = [asyncio.create_task(work()) for work in works]
        try:
            await run_jobs(
                self._config.jobs_redis_url,
                LEADERS_QUEUE,
                [
                    Periodic("reconcile", reconciler.step, RECONCILE_SECONDS),
                    Periodic("sample", sampler.step, STEP_SECONDS),
                ],
            )
        finally:
            await end_tasks(*background)
            await reconciler.aclose()

    async def _note_one_tenant(self) -> None:
        """Let the API know whether the workers of several tenants are kept apart."""
        note, reason = self._store.one_tenant.note, self._config.one_tenant_reason
        await retry_while_unavailable(lambda: note(reason), passing=unavailability, what="the tenants")

    async def _migrate(self) -> None:
        """Migrate the store's data to this version's format, also after a backup was restored."""
        migrator = self._store.migrator()
        try:
            await run_forever(migrator.step, idle_seconds=MIGRATE_SECONDS, name="migration", passing=unavailability)
        finally:
            await migrator.aclose()

    async def _resync(self) -> None:
        resync = Resync(self._store.endpoints.index)
        await run_forever(resync.step, idle_seconds=RESYNC_SECONDS, name="resync", passing=unavailability)

    async def _build_given_up(self) -> None:
        build = self._store.given_up_build()
        await run_forever(build.step, idle_seconds=BUILD_SECONDS, name="given-up index", passing=unavailability)

    async def _seal_headers(self) -> None:
        sealing = self._store.header_sealing
        await run_forever(sealing.step, idle_seconds=HEADERS_SECONDS, name="header sealing", passing=unavailability)

    async def _operate(self) -> None:
        operations = Operations(self._store)
        try:
            await run_forever(
                operations.step, idle_seconds=OPERATIONS_SECONDS, name="operations", passing=unavailability
            )
        finally:
            metrics.operations_running.set({})

    async def _stop_leading(self) -> None:
        if self._leading is not None:
            await end_tasks(self._leading)
            self._leading = None

    async def _end_workers(self) -> _Ended | None:
        """Stop all workers at the same time, if they end with this controller.

        Return None if workers outlive this controller or are not all known.
        """
        observed = await self._workers_to_end()
        if observed is None:
            return None
        stops = (self._backend.stop(worker_id, self._config.grace_seconds) for worker_id in observed)
        for error in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(error, BackendError):
                log.warning("a worker has not ended: %s", error)
            elif error is not None:
                raise error
        if self._unlisted:
            log.warning("workers are left to the next controller: %s does not list them", ", ".join(self._unlisted))
            self._workers_left = WorkersLeft.UNLISTED
            return None
        endpoint_ids = frozenset(map(endpoint_of_worker, observed))
        observed = await self._backend.observe()
        if observed is None:
            self._workers_left = WorkersLeft.UNLISTED
            return None
        left = frozenset(worker_id for worker_id, seen in observed.items() if seen.alive)
        if left and self._config.ends_workers:
            self._workers_left = WorkersLeft.NOT_ENDED
        return _Ended(endpoint_ids, left)

    async def _workers_to_end(self) -> Mapping[str, Observed] | None:
        """Return the workers that end with this controller; None if they outlive it or are not known.

        A controller that has just been started again waits until it leads and the backend has listed the workers. If
        parts of the platform are away for longer, the workers of the others are returned.
        """
        if not self._backend.outlives_controller:
            return await self._backend.observe()
        if not self._config.ends_workers:
            return None
        ends_at = time.monotonic() + self._config.leader_lease_seconds + LIST_SECONDS
        while time.monotonic() < ends_at:
            observed = await self._backend.observe()
            if observed is not None and self._leads() and not self._unlisted:
                return observed
            await asyncio.sleep(LIST_POLL_SECONDS)
        if self._leads() and (observed := await self._backend.observe()) is not None:
            return observed
        if self._leads():
            log.warning("workers are left to the next controller: the backend does not list them")
            self._workers_left = WorkersLeft.UNLISTED
        else:
            log.warning("workers are left to the next controller: this one does not lead")
            self._workers_left = WorkersLeft.NOT_LEADING
        return None

    @property
    def _unlisted(self) -> list[str]:
        """The parts of the platform that the backend has not listed yet."""
        return sorted(self._backend.unlisted) if isinstance(self._backend, ListsInParts) else []

    async def _close_backend(self) -> None:
        try:
            await self._backend.aclose(self._config.grace_seconds)
        except BackendError as error:  # a worker that does not end must not keep the controller
            log.warning("the backend cannot be closed: %s", error)

    async def _resign(self, ended: _Ended | None) -> None:
        """If this controller still leads, remove the records of workers that have ended, and release the leadership.

        The records of workers that are left, and of workers that outlive this controller, are for the next leader.
        """
        if await self._hold_leadership():
            if ended is not None:
                await self._forget_workers(ended)
            await self._store.leadership.give_up(self._config.controller_id)
            self._leads_until = 0.0

    async def _hold_leadership(self) -> bool:
        asked_at = time.monotonic()
        lease_ms = int(self._config.leader_lease_seconds * 1000)
        held = await self._store.leadership.hold(self._config.controller_id, lease_ms=lease_ms)
        self._leads_until = asked_at + self._config.leader_lease_seconds if held else 0.0
        return held

    async def _forget_workers(self, ended: _Ended) -> None:
        """Remove the records of all workers but those that are left, for a limited time.

        A client may have created any number of endpoints that are still to be looked at. So the endpoints of which
        workers ran come first, and the others only where the partition has further workers.
        """
        try:
            async with asyncio.timeout(self._config.forget_seconds):
                await self._forget_workers_of(sorted(ended.endpoint_ids), ended.left)
                await self._in_partitions(lambda partition: self._forget_others(partition, ended.left))
        except TimeoutError:
            log.warning("records of workers that have ended are left to the next controller")

    async def _forget_others(self, partition: Partition, left: frozenset[str]) -> int:
        """Remove the records of workers of a partition. Return the number of endpoints that were read."""
        read = 0
        async for endpoint_ids in self._store.checks.pages_with_workers(partition):
            await self._forget_workers_of(endpoint_ids, left)
            read += len(endpoint_ids)
        return read

    async def _forget_workers_of(self, endpoint_ids: Sequence[str], left: frozenset[str]) -> None:
        found = await self._store.workers.of_endpoints(endpoint_ids)
        workers = (worker for of_one in found.values() for worker in of_one)
        ended = [worker for worker in workers if worker.managed and worker.worker_id not in left]
        remove, reason = self._store.workers.remove, "the engine is stopped"
        await asyncio.gather(*(remove(one.endpoint_id, one.worker_id, reason=reason) for one in ended))

    # Jobs that any controller may run

    async def _shared_jobs(self) -> None:
        jobs = [
            Periodic("sweep", self.sweep, SWEEP_SECONDS),
            Periodic("purge", self.purge, PURGE_SECONDS, timeout_seconds=300),
            Periodic("delete", self.delete, DELETE_SECONDS, timeout_seconds=300),
            Periodic("recover", self.recover, RECOVER_SECONDS),
        ]
        await run_jobs(self._config.jobs_redis_url, SHARED_QUEUE, jobs)

    async def sweep(self) -> int:
        """Sweep all partitions; return the amount of work done."""
        return await self._in_partitions(self._sweep)

    async def _in_partitions(self, work: Callable[[Partition], Awaitable[int]]) -> int:
        """Do work in all partitions; return the sum of its results.

        In a cluster, a partition may be unavailable while others are not. The work is done in the others, then the
        error is raised.
        """
        at_once = asyncio.Semaphore(PARTITIONS_AT_ONCE)

        async def do(partition: Partition) -> int:
            async with at_once:
                return await work(partition)

        return _sum_of(await asyncio.gather(*map(do, self._store.partitions.all()), return_exceptions=True))

    async def _sweep(self, partition: Partition) -> int:
        done = 0
        for _ in range(MAX_ROUNDS):
            swept = await self._store.sweeper.sweep(
                partition,
                tick_ms=SWEEP_SECONDS * 1000,
                lease_ms=int(self._config.lease_seconds * 1000),
                max_lost=self._config.max_lost,
                limit=ROUND_TASKS,
            )
            reclaimed = swept.requeued + swept.dead + swept.cancelled
            metrics.leases_reclaimed.inc(reclaimed)
            metrics.task_attempts.labels(outcome="lost").inc(reclaimed)
            for state, count in (("dead", swept.dead), ("cancelled", swept.cancelled), ("expired", swept.expired)):
                metrics.tasks_finished.labels(state=state).inc(count)
            done += swept.work
            if swept.work == 0:
                break
        return done

    async def purge(self) -> int:
        """Remove ended tasks after their retention, and the consumers of dead agents; return the number of tasks."""
        return await self._in_partitions(self._purge)

    async def _purge(self, partition: Partition) -> int:
        removed = 0
        for _ in range(MAX_ROUNDS):
            purged = await self._store.sweeper.purge_due(partition, limit=ROUND_ENDPOINTS)
            removed += purged.tasks
            if purged.endpoints < ROUND_ENDPOINTS:
                break
        return removed

    async def delete(self) -> int:
        """Advance the deletions of endpoints that are due; return the number of those that are complete."""
        return await self._in_partitions(self._deleter.step)

    async def recover(self) -> int:
        """Advance all recoveries; return the number of deliveries that were made due.

        Usually the delivery processes advance them. This begins again where one of these has died.
        """
        return await self._in_partitions(self._recover)

    async def _recover(self, partition: Partition) -> int:
        return sum(
            [await self._store.recoveries.advance(one) async for one in self._store.recoveries.running(partition)]
        )

    async def _gauges(self) -> int:
        metrics.queue_tasks.set(await self._store.sweeper.waiting_and_running())
        metrics.workers.set(await self._store.sweeper.workers())
        if not self._leads():
            # Only one controller exports these, because each endpoint with waiting tasks costs a call.
            for metric in _OF_THE_LEADER:
                metric.set({})
            return 0
        found = await self._waiting_tasks.read()
        queues = [EndpointQueue(one.endpoint_id, one.depth, one.oldest_ms) for one in found.values()]
        oldest = [queue.oldest_ms for queue in queues if queue.oldest_ms is not None]
        metrics.queue_oldest_task_timestamp.set(min(oldest) / 1000 if oldest else 0)
        metrics.paused_queues.set(sum(one.is_paused for one in found.values()))
        pauses = [one.paused_ms for one in found.values() if one.paused_ms is not None]
        metrics.oldest_pause_timestamp.set(min(pauses) / 1000 if pauses else 0)
        open_lanes = sum(one.open_lanes for one in found.values())
        metrics.queue_lanes.set({"open": open_lanes, "parked": sum(one.parked_lanes for one in found.values())})
        if self._config.metrics_endpoint_limit:
            figures = endpoint_figures(queues, self._config.metrics_endpoint_limit)
            metrics.endpoint_waiting_tasks.set(figures.depth)
            metrics.endpoint_oldest_task_timestamp.set(figures.oldest_seconds)
        return 0


def _sum_of(results: Sequence[int | BaseException]) -> int:
    """Return the sum of the results. Raises the first error among them."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))
