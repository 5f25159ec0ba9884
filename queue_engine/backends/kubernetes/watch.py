"""The pods of an installation in a cluster, kept up to date by a watch.

A list of all pods is followed by a watch from the version of the list on. Versions expire, for example when the API
server restarts; then the pods are listed again. Watches can stay silent although pods change, so each one has a time
limit, and every RESYNC_SECONDS the pods are listed whatever the watch says. A list is always of the current state,
because an older one of a cache lacks pods that were made a moment ago, and their workers would be started again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from queue_engine.aio import Backoff, end_tasks, wait_for_event
from queue_engine.backends.kubernetes.budget import MAX_PAUSE_SECONDS
from queue_engine.backends.kubernetes.kube_api import Document, KubeApi, KubeError, KubeUnavailable
from queue_engine.backends.kubernetes.pod_view import PodView, pod_view

log = logging.getLogger(__name__)

PAGE_PODS = 500
RESYNC_SECONDS = 300.0
"""Maximum time between two lists."""
RESYNC_JITTER = 0.2
"""Share of that time by which it is shortened at random, so that clusters and controllers do not list at once."""
WATCH_SECONDS = 60
"""Maximum time of a watch. A connection that was lost without a sign is noticed after it; the next watch goes on."""
SILENCE_SECONDS = 15.0
"""Time beyond the limit of a watch after which it is given up, because the server has not ended it."""
RECONNECT = Backoff(0.5, 30.0)
AWAY_FAILURES = 2
"""Number of consecutive failures from which on the server does not respond. A proxy may cut off a single watch."""
RELIST_SECONDS = 30.0
"""Minimum time between two lists at once after an expired version. Within it there is a delay."""
SHORT_WATCH_SECONDS = 1.0
"""A watch that ends sooner and without an event is taken as a failure, so that it is not repeated without a delay."""
GONE_KEPT = 1000
"""Number of removed pods whose uids are remembered, because the response to a creation may come after the removal."""
NO_RESPONSE = "does not respond"
OVERLOADED = "has too many requests and asks to wait"
_EXPIRED = 410
_TOO_MANY = 429


@dataclass(frozen=True)
class Changes:
    """The functions that a watch calls."""

    on_change: Callable[[PodView], None]
    """After a pod has appeared or changed."""
    on_removal: Callable[[PodView], None]
    """After a pod was removed, with its last state."""
    on_list: Callable[[], None]
    """After each complete list."""


class PodWatch:
    """Knows the pods of an installation in a namespace. It runs from `start` to `aclose`, and may be started again."""

    def __init__(
        self, api: KubeApi, selector: str, changes: Changes, *, name: str, resync_seconds: float = RESYNC_SECONDS
    ) -> None:
        self._api = api
        self._selector = selector
        self._changes = changes
        self._name = name
        self._resync_seconds = resync_seconds
        self._pods: dict[str, PodView] = {}
        self._gone: dict[str, None] = {}
        """Uids of pods that were removed last."""
        self._created: set[str] = set()
        """Names of pods that were created since the latest list began, which may lack them."""
        self._version = ""
        """Version that a watch continues from; empty if the pods have to be listed."""
        self._list_at = 0.0
        self._expired_at = -RELIST_SECONDS
        self._failures = 0
        self._listed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        """Set, and replaced, at each change of a pod."""
        self.generation = 0
        """Number of changes so far."""
        self.is_connected = False
        """True if the server responds."""
        self.problem: KubeError | None = None
        """The latest failure, until a call succeeds."""

    @property
    def pods(self) -> Mapping[str, PodView]:
        """The pods by their names."""
        return self._pods

    @property
    def outage(self) -> str | None:
        """The outage of the cluster as a predicate, such as `does not respond`; None while it serves."""
        if self.is_connected:
            return None
        if self.problem is None or not self.problem.status:
            return NO_RESPONSE
        return OVERLOADED if self.problem.status == _TOO_MANY else f"does not list its pods: {self.problem}"

    @property
    def is_complete(self) -> bool:
        """True if all pods were listed once since the start."""
        return self._listed.is_set()

    def start(self) -> None:
        """Begin to watch. Does nothing if it is running."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=f"pod watch of {self._name}")

    async def until_complete(self, seconds: float) -> bool:
        """Wait until all pods were listed once; return False if that takes longer."""
        return await wait_for_event(self._listed, seconds)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until the pods meet a condition; return False if that takes longer."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while not condition():
            if not await wait_for_event(self._changed, max(0.0, end - clock())):
                return condition()
        return True

    def note_created(self, document: Document) -> None:
        """Add a pod from the response to its creation, unless a watch was quicker."""
        pod = pod_view(document)
        self._created.add(pod.name)
        known = self._pods.get(pod.name)
        if pod.uid not in self._gone and (known is None or known.uid != pod.uid):
            self._note(pod)

    async def aclose(self) -> None:
        """Stop watching, and forget all pods."""
        if self._running is not None:
            await end_tasks(self._running)
            self._running = None
        self._pods.clear()
        self._listed.clear()
        self._version = ""
        self.is_connected = False

    async def _run(self) -> None:
        while True:
            try:
                await self._list_and_watch()
            except KubeError as error:
                delay = self._note_failure(error)
            except Exception:
                log.exception("the watch of pods failed", extra={"cluster": self._name})
                delay = self._note_failure(KubeError(0, "an error of the controller"))
                self._version = ""
            else:
                delay = 0.0
            await asyncio.sleep(delay)

    def _note_failure(self, error: KubeError) -> float:
        """Note a failure, and return the seconds until the next try."""
        now = asyncio.get_running_loop().time()
        if error.status == _EXPIRED:
            self._version = ""
            is_first = now - self._expired_at >= RELIST_SECONDS
            self._expired_at = now
            return 0.0 if is_first else RECONNECT.first_seconds
        self._failures += 1
        self.problem = error
        self.is_connected = self.is_connected and self._failures < AWAY_FAILURES
        if self._failures in (1, 10) or self._failures % 100 == 0:
            log.warning(
                "the pods of a cluster cannot be watched: %s", error.for_operators, extra={"cluster": self._name}
            )
        asked_seconds = min(error.retry_after_seconds or 0.0, MAX_PAUSE_SECONDS)
        return max(RECONNECT.delay_after(self._failures, luck=random.random()), asked_seconds)

    async def _list_and_watch(self) -> None:
        """List the pods if that is due, then watch them until the next list is."""
        clock = asyncio.get_running_loop().time
        if not self._version or clock() >= self._list_at:
            await self._list()
            self._list_at = clock() + self._resync_seconds * (1 - RESYNC_JITTER * random.random())
        began = clock()
        events = await self._watch(max(1, min(WATCH_SECONDS, round(self._list_at - began))))
        if not events and clock() - began < SHORT_WATCH_SECONDS:
            raise KubeUnavailable("it ends watches at once")

    async def _list(self) -> None:
        self._created.clear()
        found: dict[str, PodView] = {}
        page = ""
        while True:
            documents, version, page = await self._api.list_pods(self._selector, limit=PAGE_PODS, page=page)
            found.update((pod.name, pod) for pod in map(pod_view, documents))
            if not page:
                break
        for name, pod in list(self._pods.items()):
            if (name not in found or found[name].uid != pod.uid) and name not in self._created:
                self._note_gone(pod)
        for pod in found.values():
            self._note(pod)
        self._version = version
        self._note_success()
        self._listed.set()
        self._changes.on_list()

    async def _watch(self, seconds: int) -> int:
        """Watch the pods for a time; return the number of events."""
        count = -1  # because the first one says that the watch is open
        try:
            async with (
                asyncio.timeout(seconds + SILENCE_SECONDS),
                aclosing(self._api.watch_pods(self._selector, self._version, seconds)) as events,
            ):
                async for event in events:
                    count += 1
                    self._note_success()
                    if event:
                        self._apply(event)
        except TimeoutError:
            raise KubeUnavailable("a watch stays silent beyond its time") from None
        return count

    def _apply(self, event: Document) -> None:
        document = event["object"]
        self._version = document["metadata"]["resourceVersion"]
        if event["type"] in ("ADDED", "MODIFIED"):
            self._note(pod_view(document))
        elif event["type"] == "DELETED":
            pod = pod_view(document)
            known = self._pods.get(pod.name)
            if known is not None and known.uid == pod.uid:
                self._pods[pod.name] = pod
                self._note_gone(pod)
            else:
                self._remember_gone(pod)

    def _note(self, pod: PodView) -> None:
        if self._pods.get(pod.name) != pod and pod.uid not in self._gone:
            self._pods[pod.name] = pod
            self._pulse()
            self._changes.on_change(pod)

    def _note_gone(self, pod: PodView) -> None:
        self._remember_gone(pod)
        self._pods.pop(pod.name, None)
        self._pulse()
        self._changes.on_removal(pod)

    def _pulse(self) -> None:
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _remember_gone(self, pod: PodView) -> None:
        self._gone[pod.uid] = None
        while len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]

    def _note_success(self) -> None:
        self.is_connected, self.problem, self._failures = True, None, 0
