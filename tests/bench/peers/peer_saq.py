"""SAQ with 64 jobs at once."""

import asyncio

from common import Work, arguments, enqueue_all
from saq import Queue, Worker

given = arguments()
queue = Queue.from_url(given.redis_url)
work = Work(given)


async def job(_context, *, payload):
    return await work.run(payload)


async def enqueue():
    await queue.connect()
    await enqueue_all(given, lambda payload: queue.enqueue("job", payload=payload))


async def run():
    await Worker(queue=queue, functions=[job], concurrency=64).start()


asyncio.run(enqueue() if given.verb == "enqueue" else run())
