"""Many workers that start at once: each comes up by its first start, though starting takes longer than silence may."""

from queue_engine.domain.endpoints import Expose
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import Programs, new_endpoint
from tests.integration.test_up import ECHO
from tests.waiting import wait_until_async

WORKERS = 8


async def test_workers_come_up_although_their_starts_take_longer_than_silence(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store, workers=WORKERS, initialization_command=ECHO, expose=Expose(8000, "HTTP"))
    programs.controller(QUEUE_ENGINE_WORKER_SILENCE_SECONDS="1", QUEUE_ENGINE_WORKER_GRACE_SECONDS="1")

    async def all_run() -> list[Worker] | None:
        workers = await store.workers.of_endpoint(endpoint_id)
        running = [worker for worker in workers if worker.status is WorkerStatus.RUNNING]
        return running if len(running) == WORKERS else None

    workers = await wait_until_async(all_run, 90, "the workers do not come up")
    assert workers is not None
    assert [worker.restarts for worker in workers] == [0] * WORKERS
