"""Learn of the ends of tasks without asking for them again and again.

    watching ── watch.lua ──► the task's field `watchers` ── the script that ends the task ──► message ── next ──►

A task has the ids of the processes that watch it, and the script that ends it sends each of them a message over a
channel. A task that no process watches has no such field, and its end sends nothing.

A message is a hint. The watcher reads the task, and asks again if it has not ended. A lost message costs time and never
causes a wrong result: after each subscription, as after a lost connection, this process asks again for all tasks that
it watches. A watcher with a time limit reads its task once more at the end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from redis.asyncio import Redis

from queue_engine.aio import DEFAULT_BACKOFF
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions, member, parse_member
from queue_engine.store.redis.client import unavailability
from queue_engine.store.redis.subscriptions import Subscriptions

log = logging.getLogger(__name__)

PROCESS_BYTES = 4
"""Length of a process's id, which has twice as many characters. watch.lua keeps up to seven of them."""
ALL_PROCESSES = "*"
MAX_ASKED = 256
"""Limit of tasks for which one round asks, so that new tasks do not wait long for the end of a round."""
ENDED = b"x "
"""Beginning of the message about the end of a task, before its member."""


class TaskWatch:
    """The tasks that this process watches. `confirm` waits until writes beside a key are durable."""

    def __init__(
        self, redis: Redis, scripts: Scripts, partitions: Partitions, confirm: Callable[[str], Awaitable[None]]
    ) -> None:
        self._keys = partitions
        self._confirm = confirm
        process = secrets.token_hex(PROCESS_BYTES)
        self._partitions = [_PartitionWatch(scripts, partition, partitions, process) for partition in partitions.all()]
        places = {
            one.partition.index: (one.partition.told(process), one.partition.told(ALL_PROCESSES))
            for one in self._partitions
        }
        self._subscriptions = Subscriptions(redis, places, self)

    def watching(self, endpoint_id: str, task_ids: Iterable[str]) -> Watched:
        """Return a context in which these tasks of an endpoint are watched."""
        return Watched(self._of(endpoint_id), endpoint_id, task_ids)

    async def confirm(self, endpoint_id: str) -> None:
        """Wait until what was read of the endpoint's tasks has the configured durability. Raises RedisError."""
        await self._confirm(self._keys.of(endpoint_id).counts)

    async def aclose(self) -> None:
        """Stop watching."""
        await self._subscriptions.aclose()
        for one in self._partitions:
            await one.aclose()

    def _of(self, endpoint_id: str) -> _PartitionWatch:
        self._subscriptions.start()
        return self._partitions[self._keys.of(endpoint_id).partition.index]

    # Called by the subscriptions

    def subscribed(self, place: int) -> None:
        self._partitions[place].ask_all()

    def received(self, message: bytes) -> None:
        if message.startswith(ENDED):
            name = message.removeprefix(ENDED).decode("utf-8", "replace")
            self._partitions[self._keys.of(parse_member(name)[0]).partition.index].note(name)


class Watched:
    """Tasks of an endpoint that a caller watches: see TaskWatch."""

    def __init__(self, partition: _PartitionWatch, endpoint_id: str, task_ids: Iterable[str]) -> None:
        self._partition = partition
        self._endpoint_id = endpoint_id
        self._names = {member(endpoint_id, one): one for one in task_ids}
        self._noted: set[str] = set()
        self._waiting: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        for name in self._names:
            self._partition.add(name, self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for name in self._names:
            self._partition.discard(name, self)

    async def next(self, ended: asyncio.Future[None]) -> set[str]:
        """Return the ids of tasks that have probably ended, or do not exist, each once. Wait for the first one until
        `ended` is done.

        A store that is away does not end the wait.
        """
        if not self._noted and not ended.done():
            self._waiting = asyncio.get_running_loop().create_future()
            ended.add_done_callback(self._end)
            try:
                await self._waiting
            finally:
                ended.remove_done_callback(self._end)
                self._waiting = None
        return self.take()

    def take(self) -> set[str]:
        """Return what `next` would, without waiting."""
        found, self._noted = self._noted, set()
        return found

    def ask(self, task_id: str) -> None:
        """Watch a task again that `next` has returned and that has not ended."""
        self._partition.ask(member(self._endpoint_id, task_id))

    def note(self, name: str) -> None:
        """Note that a task has probably ended, by its member."""
        self._noted.add(self._names[name])
        self._end()

    def _end(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _PartitionWatch:
    """The watched tasks of one partition, by their members."""

    def __init__(self, scripts: Scripts, partition: Partition, partitions: Partitions, process: str) -> None:
        self.partition = partition
        self._scripts = scripts
        self._keys = partitions
        self._process = process
        self._watched: dict[str, set[Watched]] = {}
        self._unasked: dict[str, None] = {}
        """The tasks for which the store must be asked, in that order."""
        self._asking: asyncio.Task[None] | None = None

    def add(self, name: str, watched: Watched) -> None:
        """Begin to watch a task."""
        self._watched.setdefault(name, set()).add(watched)
        self.ask(name)

    def discard(self, name: str, watched: Watched) -> None:
        """Stop watching a task."""
        of_task = self._watched[name]
        of_task.discard(watched)
        if not of_task:
            del self._watched[name]

    def note(self, name: str) -> None:
        """Pass the message about a task on to those that watch it."""
        for watched in self._watched.get(name, ()):
            watched.note(name)

    def ask(self, name: str) -> None:
        """Ask the store for a task soon."""
        self._unasked[name] = None
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="watch tasks")

    def ask_all(self) -> None:
        """Ask the store again for all tasks."""
        for name in self._watched:
            self.ask(name)

    async def aclose(self) -> None:
        """Ask for no further task."""
        self._unasked.clear()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        """Ask for tasks while there are any. A task for which the store does not respond is asked for again."""
        failures = 0
        try:
            while self._unasked:
                names = [name for _, name in zip(range(MAX_ASKED), self._unasked, strict=False)]
                for name in names:
                    del self._unasked[name]
                names = [name for name in names if name in self._watched]
                is_answered = all(await asyncio.gather(*map(self._ask_for, names)))
                failures = 0 if is_answered else failures + 1
                if failures:
                    await asyncio.sleep(DEFAULT_BACKOFF.delay_after(failures))
        finally:
            self._asking = None

    async def _ask_for(self, name: str) -> bool:
        """Ask for a task. Return False if the store did not respond, so that it must be asked again after a pause."""
        endpoint_id, task_id = parse_member(name)
        try:
            reply = await self._scripts.watch(self._keys.of(endpoint_id).of_task(task_id), process=self._process)
        except Exception as error:
            if unavailability(error) is None:
                log.exception("a task cannot be watched", extra={"endpoint": endpoint_id, "task": task_id})
            self._unasked[name] = None
            return False
        if reply.word != "WAITING":
            self.note(name)
        return True
