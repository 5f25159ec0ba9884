"""The job of every Python peer, its arguments, and the clock around it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

NO_TARGET = "-"


@dataclass(frozen=True)
class Arguments:
    """The words of the command line; README.md has their meaning."""

    verb: str
    redis_url: str
    target_url: str
    count: int
    warm_up: int
    size: int
    rate: float

    @property
    def redis_port(self) -> int:
        return urlsplit(self.redis_url).port or 6379


def arguments() -> Arguments:
    verb, redis_url, target_url, count, warm_up, size, rate = sys.argv[1:]
    return Arguments(verb, redis_url, target_url, int(count), int(warm_up), int(size), float(rate))


class Clock:
    """Prints the time and the processor time of the jobs after the first WARM_UP, and ends the process."""

    def __init__(self, count: int, warm_up: int) -> None:
        self._count = count
        self._warm_up = warm_up
        self._done = 0
        self._began = self._now()

    def job_ended(self) -> bool:
        """Count a job; return True after the last."""
        self._done += 1
        if self._done == self._warm_up:
            self._began = self._now()
        if self._done != self._count:
            return False
        seconds, cpu_seconds = (after - before for after, before in zip(self._now(), self._began, strict=True))
        sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}) + "\n")
        sys.stdout.flush()
        return True

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


class Work:
    """The job: POST the payload, return the response's JSON."""

    def __init__(self, given: Arguments) -> None:
        self._url = given.target_url
        self._clock = Clock(given.count, given.warm_up)
        self._client: Any = None

    async def run(self, payload: Any) -> Any:
        output = payload if self._url == NO_TARGET else (await self._http().post(self._url, json=payload)).json()
        if self._clock.job_ended():
            # Later, because the result of this job is still to be stored.
            asyncio.get_running_loop().call_later(0.3, os._exit, 0)
        return output

    def _http(self) -> Any:
        if self._client is None:
            import httpx
            import httpx_aiohttp

            transport = httpx_aiohttp.AiohttpTransport()
            self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        return self._client


def payload(given: Arguments) -> dict[str, Any]:
    return {"sent_ns": time.monotonic_ns()} if given.rate else {"prompt": "x" * given.size}


async def enqueue_all(given: Arguments, enqueue: Callable[[Any], Awaitable[Any]]) -> None:
    """Call `enqueue` for each job: 50 at once, or one by one at the rate."""
    if not given.rate:
        for first in range(0, given.count, 50):
            calls = range(first, min(given.count, first + 50))
            await asyncio.gather(*(enqueue(payload(given)) for _ in calls))
        return
    began = time.perf_counter()
    for number in range(given.count):
        await asyncio.sleep(max(0.0, began + number / given.rate - time.perf_counter()))
        await enqueue(payload(given))
