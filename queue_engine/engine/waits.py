"""Wait for the ends of tasks in the name of a client.

A wait counts for the limits of this process and of its tenant, one for each task. Beyond a limit, and while the process
stops, a wait ends at once, so that its client gets the task as it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import Payload, Task, TaskStatus
from queue_engine.engine.access import check_sees
from queue_engine.engine.patience import from_store
from queue_engine.engine.queries import Queries
from queue_engine.observability import metrics
from queue_engine.store.task_watch import TaskWatch, Watched

GATHER_SECONDS = 0.02
"""Time for which a wait for several tasks goes on after the end of the first one."""
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
"""Limit of the inputs and outputs of tasks in one response. The first task may be longer. Further tasks are in the next
response."""
READ_TOGETHER = 8
"""Number of tasks that are read at the same time. Each has at most MAX_WHOLE_BYTES in memory."""


@dataclass(frozen=True)
class WaitLimits:
    """Maximum numbers of tasks that clients wait for in this process; 0 sets no limit."""

    in_all: int = 20_000
    per_tenant: int = 5000


DEFAULT_WAIT_LIMITS = WaitLimits()


@dataclass(frozen=True)
class WaitedTask:
    """A task after a wait: as it has ended, or as it was at the end of the wait."""

    task: Task
    is_refused: bool
    """True if the wait was not made because of a limit."""


@dataclass(frozen=True)
class WaitedTasks:
    """Tasks after a wait. Each id is in one of the three."""

    ended: Sequence[Task]
    pending: Sequence[str]
    unknown: Sequence[str]
    is_refused: bool = False


class Waits:
    """The waits of this process. Ids of tasks have the form of an id."""

    def __init__(self, queries: Queries, watch: TaskWatch, limits: WaitLimits = DEFAULT_WAIT_LIMITS) -> None:
        self._queries = queries
        self._watch = watch
        self._limits = limits
        self.in_flight = 0
        """Number of tasks that clients wait for."""
        self._by_tenant: Counter[str] = Counter()
        self._open: set[asyncio.Future[None]] = set()
        self.is_draining = False
        """True from the call of `drain` on."""

    def drain(self) -> None:
        """End all waits at once, and all later ones as they begin. Safe to call from a signal handler."""
        self.is_draining = True
        for ended in self._open:
            _end(ended)

    async def task(
        self,
        principal: Principal,
        endpoint: Endpoint,
        task_id: str,
        ended: asyncio.Future[None],
        *,
        payload: Payload = Payload.FULL,
    ) -> WaitedTask:
        """Return the task when it has ended, or as it is when `ended` is done; on demand without input and output.

        A store that is away does not end the wait. Raises NotFound, and StoreUnavailable if the task cannot be read at
        the end of the wait.
        """
        check_sees(principal, endpoint)
        if principal.sees_only_own_tasks:  # before the wait, which would tell that the task exists
            await self._queries.brief(principal, endpoint, task_id)
        with (
            self._counted(principal.tenant, 1, ended) as is_refused,
            self._watch.watching(endpoint.endpoint_id, () if ended.done() else (task_id,)) as watched,
        ):
            while True:
                await watched.next(ended)
                try:
                    task = await self._read(principal, endpoint, task_id, payload=payload)
                except StoreUnavailable:
                    if ended.done():
                        raise
                else:
                    if ended.done() or has_ended(task):
                        return WaitedTask(task, is_refused)
                watched.ask(task_id)

    async def tasks(
        self, principal: Principal, endpoint: Endpoint, task_ids: Iterable[str], ended: asyncio.Future[None]
    ) -> WaitedTasks:
        """Return tasks when the first of them has ended, or as they are when `ended` is done.

        Raises NotFound for the endpoint, and StoreUnavailable if they cannot be read at the end of the wait.
        """
        check_sees(principal, endpoint)
        names = list(dict.fromkeys(task_ids))
        if principal.sees_only_own_tasks:
            known = [name for name, task in (await self._briefs(principal, endpoint, names)).items() if task]
        else:
            known = names
        with (
            self._counted(principal.tenant, len(known), ended) as is_refused,
            self._watch.watching(endpoint.endpoint_id, () if ended.done() else known) as watched,
        ):
            found, gone = await self._first_ended(principal, endpoint, known, watched, ended)
        settled = {*gone, *(task.task_id for task in found)}
        pending = [name for name in known if name not in settled]
        unknown = [name for name in names if name in gone or name not in known]
        return WaitedTasks(found, pending, unknown, is_refused)

    async def _first_ended(
        self,
        principal: Principal,
        endpoint: Endpoint,
        known: Sequence[str],
        watched: Watched,
        ended: asyncio.Future[None],
    ) -> tuple[list[Task], set[str]]:
        """Wait for the first end. Return the tasks that have ended, and the ids of those that do not exist."""
        gone: set[str] = set()
        while len(gone) < len(known) and not ended.done():
            noted = await self._noted(watched, len(known) - len(gone), ended)
            try:
                found, missing = await self._read_ended(principal, endpoint, sorted(noted))
            except StoreUnavailable:
                found, missing = [], set()
            gone |= missing
            if found:
                return found, gone
            for name in noted - missing:
                watched.ask(name)
        left = [name for name in known if name not in gone]
        briefs = await self._briefs(principal, endpoint, left)
        gone |= {name for name, task in briefs.items() if task is None}
        found, missing = await self._read_ended(
            principal, endpoint, [name for name, task in briefs.items() if task is not None and has_ended(task)]
        )
        return found, gone | missing

    async def _noted(self, watched: Watched, count: int, ended: asyncio.Future[None]) -> set[str]:
        """Return the ids of the first tasks that have probably ended, and of others of `count` shortly after them."""
        noted = await watched.next(ended)
        if noted and len(noted) < count:
            await asyncio.wait({ended}, timeout=GATHER_SECONDS)
            noted |= watched.take()
        return noted

    async def _read_ended(
        self, principal: Principal, endpoint: Endpoint, names: Sequence[str]
    ) -> tuple[list[Task], set[str]]:
        """Return the tasks that have ended, up to MAX_RESPONSE_BYTES, and the ids of those that do not exist."""
        found: list[Task] = []
        missing: set[str] = set()
        size = 0
        for first in range(0, len(names), READ_TOGETHER):
            together = names[first : first + READ_TOGETHER]
            for name, task in zip(
                together,
                await asyncio.gather(*(self._read_known(principal, endpoint, one) for one in together)),
                strict=True,
            ):
                if task is None:
                    missing.add(name)
                elif has_ended(task) and (not found or size + _text_bytes(task) <= MAX_RESPONSE_BYTES):
                    found.append(task)
                    size += _text_bytes(task)
            if size >= MAX_RESPONSE_BYTES:
                break
        return found, missing

    async def _read_known(self, principal: Principal, endpoint: Endpoint, task_id: str) -> Task | None:
        try:
            return await self._read(principal, endpoint, task_id)
        except NotFound:
            return None

    async def _briefs(self, principal: Principal, endpoint: Endpoint, names: Sequence[str]) -> dict[str, Task | None]:
        """Return the tasks without input and output by id; None for one that the principal does not see."""

        async def brief(name: str) -> Task | None:
            try:
                return await self._queries.brief(principal, endpoint, name)
            except NotFound:
                return None

        return dict(zip(names, await asyncio.gather(*map(brief, names)), strict=True))

    async def _read(
        self, principal: Principal, endpoint: Endpoint, task_id: str, *, payload: Payload = Payload.FULL
    ) -> Task:
        """Return the task. An end is returned only when it is as durable as configured."""
        task = await self._queries.task(principal, endpoint, task_id, payload=payload)
        if has_ended(task):
            await from_store(self._watch.confirm(endpoint.endpoint_id))
        return task

    @contextmanager
    def _counted(self, tenant: str, count: int, ended: asyncio.Future[None]) -> Iterator[bool]:
        """Count a wait for `count` tasks. If it is beyond a limit, end it and return True."""
        if self.is_draining:
            _end(ended)
        limit = None if ended.done() else self._limit_reached(tenant, count)
        if limit is not None:
            metrics.task_waits_refused.labels(limit=limit).inc()
            _end(ended)
        if ended.done():
            yield limit is not None
            return
        self.in_flight += count
        self._by_tenant[tenant] += count
        self._open.add(ended)
        metrics.task_waits.inc(count)
        try:
            yield False
        finally:
            metrics.task_waits.dec(count)
            self._open.discard(ended)
            self.in_flight -= count
            self._by_tenant[tenant] -= count
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]

    def _limit_reached(self, tenant: str, count: int) -> str | None:
        """Return the limit that a wait for `count` more tasks would exceed: `all`, `tenant` or None."""
        limits = self._limits
        if limits.in_all and self.in_flight + count > limits.in_all:
            return "all"
        if limits.per_tenant and self._by_tenant[tenant] + count > limits.per_tenant:
            return "tenant"
        return None


def has_ended(task: Task) -> bool:
    """Return True if the task has ended."""
    return task.status is not TaskStatus.PROCESSING


def _text_bytes(task: Task) -> int:
    """Return the length of the task's input and output."""
    if task.long is None:
        return len(task.input or b"") + len(task.output or b"")
    return task.long.input.size + (task.long.output.size if task.long.output else 0)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
