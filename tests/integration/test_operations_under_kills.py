"""Bulk operations of several thousand tasks, while the controllers are killed again and again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.task_operations import Author, NewOperation, TaskAction, TaskOperation
from queue_engine.domain.tasks import TaskState
from queue_engine.store.operations import Start
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, Program, Programs, new_endpoint, programs_on, submit
from tests.servers import StoreServer
from tests.waiting import wait_until_async

TASKS = 2000
KILLS = 1
"""Number of kills during an operation."""
SETTINGS = {
    "QUEUE_ENGINE_LEASE_SECONDS": "1",
    "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "1",
    "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "1",
    "QUEUE_ENGINE_WORKER_SILENCE_SECONDS": "6",
}
CANCELLED = TaskFilters(state=frozenset({TaskState.CANCELLED}))
QUEUED = TaskFilters(state=frozenset({TaskState.QUEUED}))


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


class Killed:
    """A controller that is killed during an operation, and started again."""

    def __init__(self, store: Store, programs: Programs, endpoint_id: str) -> None:
        self.store = store
        self.endpoint_id = endpoint_id
        self._programs = programs
        self._controller: Program | None = None

    def start(self) -> None:
        self._controller = self._programs.start("controller", "queue_engine", "controller", **SETTINGS)

    def kill(self) -> None:
        assert self._controller is not None
        self._controller.kill()

    async def run(self, action: TaskAction, filters: TaskFilters) -> TaskOperation:
        """Run an operation to its end. The controller is killed when it has changed a third of the tasks, and so on."""
        author = Author("0" * 16, "test", "127.0.0.1")
        new = NewOperation(action.value, action, filters, (), False, "1" * 32, author)
        assert await self.store.operations.start(TENANT, self.endpoint_id, new) is Start.STARTED
        for number in range(KILLS):
            await self._until_changed(action, (number + 1) * TASKS // (KILLS + 1))
            self.kill()
            self.start()
        return await self._until_changed(action, TASKS, ended=True)

    async def _until_changed(self, action: TaskAction, count: int, *, ended: bool = False) -> TaskOperation:
        async def found() -> TaskOperation | None:
            one = await self.store.operations.get(self.endpoint_id, action.value)
            assert one is not None
            return one if not one.is_running or (one.done >= count and not ended) else None

        one = await wait_until_async(found, message=f"the operation does not come to {count} tasks")
        assert one is not None
        assert one.is_running or ended, "the operation has ended before the kill"
        return one


async def test_each_task_is_changed_and_counted_once(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store)
    killed = Killed(store, programs, endpoint_id)
    await _submit_all(store, endpoint_id)
    killed.start()
    for action, filters, left in (
        (TaskAction.CANCEL, QUEUED, "failed"),
        (TaskAction.RETRY, CANCELLED, "queued"),
        (TaskAction.CANCEL, QUEUED, "failed"),
        (TaskAction.DELETE, CANCELLED, None),
    ):
        one = await killed.run(action, filters)
        assert (one.status.value, one.matched, one.done, one.skipped, one.failed) == ("done", TASKS, TASKS, 0, 0)
        counts = await store.tasks.counts(endpoint_id)
        assert (counts.queued, counts.failed) == (
            TASKS if left == "queued" else 0,
            TASKS if left == "failed" else 0,
        )
        if action is TaskAction.RETRY:
            page = await store.tasks.page(endpoint_id, None, page=1, size=TASKS)
            assert {task.runs for task in page.items} == {2}
        await store.operations.remove_endpoint(endpoint_id)


async def test_each_result_is_sent_again_once(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store)
    killed = Killed(store, programs, endpoint_id)
    async with _receiver() as (url, received):
        await _submit_all(store, endpoint_id, webhook=f"{url}/hook")
        programs.delivery(lease=30)
        killed.start()
        await killed.run(TaskAction.CANCEL, QUEUED)
        await _until_delivered(store, endpoint_id)
        assert (len(received), set(received.values())) == (TASKS, {1})
        one = await killed.run(TaskAction.REDELIVER, CANCELLED)
        assert (one.status.value, one.matched, one.done, one.skipped, one.failed) == ("done", TASKS, TASKS, 0, 0)
        await _until_delivered(store, endpoint_id)
        assert (len(received), set(received.values())) == (TASKS, {2})


@asynccontextmanager
async def _receiver() -> AsyncIterator[tuple[str, Counter[str]]]:
    """A receiver that keeps up with a delivery process: its URL, and the number of webhooks by task."""
    received = Counter[str]()

    async def receive(request: web.Request) -> web.Response:
        received[(await request.json())["user_task_id"]] += 1
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", receive)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")), received


async def _submit_all(store: Store, endpoint_id: str, *, webhook: str | None = None) -> None:
    for first in range(0, TASKS, 250):
        ids = [f"t{number}" for number in range(first, min(first + 250, TASKS))]
        await asyncio.gather(*(submit(store, endpoint_id, task_id, webhook=webhook) for task_id in ids))


async def _until_delivered(store: Store, endpoint_id: str) -> None:
    outbox = store.partitions.of(endpoint_id).partition.outbox

    async def is_delivered() -> bool:
        length: int = await store.redis.xlen(outbox)
        return length == 0

    await wait_until_async(is_delivered, message="results are not delivered")
