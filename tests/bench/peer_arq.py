"""The same job on arq, as a yardstick within the run: take a job from Redis, POST it, store the result.

python -m tests.bench.peer_arq REDIS_URL TARGET_URL JOBS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
from arq import Worker, create_pool, func
from arq.connections import RedisSettings

QUEUE = "bench:arq"


async def _main() -> None:
    redis_url, target_url, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    settings = RedisSettings.from_dsn(redis_url)
    pool = await create_pool(settings)
    for first in range(0, jobs, 50):
        calls = (pool.enqueue_job("job", {"n": n}, _queue_name=QUEUE) for n in range(first, min(jobs, first + 50)))
        await asyncio.gather(*calls)
    async with aiohttp.ClientSession() as client:

        async def job(_context: dict[Any, Any], payload: object) -> object:
            async with client.post(target_url, json=payload) as response:
                return await response.json()

        worker = Worker(
            functions=[func(job, name="job")],  # type: ignore[arg-type]
            queue_name=QUEUE,
            redis_settings=settings,
            handle_signals=False,
            burst=True,
            max_jobs=64,
            poll_delay=0.01,
            queue_read_limit=1000,
        )
        started, cpu = time.perf_counter(), time.process_time()
        await worker.async_run()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        await worker.close()
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
