"""The containers of an installation, kept up to date by the engine's events.

One stream of events names the containers that change. Engines lose events when they restart, and streams can stay
silent, so all containers are listed when the stream opens, after each failure, and every LIST_SECONDS. Only containers
that have changed are inspected.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from queue_engine.aio import Backoff, end_tasks, wait_for_event
from queue_engine.backends.docker.engine import NO_RESPONSE, Document, Engine, EngineError
from queue_engine.backends.docker.names import INSTANCE, Identity, identity_of

log = logging.getLogger(__name__)

LIST_SECONDS = 60.0
"""Interval at which all containers are listed although the stream of events is open."""
LATE_SECONDS = 10.0
"""Time after the start after which an engine that has not listed the containers does not respond. Its calls end much
later, because a host under load takes long."""
RECONNECT = Backoff(0.5, 15.0)
GONE_KEPT = 1000
"""Number of removed containers whose ids are remembered, because a response from before the removal may come after
it. Ids are never reused."""
INSPECTED_AT_ONCE = 8
"""Maximum number of simultaneous inspections, so that a burst of events does not flood the engine."""
_OTHER_ACTIONS = ("exec", "health_status")
"""Beginnings of actions that change no state. A container with a check causes several of them in each second."""


@dataclass(frozen=True)
class Seen:
    """A container as it was last inspected."""

    identity: Identity
    description: Document

    @property
    def container_id(self) -> str:
        return str(self.description["Id"])

    @property
    def status(self) -> str:
        return str(self.description["State"]["Status"]).lower()

    @property
    def has_failed(self) -> bool:
        """True if it has ended with a status that is not 0."""
        state = self.description["State"]
        return not state.get("Running") and bool(state.get("ExitCode"))

    @property
    def has_devices(self) -> bool:
        """True if the engine has taken a request for GPUs."""
        return bool((self.description.get("HostConfig") or {}).get("DeviceRequests"))


class Watch:
    """Knows the containers of an instance. `on_change` is called after each change, `on_removal` for each container
    that no longer exists.

    It runs from `start` to `aclose`, and may be started again.
    """

    def __init__(
        self, engine: Engine, instance: str, *, on_change: Callable[[Seen], None], on_removal: Callable[[Seen], None]
    ) -> None:
        self._engine = engine
        self._label = f"{INSTANCE}={instance}"
        self._on_change = on_change
        self._on_removal = on_removal
        self._seen: dict[str, Seen] = {}
        self._inspections = 0
        self._inspected: dict[str, int] = {}
        """Number of the latest inspection by container."""
        self._gone: dict[str, None] = {}
        """Ids of containers that were removed last."""
        self._dirty: set[str] = set()
        """Ids of containers to inspect."""
        self._list_is_due = True
        self._wake = asyncio.Event()
        self._listed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self.is_connected = False
        """True if the engine has responded to the latest call."""
        self.problem: EngineError | None = None
        """The latest failure, until a call succeeds."""

    @property
    def is_complete(self) -> bool:
        """True if all containers were listed once since the start."""
        return self._listed.is_set()

    def start(self) -> None:
        """Begin to watch. Does nothing if it is running."""
        if self._running is None or self._running.done():
            self._started_at, self.problem = asyncio.get_running_loop().time(), None
            self._running = asyncio.create_task(self._run(), name="container watch")

    async def until_complete(self, seconds: float) -> bool:
        """Wait until all containers were listed once; return False if that takes longer."""
        return await wait_for_event(self._listed, seconds)

    @property
    def why_not_connected(self) -> str | None:
        """Why the engine does not respond; None if it does, or if it still has time for the first list."""
        if self.is_connected or self._running is None:
            return None
        if self.problem is not None:
            return str(self.problem)
        is_late = asyncio.get_running_loop().time() - self._started_at > LATE_SECONDS
        return NO_RESPONSE if is_late else None

    async def look_at(self, container_id: str) -> None:
        """Inspect a container now, after a call that has changed or removed it."""
        await self._inspect(container_id)

    async def aclose(self) -> None:
        """Stop watching, and forget all containers."""
        if self._running is not None:
            await end_tasks(self._running)
            self._running = None
        self._seen.clear()
        self._inspected.clear()
        self._dirty.clear()
        self._listed.clear()
        self._list_is_due = True
        self.is_connected = False

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began = clock()
            listening = asyncio.create_task(self._listen(), name="container events")
            try:
                await self._follow(listening)
            except EngineError as error:
                failures = 1 if clock() - began > LIST_SECONDS else failures + 1
                self.is_connected, self.problem = False, error
                if failures in (1, 10) or failures % 100 == 0:
                    log.warning("the containers cannot be watched: %s", error.for_operators)
            except Exception:
                failures += 1
                self.is_connected = False
                log.exception("the watch of the containers failed")
            finally:
                await end_tasks(listening)
                if not listening.cancelled():
                    listening.exception()  # looked at, because asyncio would log it with a traceback
            self._list_is_due = True
            await asyncio.sleep(RECONNECT.delay_after(max(1, failures), luck=random.random()))

    async def _follow(self, listening: asyncio.Task[None]) -> None:
        """Inspect what events name, and list all containers when that is due, until the stream of events ends."""
        clock = asyncio.get_running_loop().time
        listed_at = 0.0
        while True:
            self._wake.clear()
            if listening.done():
                listening.result()
                raise EngineError(0, "the engine has ended the stream of events")
            if self._list_is_due or clock() - listed_at >= LIST_SECONDS:
                self._list_is_due = False
                await self._list()
                listed_at = clock()
            dirty = set(self._dirty)
            self._dirty -= dirty
            await self._inspect_all(dirty)
            await wait_for_event(self._wake, listed_at + LIST_SECONDS - clock())

    async def _listen(self) -> None:
        """Note which containers change. The empty event is the opening of the stream: what changed before is listed."""
        try:
            async with aclosing(self._engine.events(self._label)) as events:
                async for event in events:
                    if not event:
                        self._list_is_due = True
                    elif (container_id := changed_by(event)) is not None:
                        self._dirty.add(container_id)
                    else:
                        continue
                    self._wake.set()
        finally:
            self._wake.set()

    async def _list(self) -> None:
        found = {str(one["Id"]): one for one in await self._engine.containers(self._label)}
        changed = {
            container_id
            for container_id, summary in found.items()
            if container_id not in self._seen or self._seen[container_id].status != _status_of(summary)
        }
        await self._inspect_all(changed | (self._seen.keys() - found.keys()))
        self.is_connected, self.problem = True, None
        self._listed.set()

    async def _inspect_all(self, container_ids: set[str]) -> None:
        at_once = asyncio.Semaphore(INSPECTED_AT_ONCE)

        async def inspect(container_id: str) -> None:
            async with at_once:
                await self._inspect(container_id)

        for error in await asyncio.gather(*map(inspect, container_ids), return_exceptions=True):
            if error is not None:
                raise error

    async def _inspect(self, container_id: str) -> None:
        self._inspections += 1
        number = self._inspections
        description = await self._engine.inspect(container_id)
        if container_id in self._gone or number < self._inspected.get(container_id, 0):
            return  # a later inspection was quicker, and this one may be from before it
        if description is None:
            self._note_gone(container_id)
            return
        self._inspected[container_id] = number
        before = self._seen.get(container_id)
        identity = identity_of((description.get("Config") or {}).get("Labels") or {})
        if identity is not None and (before is None or before.description != description):
            self._seen[container_id] = seen = Seen(identity, description)
            self._on_change(seen)

    def _note_gone(self, container_id: str) -> None:
        self._gone[container_id] = None
        while len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        self._inspected.pop(container_id, None)
        before = self._seen.pop(container_id, None)
        if before is not None:
            self._on_removal(before)


def changed_by(event: Document) -> str | None:
    """Return the id of the container that has changed; None if the event states no change of a container's state."""
    action = str(event.get("Action") or event.get("status") or "")
    if action.startswith(_OTHER_ACTIONS):
        return None
    container_id = (event.get("Actor") or {}).get("ID") or event.get("id")
    return str(container_id) if container_id else None


def _status_of(summary: Mapping[str, object]) -> str:
    return str(summary.get("State", "")).lower()
