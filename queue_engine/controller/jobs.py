"""Background jobs on arq: the only module that knows it.

arq gives cron jobs that run once over all replicas, however many controllers there are. Its own queue needs one server,
or a master that sentinels name; with a cluster as the store it must live elsewhere. arq's own connections have no
time-outs, so it is given ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arq import Worker, cron
from arq.connections import ArqRedis
from arq.cron import CronJob
from redis.exceptions import RedisError

from queue_engine.runtime.loops import DEFAULT_BACKOFF
from queue_engine.store.client import close, connect

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
MAX_CONNECTIONS = 32
STEADY_SECONDS = 10.0
"""A worker that has run for so long has recovered: the next failure is the first again."""
CLOSE_SECONDS = 2.0
"""How long the store may take to hear that a worker ends."""
SHARED_QUEUE = "{qe}:jobs"
"""The queue of the jobs that any controller may run."""
LEADERS_QUEUE = "{qe}:jobs:leader"
"""The queue of the jobs that only the leading controller runs. It has one name for all, so that none is left behind."""


@dataclass(frozen=True)
class Periodic:
    """A job that is begun every `every_seconds` (a divisor of 60), once over all controllers.

    In one process a run is never overtaken by the next: that one is left out while the one before goes on.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    every_seconds: int
    timeout_seconds: float = 60.0


async def run_jobs(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> None:
    """Run these jobs until cancelled. When the store is away they pause, and go on when it is back."""
    logging.getLogger("arq").setLevel(logging.WARNING)
    failures = 0
    while True:
        began = time.monotonic()
        worker = _worker(redis_url, queue, jobs)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # A job under way is finished, so that none is cut in half.
            await asyncio.shield(_close(worker))
            raise
        except Exception as error:
            failures = 1 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            # Without them nothing is swept any more, so they go on whatever it was.
            known = isinstance(error, (RedisError, OSError))
            extra = {"queue": queue, "failures": failures}
            log.warning("background jobs pause: %s", error, exc_info=not known, extra=extra)
            await _close(worker)
        await asyncio.sleep(DEFAULT_BACKOFF.wait_seconds(failures))


def _worker(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> Worker:
    client = connect(redis_url, max_connections=MAX_CONNECTIONS)
    return Worker(
        cron_jobs=[_cron(job) for job in jobs],
        queue_name=queue,
        redis_pool=ArqRedis(client.connection_pool, default_queue_name=queue),
        health_check_key=f"{queue}:health",
        handle_signals=False,
        poll_delay=POLL_SECONDS,
        keep_result=0,
        log_results=False,
    )


def _cron(job: Periodic) -> CronJob:
    under_way = asyncio.Lock()

    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ARG001 - arq's signature
        if under_way.locked():
            return
        try:
            async with under_way:
                await job.run()
        except Exception:
            log.warning("a background job failed", exc_info=True, extra={"job": job.name})

    seconds = set(range(0, 60, job.every_seconds))
    return cron(
        run, name=job.name, second=seconds, unique=True, timeout=job.timeout_seconds, keep_result=0, max_tries=1
    )


async def _close(worker: Worker) -> None:
    """End a worker. The store may be away or frozen: it is given CLOSE_SECONDS."""
    pool = worker.pool
    closing = asyncio.create_task(worker.close())
    await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
    for task in (closing, *worker.tasks.values()):
        task.cancel()
    await close(pool)
    for ended in await asyncio.gather(closing, *worker.tasks.values(), return_exceptions=True):
        if isinstance(ended, Exception):
            log.debug("closing the background jobs: %s", ended)
