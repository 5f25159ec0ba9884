"""taskiq on Redis streams, with the result stored, 64 tasks at once."""

import asyncio

from common import Work, arguments, enqueue_all
from taskiq.receiver import Receiver
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

given = arguments()
broker = RedisStreamBroker(given.redis_url).with_result_backend(RedisAsyncResultBackend(given.redis_url))
work = Work(given)


@broker.task
async def job(payload: dict) -> dict:
    return await work.run(payload)


async def enqueue():
    await broker.startup()
    await enqueue_all(given, job.kiq)


async def run():
    broker.is_worker_process = True
    await broker.startup()
    await Receiver(broker, max_async_tasks=64, run_startup=False).listen(asyncio.Event())


asyncio.run(enqueue() if given.verb == "enqueue" else run())
