"""A namespace of a cluster: its pods, the calls that change something, and the Secrets that no pod uses any longer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from queue_engine.aio import end_tasks, uncut
from queue_engine.backends.base import BackendError
from queue_engine.backends.kubernetes.budget import Budget
from queue_engine.backends.kubernetes.kube_api import ANCHOR, Document, KubeApi, KubeError, Owner
from queue_engine.backends.kubernetes.names import manager_selector, selector
from queue_engine.backends.kubernetes.pod_view import PodView
from queue_engine.backends.kubernetes.refusals import Refusals
from queue_engine.backends.kubernetes.sites import Load
from queue_engine.backends.kubernetes.watch import Changes, PodWatch
from queue_engine.backends.turns import ENGINE, Party
from queue_engine.observability import metrics

T = TypeVar("T")
log = logging.getLogger(__name__)

SECRETS = ("qe-env-", "qe-pull-", "qe-agent-")
"""Beginnings of the names of the Secrets that this backend makes."""
MAX_WRITE_TRIES = 5
"""Maximum number of tries of a call that the server refuses because of its load."""
OVERLOAD_SECONDS = 1.0
"""Pause of all writes after such a refusal without a time."""
APPEAR_SECONDS = 30.0
"""Maximum time until a watch shows a pod that exists already."""
EVENTS = 20
"""Maximum number of events that are read about a pod."""
_OVERLOADED = 429
_NO_RIGHT = 403
_CONFLICT = 409
_SUMMARIES = ("Error: ", "Back-off ")
"""Beginnings of warnings that only repeat the state of the container."""


class NotLeading(BackendError):
    """This controller does not lead any longer, so it changes nothing."""


class Cluster:
    """A namespace in which workers run.

    `leads` returns False if nothing may be changed any longer. It is asked before each call that changes something.
    """

    def __init__(
        self,
        name: str,
        api: KubeApi,
        instance: str,
        changes: Changes,
        *,
        leads: Callable[[], bool],
        resync_seconds: float,
    ) -> None:
        self.name = name
        self.api = api
        self.watch = PodWatch(api, selector(instance), changes, name=name, resync_seconds=resync_seconds)
        metrics.backend_up.labels(name).set_function(lambda: float(self.watch.is_connected))
        self.starting: set[str] = set()
        """Ids of the workers that were placed here, and whose pod does not exist yet."""
        self.last_start = 0.0
        """Monotonic time at which the latest worker was placed here."""
        self._instance = instance
        self._selector = selector(instance)
        self._leads = leads
        self._budget = Budget()
        self.refusals = Refusals()
        self._owner: Owner | None = None
        self._is_owner_known = False
        self._looking_for_owner = asyncio.Lock()
        self._using: Counter[str] = Counter()
        """Names of the Secrets of starts in progress."""
        self._removals: dict[str, asyncio.Task[None]] = {}
        """Removals of Secrets in progress, by their names."""
        self._waiting = (-1, 0)
        """Number of pods that wait for a node, after the generation of pods for which it was counted."""
        self._unused: frozenset[str] = frozenset()
        """Uids of the Secrets that no pod used at the latest sweep."""

    async def aclose(self) -> None:
        """Stop watching and close all connections. Safe to call twice."""
        await self.watch.aclose()
        await end_tasks(*self._removals.values())
        await self.api.aclose()
        with suppress(KeyError):
            metrics.backend_up.remove(self.name)

    def now_ms(self, own_ms: int) -> int:
        """Return the time of the server's clock, which sets the deadlines of pods, from that of this process."""
        return own_ms + self.api.clock_ahead_ms

    # Starts

    def place(self, worker_id: str) -> None:
        """Note that the pod of a worker is going to be created here."""
        self.starting.add(worker_id)
        self.last_start = asyncio.get_running_loop().time()

    @property
    def load(self) -> Load:
        """The number of pods here, of which some are going to be created."""
        if self._waiting[0] != self.watch.generation:  # because many starts may ask between two changes
            waiting = sum(not (one.has_node or one.is_deleted) for one in self.watch.pods.values())
            self._waiting = (self.watch.generation, waiting)
        pods = len(self.watch.pods) + len(self.starting)
        return Load(pods, self._waiting[1], self.last_start, outage=self.watch.outage)

    @contextmanager
    def using(self) -> Iterator[Callable[[Collection[str]], None]]:
        """Keep Secrets as long as a start needs them, also while it waits. Yields the function that names them."""
        used: Counter[str] = Counter()

        def use(names: Collection[str]) -> None:
            new = Counter(set(names) - used.keys())
            used.update(new)
            self._using.update(new)

        try:
            yield use
        finally:
            self._using -= used  # which keeps no zeros

    async def create(self, party: Party, secrets: Sequence[Document], pod: Document, made: set[str]) -> None:
        """Create a pod, after its Secrets. Does nothing where one of the name exists. Raises KubeError.

        What exists already was made by an earlier try, or by another controller for the same run. `made` has the names
        of the Secrets that earlier tries of this start have made, so that a further one costs one write.
        """
        for secret in secrets:
            name = secret["metadata"]["name"]
            if name not in made:
                await self._until_removed(name)
                await self._unless_done(party, self.api.create_secret, secret)
                made.add(name)
        name = pod["metadata"]["name"]
        await self._unless_done(party, self._create_pod, pod)
        if not await self.watch.until(lambda: name in self.watch.pods, APPEAR_SECONDS):
            raise KubeError(_CONFLICT, f"another pod has the name {name}")

    async def _create_pod(self, pod: Document) -> None:
        """Create a pod and know it, in one call that is not cut, so that it can be ended at once."""
        self.watch.note_created(await self.api.create_pod(pod))

    async def _unless_done(
        self, party: Party, create: Callable[[Document], Coroutine[Any, Any, object]], document: Document
    ) -> None:
        try:
            await self._write(party, lambda: create(document))
        except KubeError as error:
            if not error.is_done:
                raise

    async def _until_removed(self, secret: str) -> None:
        """Wait for a removal in progress of a Secret, which would take the next one of the same name."""
        while (removal := self._removals.get(secret)) is not None:
            await asyncio.wait({removal})

    # Ends

    async def delete_pod(self, party: Party, pod: PodView, grace_seconds: int) -> None:
        """Ask for the end of a pod; 0 removes it without waiting for its node."""
        await self._write(party, lambda: self.api.delete_pod(pod.name, pod.uid, grace_seconds))

    async def release_secrets(
        self, names: Iterable[str], *, party: Party = ENGINE, keep_for_deleted: bool = True
    ) -> None:
        """Remove those of the Secrets that no pod and no start in progress uses. Raises KubeError.

        A pod may also use Secrets of the operator, such as that of a registry. These have other names, and stay.
        """
        used = self._used_secrets(with_deleted=keep_for_deleted)
        removals = [self._removal(party, name) for name in names if name.startswith(SECRETS) and name not in used]
        for error in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def release_all_secrets(self) -> None:
        """Remove the Secrets that only pods use whose end was asked for. Raises KubeError.

        For a controller that ends its workers and after which nothing may sweep. Nodes need a Secret until the
        containers of a pod have started, and start none of a deleted pod.
        """
        if self._leads() and self.watch.is_complete:
            found = [one["metadata"]["name"] for one in await self.api.list_secrets(self._selector)]
            await self.release_secrets(found, keep_for_deleted=False)

    def _used_secrets(self, *, with_deleted: bool = True) -> set[str]:
        pods = (pod for pod in self.watch.pods.values() if with_deleted or not pod.is_deleted)
        in_pods = {name for pod in pods for name in pod.secrets}
        return in_pods | self._using.keys()

    def _removal(self, party: Party, name: str) -> asyncio.Task[None]:
        """Begin to remove a Secret, unless that is in progress."""
        removal = self._removals.get(name)
        if removal is None:
            removing = self._write(party, lambda: self.api.delete_secret(name))
            removal = asyncio.create_task(removing, name=f"remove-{name}")
            self._removals[name] = removal
            removal.add_done_callback(lambda _: self._removals.pop(name, None))
        return removal

    async def sweep_secrets(self) -> None:
        """Remove the Secrets that no pod uses now, nor did at the previous sweep. Raises KubeError.

        A Secret is made before its pod, perhaps by another controller, so a single look does not prove that it is left.
        """
        found = {one["metadata"]["uid"]: one["metadata"]["name"] for one in await self.api.list_secrets(self._selector)}
        used = self._used_secrets()
        unused = {uid: name for uid, name in found.items() if name not in used}
        left = [name for uid, name in unused.items() if uid in self._unused]
        self._unused = frozenset(unused)
        if left:
            log.info("removing Secrets that no worker uses", extra={"cluster": self.name, "secrets": left})
            await self.release_secrets(left)

    # The owner of all objects

    async def owner(self) -> Owner | None:
        """Return the owner of the objects; None if there is none and it cannot be made."""
        async with self._looking_for_owner:
            if not self._is_owner_known:
                await self._look_for_owner()
        return self._owner

    async def renew_owner(self) -> None:
        """Look for the owner again, because it may have been replaced. Raises KubeError."""
        async with self._looking_for_owner:
            await self._look_for_owner()

    async def _look_for_owner(self) -> None:
        before, was_known = self._owner, self._is_owner_known
        try:
            self._owner = await self.api.anchor() or await self._make_owner()
        except KubeError as error:
            if error.status != _NO_RIGHT:
                raise
            self._owner = None
        self._is_owner_known = True
        if self._owner is None and (before is not None or not was_known):
            log.warning(
                "the ConfigMap %s does not exist or may not be read, and may not be made: workers have no owner, so "
                "they stay when the installation is removed",
                ANCHOR,
                extra={"cluster": self.name},
            )

    async def _make_owner(self) -> Owner | None:
        log.warning(
            "there is no ConfigMap %s: making it as the owner of all workers", ANCHOR, extra={"cluster": self.name}
        )
        await self._unless_done(ENGINE, self._create_anchor, {})
        return await self.api.anchor()

    async def _create_anchor(self, _: Document) -> Owner:
        return await self.api.create_anchor(self._instance)

    async def remove_owner(self) -> None:
        """Remove the owner if this installation has made it, and no installation has objects here. Raises KubeError.

        For a controller that ends its workers. With an owner that still owns objects, these would be removed too.
        """
        owner = await self.api.anchor() if self._leads() else None
        if owner is None or owner.instance != self._instance:
            return
        of_all = manager_selector()
        if (await self.api.list_pods(of_all, limit=1)).pods or await self.api.list_secrets(of_all):
            log.info("the ConfigMap %s stays: it owns objects", ANCHOR, extra={"cluster": self.name})
            return
        await self._write(ENGINE, lambda: self.api.delete_anchor(owner.uid))
        self._owner, self._is_owner_known = None, False

    # Warnings

    async def warning(self, pod: PodView) -> str:
        """Return the message of the newest warning about a pod; empty if there is none. Raises KubeError."""
        return newest_warning(await self.api.list_events(pod.uid, EVENTS))

    async def _write(self, party: Party, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call that changes something, within the budget. Raises KubeError and NotLeading.

        It is for the party, or for the engine itself.
        """
        tries = 0
        while True:
            await self._budget.take(party)
            if not self._leads():
                raise NotLeading("this controller does not lead any longer")
            tries += 1
            try:
                return await uncut(call())
            except KubeError as error:
                if error.status != _OVERLOADED:
                    raise
                self._budget.pause(error.retry_after_seconds or OVERLOAD_SECONDS)
                if tries >= MAX_WRITE_TRIES:
                    raise


def newest_warning(events: Collection[Document]) -> str:
    """Return the message of the newest warning that says more than the state of a container."""
    warnings = [
        (str(one.get("lastTimestamp") or one.get("eventTime") or ""), str(one.get("message") or ""))
        for one in events
        if one.get("type") == "Warning"
    ]
    return max((one for one in warnings if not one[1].startswith(_SUMMARIES)), default=("", ""))[1]
