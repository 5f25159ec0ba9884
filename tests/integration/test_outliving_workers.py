"""Controllers whose workers outlive them: they let go of the workers, and the next leader adopts these."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from queue_engine.controller.controller import Controller, ControllerConfig
from queue_engine.controller.log_followers import LogFollowers
from queue_engine.controller.reconcile import Reconciler, ReconcilerConfig
from queue_engine.domain.workers_left import WorkersLeft
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, new_endpoint
from tests.scripted_backend import ScriptedBackend
from tests.waiting import wait_until_async

WORKERS = 2
LEASE_SECONDS = 1.0


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(outlives_controller=True)


@asynccontextmanager
async def controller_on(
    store: Store,
    backend: ScriptedBackend,
    name: str,
    *,
    ends_workers: bool = False,
    make_output: Callable[[], LogFollowers | None] = lambda: None,
    left: WorkersLeft | None = None,
) -> AsyncIterator[None]:
    """A controller that runs, and is stopped at the end. It must return `left`."""
    settings = ControllerConfig(
        controller_id=name,
        jobs_redis_url=store.url,
        lease_seconds=30.0,
        max_lost=3,
        leader_lease_seconds=LEASE_SECONDS,
        grace_seconds=0.0,
        ends_workers=ends_workers,
    )
    rules = ReconcilerConfig(agent_environment=lambda _: {}, grace_seconds=0.0, silence_seconds=60.0)

    def make_reconciler(leads: Callable[[], bool]) -> Reconciler:
        stores = (store.endpoints, store.workers, store.checks, store.credentials, store.platform_note)
        return Reconciler(rules, *stores, backend, store.now_ms, leads=leads, output=make_output())

    controller = Controller(settings, store, backend, make_reconciler)
    running = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        controller.stop()
        assert await running is left


async def all_run(backend: ScriptedBackend, count: int = WORKERS) -> set[str]:
    await wait_until_async(lambda: len(backend.running) == count, message="the workers are not started")
    return set(backend.running)


async def one_more(store: Store, backend: ScriptedBackend, endpoint_id: str) -> None:
    """Wait until a leader has started one more worker, so that it has looked at the endpoint."""
    count = len(backend.running) + 1
    await store.endpoints.update(endpoint_id, TENANT, lambda config: replace(config, workers=count))
    await all_run(backend, count)


async def depose(store: Store) -> bool:
    await store.redis.delete("{qe}:leader")
    return await store.leadership.hold("new", lease_ms=60_000)


async def test_a_controller_that_ends_leaves_its_workers_to_the_next_one(
    store: Store, backend: ScriptedBackend
) -> None:
    endpoint_id = await new_endpoint(store, workers=WORKERS)
    async with controller_on(store, backend, "first"):
        before = await all_run(backend)
    assert (set(backend.running), backend.stopping, backend.closed) == (before, {}, 1)
    assert {worker.worker_id for worker in await store.workers.of_endpoint(endpoint_id)} == before
    async with controller_on(store, backend, "second"):
        await one_more(store, backend, endpoint_id)
    assert len(backend.starts) == WORKERS + 1
    assert before < set(backend.running)
    recorded = [await store.workers.get(endpoint_id, worker_id) for worker_id in before]
    assert [worker is not None and worker.restarts for worker in recorded] == [0] * WORKERS


async def test_a_controller_that_is_deposed_lets_go_of_the_backend_and_touches_no_worker(
    store: Store, backend: ScriptedBackend
) -> None:
    endpoint_id = await new_endpoint(store, workers=WORKERS)
    async with controller_on(store, backend, "old"):
        before = await all_run(backend)
        await wait_until_async(lambda: depose(store), message="the controller cannot be deposed")
        await wait_until_async(lambda: backend.closed == 1, message="the backend is not closed")
        await store.endpoints.update(endpoint_id, TENANT, lambda config: replace(config, workers=0))
    assert (set(backend.running), backend.stopping) == (before, {})
    assert {worker.worker_id for worker in await store.workers.of_endpoint(endpoint_id)} == before


async def test_a_controller_that_shall_end_its_workers_drains_them_and_removes_their_records(
    store: Store, backend: ScriptedBackend
) -> None:
    endpoint_id = await new_endpoint(store, workers=WORKERS)
    async with controller_on(store, backend, "only", ends_workers=True, left=WorkersLeft.NOT_ENDED):
        before = await all_run(backend)
        backend.lost = {min(before)}
    assert set(backend.stopping) == before
    assert set(backend.running) == backend.lost
    assert {worker.worker_id for worker in await store.workers.of_endpoint(endpoint_id)} == backend.lost


async def test_records_stay_if_the_backend_lists_no_workers_after_they_were_stopped(
    store: Store, backend: ScriptedBackend
) -> None:
    endpoint_id = await new_endpoint(store, workers=WORKERS)

    async def go_away_while_workers_end() -> None:
        await wait_until_async(lambda: len(backend.stopping) == WORKERS, message="the workers are not stopped")
        backend.listed = False
        backend.finish_drains()

    async with controller_on(store, backend, "only", ends_workers=True, left=WorkersLeft.UNLISTED):
        before = await all_run(backend)
        backend.stuck = before
        going_away = asyncio.create_task(go_away_while_workers_end())
    await going_away
    assert {worker.worker_id for worker in await store.workers.of_endpoint(endpoint_id)} == before
