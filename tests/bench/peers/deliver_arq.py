"""An arq job that POSTs a signed body with httpx and lets arq try again.

`deliver_arq.py enqueue|work REDIS_URL HOOK_URL COUNT WARM_UP CONCURRENCY BODY_FILE`
"""

import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from arq import Retry, Worker, create_pool
from arq.connections import RedisSettings
from common import Clock
from signing import signed_headers

verb, redis_url, hook_url, count, warm_up, concurrency, body_file = sys.argv[1:]
settings = RedisSettings(port=urlsplit(redis_url).port)
clock = Clock(int(count), int(warm_up))
body = Path(body_file).read_text()


async def deliver(context, number: int, content: str):
    data = content.encode()
    response = await context["client"].post(hook_url, content=data, headers=signed_headers(str(number), data))
    if response.status_code >= 300:
        raise Retry(defer=5)
    if clock.job_ended():
        asyncio.get_running_loop().call_later(0.3, os._exit, 0)


async def startup(context):
    context["client"] = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=int(concurrency)))


async def enqueue():
    pool = await create_pool(settings)
    for first in range(0, int(count), 50):
        numbers = range(first, min(int(count), first + 50))
        await asyncio.gather(*(pool.enqueue_job("deliver", number, body) for number in numbers))


async def work():
    worker = Worker(
        [deliver],
        redis_settings=settings,
        max_jobs=int(concurrency),
        on_startup=startup,
        handle_signals=False,
        poll_delay=0.01,
        queue_read_limit=1000,
    )
    await worker.async_run()


asyncio.run(enqueue() if verb == "enqueue" else work())
