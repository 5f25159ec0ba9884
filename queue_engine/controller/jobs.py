"""Background jobs on arq. No other module uses arq.

arq runs each cron job once over all controllers. Its queue needs a single server, or a master that sentinels name; if
the store is a cluster, the queue must be elsewhere. arq's own connections have no timeouts, so it uses ours.

The contents of the queue are untrusted, because any program that can write to the store can write to it. Entries are
JSON in one exact form, never pickles, because unpickling runs code that the entry names. An entry can only name one of
our periodic jobs, without arguments. If arq fails on a queue, the queue is deleted, because one invalid entry would
otherwise stop the sweeps of every controller. No job is lost, because the clock queues all entries again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from arq import Worker, cron
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, job_key_prefix
from arq.cron import CronJob
from redis.exceptions import RedisError

from queue_engine.aio import DEFAULT_BACKOFF
from queue_engine.observability import metrics, outages
from queue_engine.store.redis.client import close, connect, unavailability

log = logging.getLogger(__name__)

DUE_MICROSECOND = 123_456
"""Part of a second at which jobs are due: arq's default, which controllers of other versions use too."""
LOOK_SECONDS = 0.13
"""Time after the beginning of a second at which a worker looks at its queue, just after jobs are due."""
MAX_CONNECTIONS = 32
STEADY_SECONDS = 10.0
"""Time without a failure after which the backoff begins again with its shortest delay."""
CLOSE_SECONDS = 2.0
"""Timeout for the store when a worker closes."""
SHARED_QUEUE = "{qe}:periodic"
"""The queue of the jobs that any controller may run. Up to version 0.1 it was `{qe}:jobs`, with pickles. Older
controllers use that queue during a rolling upgrade, so it is neither read nor changed."""
LEADERS_QUEUE = "{qe}:periodic:leader"
"""The queue of the jobs that only the leader runs. All leaders use the same name, so that no queue is left behind."""
STALE_SECONDS = 60.0
"""Lateness after which an entry is dropped, because its job has been queued many times since."""
MAX_ENTRY_BYTES = 1024
_PICKLE = b"\x80"
"""First byte of a pickle of protocol 2 or newer."""
_IS_PICKLE = "it is a pickle, and no pickle is ever loaded"
_IS_UNKNOWN = "no job of ours has its name"
_IS_LATE = "its time is not about now"


