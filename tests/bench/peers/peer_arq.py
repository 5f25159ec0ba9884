"""arq with 64 jobs at once. It polls, by default every 0.5 s; here every 10 ms."""

import asyncio

from arq import Worker, create_pool
from arq.connections import RedisSettings
from common import Work, arguments, enqueue_all

given = arguments()
settings = RedisSettings(port=given.redis_port)
work = Work(given)


async def job(_context, payload):
    return await work.run(payload)


async def enqueue():
    pool = await create_pool(settings)
    await enqueue_all(given, lambda payload: pool.enqueue_job("job", payload))


if given.verb == "enqueue":
    asyncio.run(enqueue())
else:
    Worker(functions=[job], redis_settings=settings, max_jobs=64, poll_delay=0.01, queue_read_limit=1000).run()
