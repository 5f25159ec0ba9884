"""Background jobs on a real store."""

import asyncio

from queue_engine.controller.jobs import Periodic, run_jobs
from queue_engine.runtime.loops import end_tasks
from tests.servers import StoreServer
from tests.waiting import wait_until_async

QUEUE = "{qe}:jobs:test"


async def test_a_run_that_takes_long_is_not_overtaken_by_the_next_and_holds_up_no_other_job(
    valkey_server: StoreServer,
) -> None:
    release = asyncio.Event()
    begun = rounds = 0

    async def slow() -> None:
        nonlocal begun
        begun += 1
        await release.wait()

    async def quick() -> None:
        nonlocal rounds
        rounds += 1

    jobs = [Periodic("slow", slow, 1), Periodic("quick", quick, 1)]
    running = asyncio.create_task(run_jobs(valkey_server.url, QUEUE, jobs))
    try:
        await wait_until_async(lambda: rounds >= 4, 20)
        assert begun == 1
        release.set()
        await wait_until_async(lambda: begun >= 3, 20)
    finally:
        await end_tasks(running)


async def test_two_controllers_begin_a_shared_job_once_at_a_time(valkey_server: StoreServer) -> None:
    begun: list[int] = []

    def job(controller: int) -> Periodic:
        async def run() -> None:
            begun.append(controller)

        return Periodic("shared", run, 1)

    started_at = asyncio.get_running_loop().time()
    running = [asyncio.create_task(run_jobs(valkey_server.url, QUEUE, [job(number)])) for number in range(2)]
    try:
        await wait_until_async(lambda: len(begun) >= 4, 20)
        assert len(begun) <= asyncio.get_running_loop().time() - started_at + 1
    finally:
        await end_tasks(*running)


async def test_jobs_go_on_when_one_fails(valkey_server: StoreServer) -> None:
    failures = 0

    async def fail() -> None:
        nonlocal failures
        failures += 1
        raise ValueError("meant to fail")

    running = asyncio.create_task(run_jobs(valkey_server.url, QUEUE, [Periodic("fails", fail, 1)]))
    try:
        await wait_until_async(lambda: failures >= 2, 20)
    finally:
        await end_tasks(running)