@dataclass(frozen=True)
class Periodic:
    """A job that starts every `every_seconds` (a divisor of 60), once over all controllers.

    Runs do not overlap in a process: a start is skipped while the previous run continues.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    every_seconds: int
    timeout_seconds: float = 60.0


async def run_jobs(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> None:
    """Run these jobs until cancelled. While the store is unavailable, they pause."""
    logging.getLogger("arq").setLevel(logging.WARNING)
    for job in jobs:
        metrics.background_job_last_success.put(job.name, time.time())
    try:
        await _run_jobs(redis_url, queue, jobs)
    finally:  # because another controller may run the jobs, and the times of this one would look like an outage
        for job in jobs:
            metrics.background_job_last_success.remove(job.name)


async def _run_jobs(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> None:
    failures = 0
    while True:
        began = time.monotonic()
        worker = _worker(redis_url, queue, jobs)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # Shielded, so that a running job is not interrupted.
            await asyncio.shield(_close(worker))
            raise
        except Exception as error:
            failures = 1 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            # Continue after any error, because no partition is swept without these jobs.
            if (reason := unavailability(error)) is not None:
                outages.STORE.failed(queue, "background jobs", reason)
            else:
                known = isinstance(error, (RedisError, OSError))
                extra = {"queue": queue, "failures": failures}
                log.warning("background jobs pause: %s", error, exc_info=not known, extra=extra)
                await _delete_queue(worker.pool, queue)
            await _close(worker)
        await asyncio.sleep(DEFAULT_BACKOFF.delay_after(failures, luck=random.random()))


def _worker(redis_url: str, queue: str, jobs: Sequence[Periodic]) -> Worker:
    client = connect(redis_url, max_connections=MAX_CONNECTIONS)
    cron_jobs = [_cron(job, queue) for job in jobs]
    read = _Reader({job.name for job in cron_jobs})

    async def note_start(ctx: dict[Any, Any]) -> None:  # noqa: ARG001 - arq's signature
        outages.STORE.succeeded(queue)  # because arq has read the server's version

    worker = _Worker(
        cron_jobs=cron_jobs,
        queue_name=queue,
        redis_pool=ArqRedis(
            client.connection_pool, job_serializer=_write, job_deserializer=read, default_queue_name=queue
        ),
        job_serializer=_write,
        job_deserializer=read,
        health_check_key=f"{queue}:health",
        handle_signals=False,
        on_startup=note_start,
        poll_delay=0,  # `_poll_iteration` waits
        keep_result=0,
        log_results=False,
    )
    periods = (timedelta(seconds=job.every_seconds) for job in jobs)
    worker.periods = dict(zip((job.name for job in cron_jobs), periods, strict=True))
    return worker


class _Worker(Worker):
    """A worker that drops entries which no controller has queued, and entries that were not run in time.

    arq leaves some of them in the queue, such as an entry with score 0, and 100 of them at its head would hide all
    others. If a whole page has only foreign entries, the queue is flooded and is deleted. Its jobs are queued again
    within a second.
    """

    periods: Mapping[str, timedelta]
    """Time between two runs of each job."""

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Queue the jobs that are due. Runs that were missed, because the process or the store paused, are not made up.

        arq queues one run of a job each time, so that with one look a second a job of every second would stay as late
        as the longest pause, and its entries would be dropped as late. After a step back of the clock it would wait
        until the clock has the time of the next run again.
        """
        ahead = timedelta(seconds=delay * num_windows)
        for job in self.cron_jobs:
            period = self.periods[job.name]
            if job.next_run is not None and not n - period <= job.next_run <= n + period + ahead:
                job.calculate_next(n - period)  # the latest time that is not after n
        await super().run_cron(n, delay, num_windows)

    async def _poll_iteration(self) -> None:
        """Look at the queue, and wait until jobs may be due again.

        arq looks after fixed delays, which are not related to the times of the jobs: four times a second for jobs to
        start 0.1 s late on average. Once is enough at the right moment.
        """
        await super()._poll_iteration()
        await asyncio.sleep(seconds_to_next_look(time.time()))

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        names = [job.name for job in self.cron_jobs]
        dropped = [job_id for job_id in job_ids if not _is_due(job_id, names, time.time())]
        if dropped:
            by_problem = await self._by_problem(dropped, names)
            for problem, entries in by_problem.items():
                self._log_dropped(problem, entries)
            if len(dropped) == len(job_ids) and by_problem.keys() != {_IS_LATE}:
                await self.pool.delete(self.queue_name)
            else:
                await self.pool.zrem(self.queue_name, *dropped)
        await super().start_jobs([job_id for job_id in job_ids if job_id not in dropped])

    async def _by_problem(self, dropped: Sequence[bytes], names: Collection[str]) -> dict[str, list[bytes]]:
        """Return the entries by the reason for dropping them. Reads only the first byte of their contents."""
        pipeline = self.pool.pipeline(transaction=False)
        for job_id in dropped:
            pipeline.getrange(job_key_prefix.encode() + job_id, 0, 0)
        beginnings = await pipeline.execute(raise_on_error=False)
        by_problem: dict[str, list[bytes]] = {}
        for job_id, beginning in zip(dropped, beginnings, strict=True):
            by_name = _IS_UNKNOWN if _time_ms(job_id, names) is None else _IS_LATE
            by_problem.setdefault(_IS_PICKLE if beginning == _PICKLE else by_name, []).append(job_id)
        return by_problem

    def _log_dropped(self, problem: str, entries: Sequence[bytes]) -> None:
        # Late entries of our own are normal: another controller's clock may be behind. They do not need a warning,
        # because both controllers queue all jobs.
        level = logging.DEBUG if problem == _IS_LATE else logging.WARNING
        extra = {"queue": self.queue_name, "count": len(entries), "entry": repr(entries[0][:80])}
        log.log(level, "entries of the job queue are dropped, each because %s", problem, extra=extra)


def seconds_to_next_look(now: float) -> float:
    """Return the time until LOOK_SECONDS of a second, from 0 to 1."""
    return 1.0 - (now - LOOK_SECONDS) % 1.0


