"""streaq, on Redis streams, with 64 tasks at once."""

import asyncio

from common import Work, arguments, payload
from streaq import Worker

given = arguments()
worker = Worker(redis_url=given.redis_url, concurrency=64)
work = Work(given)


@worker.task()
async def job(payload: dict) -> dict:
    return await work.run(payload)


async def enqueue():
    async with worker:
        await worker.enqueue_many([job.enqueue(payload(given)) for _ in range(given.count)])


if given.verb == "enqueue":
    asyncio.run(enqueue())
else:
    worker.run_sync()
