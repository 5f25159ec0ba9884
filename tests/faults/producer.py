"""The client: submits tasks over HTTP, repeating each until it knows what became of it, and journals both."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from queue_engine.aio import Backoff
from tests.faults.journal import Journal

TRY_SECONDS = 8.0
"""One try: the API answers 503 well before."""
PAUSES = Backoff(0.1, 0.5)
TRANSIENT = {429, 500, 502, 503, 504}


@dataclass(frozen=True)
class TaskPlan:
    """A task to submit: the orders for its container, whether its result goes to the webhook, how long it may wait,
    and how long it must."""

    task_id: str
    input: dict[str, Any]
    webhook: bool = True
    ttl: float | None = None
    """Seconds that it may wait."""
    delay: float | None = None
    """Seconds before which it must not begin."""
    priority: str | None = None
    key: str | None = None
    """Its fairness key."""


@dataclass
class Producer:
    """Submits to any of `urls` (of APIs), with `rng` choosing which and how long to wait after a failure.

    A task is acknowledged when an API has answered 200, refused when one has said that it never will.
    """

    urls: Sequence[str]
    api_key: str
    endpoint_id: str
    webhook: str
    journal: Journal
    rng: random.Random
    acknowledged: int = 0
    known: list[str] = field(default_factory=list)
    """Ids of the tasks that were acknowledged, in that order."""
    refused: int = 0
    retried: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    """How often each HTTP status came; 0 stands for no answer."""

    async def submit_all(self, plans: Iterable[TaskPlan], *, rate: float) -> None:
        """Submit at `rate` tasks a second; returns when every one is acknowledged or refused."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, headers={"X-Api-Key": self.api_key}) as session,
            asyncio.TaskGroup() as group,
        ):
            for number, plan in enumerate(plans):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                group.create_task(self._submit(session, plan))

    async def _submit(self, session: aiohttp.ClientSession, plan: TaskPlan) -> None:
        body = {"taskId": plan.task_id, "input": plan.input, "workerPort": 8000, "processUri": "/run"}
        if plan.webhook:
            body["webhook"] = self.webhook
        if plan.ttl is not None:
            body["queueTtlSeconds"] = plan.ttl
        if plan.delay is not None:
            body["delaySeconds"] = plan.delay
        if plan.priority is not None:
            body["priority"] = plan.priority
        if plan.key is not None:
            body["fairnessKey"] = plan.key
        text = json.dumps(body).encode()
        facts = {"webhook": plan.webhook, "ttl": plan.ttl, "key": plan.key}
        self.journal.write("submit", task=plan.task_id, do=plan.input["do"], **facts)
        tries = 0
        while True:
            api = self.rng.randrange(len(self.urls))
            status = await self._try(session, self.urls[api], text)
            self.answers[status] = self.answers.get(status, 0) + 1
            tries += 1
            if status == 200:
                self.acknowledged += 1
                self.known.append(plan.task_id)
                self.journal.write("acknowledged", task=plan.task_id, tries=tries, api=api)
                return
            if status and status not in TRANSIENT:
                self.refused += 1
                self.journal.write("refused", task=plan.task_id, status=status)
                return
            self.retried += 1
            await asyncio.sleep(PAUSES.delay_after(tries, luck=self.rng.random()))

    async def _try(self, session: aiohttp.ClientSession, url: str, text: bytes) -> int:
        """The status of the answer; 0 when none came."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                async with session.post(
                    f"{url}/v2/serverless/{self.endpoint_id}/tasks",
                    data=text,
                    headers={"Content-Type": "application/json"},
                ) as answer:
                    await answer.read()
                    return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0


class Mix:
    """Makes tasks of several kinds, with names of their own, from one source of random numbers."""

    def __init__(self, rng: random.Random, prefix: str) -> None:
        self._rng = rng
        self._prefix = prefix
        self._made = 0

    def quick(self, count: int, *, ms: tuple[int, int] = (5, 200)) -> list[TaskPlan]:
        """Healthy tasks; a few are answered 503 or a broken connection first, fail, or have a large output."""
        odd: list[dict[str, Any]] = [{"do": "busy"}, {"do": "reset", "times": 1}, {"do": "fail"}]
        kinds = [{"do": "ok"}] * 16 + odd
        kinds.append({"do": "ok", "bytes": 100_000})
        return [self._plan(self._rng.choice(kinds) | {"ms": self._rng.randint(*ms)}) for _ in range(count)]

    def steady(self, count: int, *, ms: int) -> list[TaskPlan]:
        """Tasks that all succeed, each after about `ms`."""
        return [self._plan({"do": "ok", "ms": int(ms * self._rng.uniform(0.8, 1.2))}) for _ in range(count)]

    def quick_and_steady(self, quick: int, steady: int, *, ms: int) -> list[TaskPlan]:
        """Both, in a random order."""
        plans = [*self.quick(quick), *self.steady(steady, ms=ms)]
        self._rng.shuffle(plans)
        return plans

    def of(self, count: int = 1, **given: Any) -> list[TaskPlan]:
        """Tasks with just this input."""
        return [self._plan(given) for _ in range(count)]

    def _plan(self, given: dict[str, Any]) -> TaskPlan:
        self._made += 1
        return TaskPlan(f"{self._prefix}_{self._made}", given, webhook=self._rng.random() < 0.8)
