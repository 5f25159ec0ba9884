"""Background jobs on arq: the only module that knows it.

arq gives cron jobs that run once over all replicas, however many controllers there are. Its own queue needs a plain
Redis or Valkey; with a cluster as the store it can live elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arq import Worker, cron
from arq.connections import RedisSettings
from arq.cron import CronJob
from redis.exceptions import RedisError

from queue_engine.runtime.loops import DEFAULT_BACKOFF

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
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
        worker = _worker(redis_url, queue, jobs)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # A job under way is finished, so that none is cut in half.
            await asyncio.shield(_close(worker))
            raise
        except (RedisError, OSError) as error:
            failures += 1
            log.warning("background jobs pause: %s", error, extra={"queue": queue, "failures": failures})
            await _close(worker)
        await asyncio.sleep(DEFAULT_BACKOFF.wait_seconds(min(failures, 10)))


def _worker(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> Worker:
    settings = RedisSettings.from_dsn(redis_url)
    settings.conn_retries = 0
    return Worker(
        cron_jobs=[_cron(job) for job in jobs],
        queue_name=queue,
        redis_settings=settings,
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
    try:
        await worker.close()
    except (RedisError, OSError) as error:  # the store may be away; the worker ends in any case
        log.debug("closing the background jobs: %s", error)
