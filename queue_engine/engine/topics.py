"""Follow the states of endpoints, tasks, logs and operations.

A topic is read once a round by this process, however many clients follow it, and a client gets a state only when it has
changed. A topic holds only its latest state for a slow client, so states that the client has missed need no memory.

    source ── read each second, or when the task has ended ──► topic ── if changed ──► followers ── next ──►
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from queue_engine.domain.errors import NotFound, StoreUnavailable, TooManyRequests
from queue_engine.observability import metrics
from queue_engine.store.task_watch import TaskWatch

log = logging.getLogger(__name__)

MAX_TOPICS = 200
"""Limit of the topics that this process reads."""
SHARE = 2
"""A tenant may follow one part in `SHARE` of the topics that others leave. So no number of tenants uses up the room: of
200 topics the first may follow 100, a second 50, a third 25."""
MAX_STREAMS = 8
"""Limit of the streams of a session, or of an API key."""
RETRY_SECONDS = 5
SETTLED_ROUNDS = 5
"""Rounds after which a task is read again to which nothing is expected to happen."""


class State(NamedTuple):
    """The state of a topic, as it is sent."""

    event: bytes
    first: bytes
    """The event for a client that begins to follow. For a log it has no lines, only their place."""


class Source(Protocol):
    """Reads the states of a topic."""

    gone: bytes
    """The event that tells that the object does not exist."""

    async def read(self) -> State | None:
        """Return the state; None if it is as before. Raises NotFound and StoreUnavailable."""

    async def pause(self) -> None:
        """Wait until it is time to read again."""

    def close(self) -> None:
        """Stop what was begun for reading."""


Wanted = Mapping[Hashable, Callable[[], Source]]
"""Topics by their keys, and the functions that begin to read them."""


class Rounds:
    """Rounds of reading, `seconds` apart."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def pause(self) -> None:
        await asyncio.sleep(self._seconds)

    def close(self) -> None:
        pass


class TaskRounds:
    """Rounds of reading a task: `seconds` apart while it has not ended, rarely after, and at once when it ends."""

    def __init__(self, watch: TaskWatch, endpoint_id: str, task_id: str, seconds: float) -> None:
        self._task_id = task_id
        self._seconds = seconds
        self._watched = watch.watching(endpoint_id, (task_id,))
        self._watched.__enter__()
        self._is_told = False
        self.is_settled = False
        """True while nothing is expected to happen to the task."""

    async def pause(self) -> None:
        if self._is_told and not self.is_settled:  # it runs again
            self._is_told = False
            self._watched.ask(self._task_id)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(self._seconds * (SETTLED_ROUNDS if self.is_settled else 1), _end, ended)
        try:
            self._is_told |= bool(await self._watched.next(ended))
        finally:
            timer.cancel()

    def close(self) -> None:
        self._watched.__exit__(None, None, None)


class Follower:
    """A client that follows topics. Get it from `Topics.following`."""

    def __init__(self) -> None:
        self._events: dict[Hashable, bytes] = {}
        self._has_events = asyncio.Event()

    async def next(self, seconds: float) -> list[bytes]:
        """Return the latest event of each topic that has one since the last call. Wait for the first one.

        Return none after `seconds`, and when the topics are drained.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._has_events.wait()
        except TimeoutError:
            return []
        self._has_events.clear()
        events, self._events = self._events, {}
        return list(events.values())

    def note(self, key: Hashable, event: bytes) -> None:
        """Note the event of a topic, in place of an earlier one."""
        self._events[key] = event
        self._has_events.set()

    def wake(self) -> None:
        """End the wait of `next`."""
        self._has_events.set()


class Topics:
    """The topics that clients of this process follow."""

    def __init__(self) -> None:
        self._topics: dict[Hashable, _Topic] = {}
        self._by_tenant: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._followers: set[Follower] = set()
        self.is_draining = False
        """True from the call of `drain` on. Streams end then."""

    def drain(self) -> None:
        """Wake all followers, whose streams end. Safe to call from a signal handler."""
        self.is_draining = True
        for follower in self._followers:
            follower.wake()

    @contextmanager
    def following(self, tenant: str, holder: str, wanted: Wanted) -> Iterator[Follower]:
        """Follow topics, each by its key. Topics with the same key have the same states.

        `holder` is the session or the key whose streams are counted. Raises TooManyRequests at a limit.
        """
        self._check_room(tenant, holder, wanted)
        follower = Follower()
        self._streams[holder] += 1
        self._followers.add(follower)
        metrics.event_streams.inc()
        try:
            for key, opened in wanted.items():
                self._topic(tenant, key, opened).add(follower)
            yield follower
        finally:
            metrics.event_streams.dec()
            self._followers.discard(follower)
            _count_down(self._streams, holder)
            for key in wanted:
                self._leave(tenant, key, follower)

    def _check_room(self, tenant: str, holder: str, wanted: Mapping[Hashable, object]) -> None:
        if self._streams[holder] >= MAX_STREAMS:
            raise _full(f"a session or an API key has {MAX_STREAMS} streams of events at this server")
        new = sum(key not in self._topics for key in wanted)
        own = self._by_tenant[tenant]
        limit = (MAX_TOPICS - len(self._topics) + own) // SHARE
        if new and own + new > limit:
            raise _full(f"a tenant follows at most half of the topics that others leave at this server, now {limit}")

    def _topic(self, tenant: str, key: Hashable, opened: Callable[[], Source]) -> _Topic:
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(key, opened())
            self._by_tenant[tenant] += 1
            metrics.event_topics.inc()
        return topic

    def _leave(self, tenant: str, key: Hashable, follower: Follower) -> None:
        topic = self._topics.get(key)
        if topic is None or not topic.discard(follower):
            return
        del self._topics[key]
        _count_down(self._by_tenant, tenant)
        metrics.event_topics.dec()


class _Topic:
    """A topic while it is followed."""

    def __init__(self, key: Hashable, source: Source) -> None:
        self._key = key
        self._source = source
        self._followers: set[Follower] = set()
        self._first: bytes | None = None
        self._reading = asyncio.create_task(self._read_on(), name="read a topic")
        # Not in `_read_on`, which never begins if the last follower leaves at once.
        self._reading.add_done_callback(lambda _: source.close())

    def add(self, follower: Follower) -> None:
        """Send the follower the state, if it is known, and all later ones."""
        self._followers.add(follower)
        if self._first is not None:
            follower.note(self._key, self._first)

    def discard(self, follower: Follower) -> bool:
        """Remove a follower. Return True if it was the last one, after which the topic is not read any more."""
        self._followers.discard(follower)
        if self._followers:
            return False
        self._reading.cancel()
        return True

    async def _read_on(self) -> None:
        is_reported = False
        while True:
            try:
                await self._step()
                is_reported = False
            except StoreUnavailable:
                pass  # requests of the clients say why
            except Exception:  # the error of one state, perhaps: the next round reads again
                if not is_reported:
                    log.exception("a topic cannot be read", extra={"topic": repr(self._key)})
                is_reported = True
            await self._source.pause()

    async def _step(self) -> None:
        try:
            state = await self._source.read()
        except NotFound:
            gone = self._source.gone
            state = None if self._first == gone else State(gone, gone)
        if state is None:
            return
        self._first = state.first
        for follower in self._followers:
            follower.note(self._key, state.event)


def _full(message: str) -> TooManyRequests:
    return TooManyRequests(message, scope="events", retry_after_seconds=RETRY_SECONDS)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