def _is_due(job_id: bytes, names: Collection[str], now: float) -> bool:
    """Return True if an entry is one of these jobs and its time is about now."""
    time_ms = _time_ms(job_id, names)
    return time_ms is not None and abs(now - time_ms / 1000) <= STALE_SECONDS


def _time_ms(job_id: bytes, names: Collection[str]) -> int | None:
    """Return the time of an entry for one of these jobs; None for any other entry.

    arq's job id is `<name>:<epoch milliseconds>`.
    """
    name, _, time_ms = job_id.decode(errors="replace").rpartition(":")
    digits = len(time_ms) <= 15 and time_ms.isascii() and time_ms.isdigit()
    return int(time_ms) if name in names and digits else None


def _write(entry: dict[str, Any]) -> bytes:
    """Return an entry, or the result of a job, as JSON. An exception becomes its text; results are not kept."""
    return json.dumps(entry, default=str).encode()


@dataclass(frozen=True)
class _Reader:
    """Parses entries, which must be calls of these jobs without arguments."""

    names: Collection[str]

    def __call__(self, raw: bytes) -> dict[str, Any]:
        """Return the entry. For invalid content, log the reason and return a call of no job, so that arq removes it."""
        try:
            return self._read(raw)
        except (ValueError, RecursionError) as error:
            log.warning("an entry of the job queue is refused: %s", error)
            return _call("(refused)", 0)

    def _read(self, raw: bytes) -> dict[str, Any]:
        if raw.startswith(_PICKLE):
            raise ValueError(_IS_PICKLE)
        if len(raw) > MAX_ENTRY_BYTES or not raw.startswith(b"{"):
            raise ValueError("it is not an entry in the expected JSON form")
        entry = json.loads(raw)
        name, queued_at_ms = entry.get("f"), entry.get("et")
        if not isinstance(name, str) or name not in self.names:
            raise ValueError("it names an unknown job")
        if type(queued_at_ms) is not int or not 0 <= queued_at_ms < 10**14:
            raise ValueError("its time is not in epoch milliseconds")
        if (entry.get("a"), entry.get("k"), entry.get("t")) != ([], {}, None):
            raise ValueError("it has arguments, which the jobs do not take")
        return _call(name, queued_at_ms)


def _call(name: str, queued_at_ms: int) -> dict[str, Any]:
    """Return an entry in arq's form."""
    return {"f": name, "a": [], "k": {}, "t": None, "et": queued_at_ms}


async def _delete_queue(pool: ArqRedis, queue: str) -> None:
    """Delete a queue on which arq fails. Also delete arq's set of jobs to abort if it has the wrong type, because arq
    uses it for every job."""
    with suppress(RedisError, OSError):
        await pool.delete(queue)
        if await pool.type(abort_jobs_ss) not in (b"none", b"zset"):
            await pool.delete(abort_jobs_ss)
        log.warning("the queue of the background jobs is deleted: its contents are invalid", extra={"queue": queue})


def _cron(job: Periodic, queue: str) -> CronJob:
    """Return arq's form of a job. Its name includes the queue's, because arq names its other keys after the job."""
    under_way = asyncio.Lock()

    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ARG001 - arq's signature
        if under_way.locked():
            return
        try:
            async with under_way:
                await job.run()
            metrics.background_job_last_success.put(job.name, time.time())
            outages.STORE.succeeded(job)
        except Exception as error:
            if (reason := unavailability(error)) is not None:
                outages.STORE.failed(job, job.name, reason)
            else:
                log.warning("a background job failed", exc_info=True, extra={"job": job.name})

    seconds = set(range(0, 60, job.every_seconds))
    return cron(
        run,
        name=f"{queue}:{job.name}",
        second=seconds,
        microsecond=DUE_MICROSECOND,
        unique=True,
        timeout=job.timeout_seconds,
        keep_result=0,
        max_tries=1,
    )


async def _close(worker: Worker) -> None:
    """Close a worker, with a timeout of CLOSE_SECONDS because the store may be unavailable."""
    pool = worker.pool
    closing = asyncio.create_task(worker.close())
    await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
    for task in (closing, *worker.tasks.values()):
        task.cancel()
    await close(pool)
    for ended in await asyncio.gather(closing, *worker.tasks.values(), return_exceptions=True):
        if isinstance(ended, Exception):
            log.debug("closing the background jobs: %s", ended)
