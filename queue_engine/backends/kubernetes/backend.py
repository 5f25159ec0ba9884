"""The Kubernetes backend: workers as pods. The guarantees of each method are in `Backend`.

A start chooses a cluster, and makes the Secrets and then the pod in the background. After the end of its controller,
the next one finds the pods by their labels. The cluster accepts each name once, so a run is made once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from queue_engine.aio import end_tasks
from queue_engine.backends.base import STOP_MARGIN_SECONDS, BackendError, EndNotConfirmed, Observed, Phase, WorkerSpec
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes.cluster import Cluster, NotLeading
from queue_engine.backends.kubernetes.ending import Ender
from queue_engine.backends.kubernetes.explain import explain_refusal
from queue_engine.backends.kubernetes.kube_api import Document, KubeApi, KubeError, Owner
from queue_engine.backends.kubernetes.names import Identity
from queue_engine.backends.kubernetes.output import environment, follow
from queue_engine.backends.kubernetes.placing import Placing
from queue_engine.backends.kubernetes.pod_view import PodView
from queue_engine.backends.kubernetes.refusals import Demand
from queue_engine.backends.kubernetes.sites import AWAY, Load, Place
from queue_engine.backends.kubernetes.specs import POD_MARGIN_SECONDS
from queue_engine.backends.kubernetes.watch import NO_RESPONSE, RESYNC_SECONDS, Changes
from queue_engine.backends.kubernetes.worker import Worker
from queue_engine.backends.placement import SKIPPED, Later, Refusal, Shortage
from queue_engine.backends.turns import ENGINE, Party
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.ids import is_worker_id

log = logging.getLogger(__name__)

MAX_STARTING = 40
"""Simultaneous starts. Their work is done on many machines, and the writes to each cluster have a budget."""
LIST_WAIT_SECONDS = 10.0
"""Maximum time that a start waits for the first lists of pods."""
EARLIER_SECONDS = 60.0
"""Maximum time until a pod of an earlier run of the worker is removed."""
WARNINGS_AT_ONCE = 4
"""Maximum number of simultaneous questions for warnings about pods."""
RELEASE_SECONDS = 10.0
"""Maximum time for the removal of Secrets at the end of the controller."""
SHORTAGES_KEPT = 1000
"""Number of shortages that are remembered. A worker waits for a resource whose shortage is forgotten."""
_NO_POD = "the worker's pod does not exist"


class Documents(Protocol):
    """The documents of a worker's objects, as the API takes them."""

    def refusal(self, spec: WorkerSpec) -> str | None:
        """Return the reason why no cluster can run such a worker; else None."""
        ...

    def secrets(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> tuple[Document, ...]:
        """Return the Secrets that the pod uses, in the order of their creation."""
        ...

    def pod(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> Document:
        """Return the pod."""
        ...


class Places(Protocol):
    """The choice of a cluster and its nodes. Pure."""

    def place(
        self, resources: Sequence[Resource], recent: Mapping[Resource, Shortage], load: Mapping[str, Load], now: float
    ) -> Place | Later | Refusal:
        """Return the place of the next worker, the reason why there is none yet, or why there can be none."""
        ...

    def at(self, resource: Resource) -> str | None:
        """Return the name of the cluster of a resource; None if there is none."""
        ...


@dataclass(frozen=True)
class KubernetesOptions:
    """The settings of the backend."""

    instance: str
    pod_margin_seconds: int = POD_MARGIN_SECONDS
    """Time after the grace period at which a pod is killed."""
    force_delete_after_seconds: float = 300.0
    """Time after its deadline at which the cluster forgets a pod whose node does not confirm its end."""
    resync_seconds: float = RESYNC_SECONDS
    """Maximum time between two lists of all pods."""
    max_starting: int = MAX_STARTING
    ends_workers: bool = False
    """True if the workers end with their controller, so that no other one removes what it leaves."""


class KubernetesBackend:
    """Runs workers as pods. `clusters` has a function by the name of each cluster, which connects to it.

    The functions are called in the event loop.
    """

    def __init__(
        self,
        clusters: Mapping[str, Callable[[], KubeApi]],
        options: KubernetesOptions,
        documents: Documents,
        places: Places,
        *,
        epoch_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._connect = clusters
        self._options = options
        self._documents = documents
        self._places = places
        self._epoch_seconds = epoch_seconds
        self._clusters: dict[str, Cluster] = {}
        self._workers: dict[str, Worker] = {}
        self._recent: dict[tuple[str | None, Resource], Shortage] = {}
        """Shortages of a resource by their endpoint; None means all endpoints."""
        self._short: set[str] = set()
        """Uids of pods whose shortage has been noted."""
        self._sweeps: dict[str, asyncio.Task[None]] = {}
        self._warnings: dict[str, asyncio.Task[None]] = {}
        self._placing = Placing(self._decide, self._begin_start)
        self._opened_at: float | None = None
        """Monotonic time at which the clusters were connected to; None while they are not."""
        self._ender = Ender(
            self._before_removal, self._now_ms, force_delete_after_seconds=options.force_delete_after_seconds
        )
        self.before_removal: BeforeRemoval = nothing_before_removal
        self.leads: Callable[[], bool] = _never
        """Set by the controller: see `AsksForLeadership`."""

    @property
    def outlives_controller(self) -> bool:
        return True

    @property
    def agents_over_https(self) -> bool:
        return True

    @property
    def max_starting(self) -> int:
        return self._options.max_starting

    def refusal(self, spec: WorkerSpec) -> str | None:
        return self._documents.refusal(spec)

    async def start(self, spec: WorkerSpec) -> None:
        self._check(spec)
        await self._listed()
        # There is no await below, so that a concurrent call cannot start the same worker.
        known = self._workers.get(spec.worker_id)
        if known is not None and known.run >= spec.run:
            return
        if known is not None and known.observed(self._now(), self._now_ms()).alive:
            raise BackendError("an earlier run of the worker has not ended")
        worker = Worker(spec.endpoint_id, spec.worker_id, spec.run, self._now_ms(), spec.tenant)
        worker.secrets = frozenset(
            value for name, value in spec.environment.items() if name not in spec.plain_variables
        )
        self._workers[spec.worker_id] = worker
        worker.making = asyncio.create_task(self._make(worker, spec), name=f"make-{spec.worker_id}")

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        await self._end(worker_id, grace_seconds, self._options.pod_margin_seconds)

    async def kill(self, worker_id: str) -> None:
        await self._end(worker_id, 0, 0)

    async def observe(self) -> Mapping[str, Observed] | None:
        self._open()
        if not self._is_listed():
            return None
        now, now_ms = self._now(), self._now_ms()
        found = {one.worker_id: one.observed(now, now_ms) for one in self._workers.values()}
        self._ask_for_warnings(now)
        return found

    async def aclose(self, grace_seconds: float) -> None:  # noqa: ARG002 - no worker ends with its controller
        tasks = [task for one in self._workers.values() for task in (one.making, one.ending) if task is not None]
        await end_tasks(*tasks, *self._sweeps.values(), *self._warnings.values())
        if self._options.ends_workers:
            await asyncio.gather(*map(self._release_all, self._clusters.values()))
        for cluster in self._clusters.values():
            await cluster.aclose()
        self._clusters.clear()
        self._opened_at = None
        self._workers.clear()
        self._short.clear()

    # The output of containers

    async def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        """Yield the output of a worker's container: see `ContainerLogs`."""
        cluster, pod = self._pod_of(worker_id, run)
        async with aclosing(follow(cluster, pod, since_ns)) as entries:
            async for entry in entries:
                yield entry

    async def environment(self, worker_id: str, run: int) -> Mapping[str, str]:
        """Return the variables of a worker's container: see `ContainerLogs`."""
        return await environment(*self._pod_of(worker_id, run))

    def _pod_of(self, worker_id: str, run: int) -> tuple[Cluster, PodView]:
        worker = self._workers.get(worker_id)
        if worker is None or worker.run != run or worker.pod is None or worker.cluster is None:
            raise BackendError(_NO_POD)
        return worker.cluster, worker.pod

    # Starts

    def _check(self, spec: WorkerSpec) -> None:
        if not is_worker_id(spec.worker_id):
            raise BackendError("the worker id is not valid")
        if (refusal := self.refusal(spec)) is not None:
            raise BackendError(refusal)

    async def _listed(self) -> None:
        """Wait until the pods of the clusters were listed once. Raises BackendError if all of them are away."""
        self._open()
        until = self._now() + LIST_WAIT_SECONDS
        clusters = list(self._clusters.values())
        for cluster in clusters:
            if not self._is_listed():
                await cluster.watch.until_complete(max(0.0, until - self._now()))
        if not any(one.watch.is_complete for one in clusters):
            problem = clusters[0].watch.problem or "it does not respond"
            raise BackendError(f"the pods of the cluster {clusters[0].name} are not listed yet: {problem}")

    def _is_listed(self) -> bool:
        """Return True if the pods of a cluster were listed, and those of the others too unless they are away."""
        watches = [one.watch for one in self._clusters.values()]
        is_late = self._opened_at is not None and self._now() - self._opened_at >= LIST_WAIT_SECONDS
        is_settled = is_late or all(one.is_complete or one.problem is not None for one in watches)
        return is_settled and any(one.is_complete for one in watches)

    @property
    def unlisted(self) -> frozenset[str]:
        """Names of the clusters that were not listed yet: see `ListsInParts`."""
        return frozenset(name for name, one in self._clusters.items() if not one.watch.is_complete)

    @property
    def problem(self) -> str | None:
        """Why no cluster responds: see `TellsProblem`. While some do, workers of the others have the reason."""
        watches = [one.watch for one in self._clusters.values()]
        if not watches or any(one.is_connected for one in watches):
            return None
        if (failed := next((one for one in watches if one.problem is not None), None)) is not None:
            return f"the cluster {failed.outage}" if failed.problem and failed.problem.status else str(failed.problem)
        is_late = self._opened_at is not None and self._now() - self._opened_at >= LIST_WAIT_SECONDS
        return f"the cluster {NO_RESPONSE}" if is_late else None

    def unlisted_reason(self, resources: Sequence[Resource] | None) -> str | None:
        """Return why a worker may exist that `observe` does not return: see `ListsInParts`."""
        if not (unlisted := self.unlisted):
            return None
        if resources is None:
            return f"a cluster {self._outage_of(next(iter(unlisted)))}"
        for one in resources:
            if (name := self._places.at(one)) is not None and name in unlisted:
                return AWAY.format(region=one.region, outage=self._outage_of(name))
        return None

    def _outage_of(self, name: str) -> str:
        """Return what a cluster that was not listed yet does in place of a response."""
        return self._clusters[name].watch.outage or NO_RESPONSE

    async def _make(self, worker: Worker, spec: WorkerSpec) -> None:
        """Make the objects of a worker. A failure is its end, and leaves no Secret that no other worker uses."""
        try:
            await self._remove_earlier(worker)
            place = await self._placing.place(worker, spec)
            worker.cluster = cluster = self._clusters[place.cluster]
            await self._create(cluster, worker, spec, place)
        except NotLeading as error:
            log.info("a start is left to the next controller: %s", error, extra={"worker": worker.worker_id})
            self._forget_start(worker)
        except BackendError as error:
            worker.failure = Explanation(Phase.ENDED, str(error))
        except Exception:
            log.exception("a start has failed", extra={"worker": worker.worker_id})
            worker.failure = Explanation(Phase.ENDED, "the start has failed by an error of the controller")
        finally:
            for cluster in self._clusters.values():  # it may have been placed in the moment of its end
                cluster.starting.discard(worker.worker_id)

    def _forget_start(self, worker: Worker) -> None:
        """Forget a start that nothing continues. This controller may lead again before it has closed the backend."""
        if worker.pod is None and self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]

    async def _remove_earlier(self, worker: Worker) -> None:
        """Remove the pods of the worker's earlier runs, which have ended. Raises BackendError."""
        worker.end_at = self._now()
        ends = [self._ender.end(cluster, pod, worker) for cluster, pod in self._pods_of(worker, below=worker.run)]
        try:
            async with asyncio.timeout(EARLIER_SECONDS):
                await asyncio.gather(*ends)
        except TimeoutError:
            raise BackendError("the pod of an earlier run cannot be removed") from None

    def _decide(self, spec: WorkerSpec) -> Place | Later | Refusal:
        load = {name: cluster.load for name, cluster in self._clusters.items()}
        return self._places.place(spec.resources, self._shortages(spec), load, self._now())

    def _begin_start(self, worker: Worker, place: Place) -> None:
        self._clusters[place.cluster].place(worker.worker_id)

    def _shortages(self, spec: WorkerSpec) -> dict[Resource, Shortage]:
        """Return the latest shortages that concern a worker."""
        found: dict[Resource, Shortage] = {}
        for resource in spec.resources:
            both = (self._recent.get((whose, resource)) for whose in (None, spec.endpoint_id))
            if known := [one for one in both if one is not None]:
                found[resource] = max(known, key=lambda one: one.at)
        return found

    async def _create(self, cluster: Cluster, worker: Worker, spec: WorkerSpec, place: Place) -> None:
        """Create the Secrets and the pod, again and again while the cluster does not take them yet."""
        refused = await self._refusal_of(cluster, worker, spec, place)
        if refused is not None:
            worker.failure = refused
            await self._release(cluster, worker.secret_names, worker.party)

    async def _refusal_of(self, cluster: Cluster, worker: Worker, spec: WorkerSpec, place: Place) -> Explanation | None:
        """Create the objects of a worker. Return the reason if the cluster never takes them."""
        made: set[str] = set()
        of_owner: Owner | None = None
        demand = Demand(worker.party, spec.revision, place.resource)
        with cluster.using() as use, cluster.refusals.tries(demand, worker.show) as tries:
            while True:
                await tries.turn()
                try:
                    owner = await cluster.owner()
                    if owner != of_owner:  # its objects were removed with it
                        made.clear()
                    of_owner = owner
                    secrets = self._documents.secrets(spec, place, owner)
                    worker.secret_names = frozenset(one["metadata"]["name"] for one in secrets)
                    use(worker.secret_names)
                    await cluster.create(worker.party, secrets, self._documents.pod(spec, place, owner), made)
                except KubeError as error:
                    refused = explain_refusal(error)
                else:
                    tries.taken()
                    return None
                if refused.phase is Phase.ENDED:
                    return refused
                tries.refused(refused)

    async def _release(self, cluster: Cluster, secrets: Iterable[str], party: Party) -> None:
        try:
            await cluster.release_secrets(secrets, party=party)
        except BackendError as error:
            log.info("Secrets are left to the next sweep: %s", error, extra={"cluster": cluster.name})

    async def _release_all(self, cluster: Cluster) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await cluster.release_all_secrets()
                await cluster.remove_owner()
        except (BackendError, TimeoutError) as error:
            log.warning("objects of workers may be left: %s", error, extra={"cluster": cluster.name})

    # Ends

    async def _end(self, worker_id: str, grace_seconds: float, margin_seconds: float) -> None:
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        end_at = self._now() + grace_seconds + margin_seconds
        if worker.ending is None or worker.ending.done():
            worker.end_at = end_at
            worker.ending = asyncio.create_task(self._end_and_remove(worker), name=f"end-{worker_id}")
            worker.ending.add_done_callback(_note_error)
        elif end_at < worker.end_at:
            worker.end_at = end_at
            worker.changed.set()
        ending = worker.ending
        await asyncio.wait({ending}, timeout=grace_seconds + STOP_MARGIN_SECONDS)
        if not ending.done():
            raise EndNotConfirmed("the worker's pod does not end")
        if ending.cancelled():
            raise BackendError("the controller does not lead any longer")
        ending.result()

    async def _end_and_remove(self, worker: Worker) -> None:
        if worker.making is not None:
            worker.making.cancel()
            await asyncio.wait({worker.making})  # not cut, because a pod that is just being created must be found
        pods = list(self._pods_of(worker, below=worker.run + 1))
        await asyncio.gather(*(self._ender.end(cluster, pod, worker) for cluster, pod in pods))
        for cluster, pod in pods:
            await self._release(cluster, pod.secrets, worker.party)
        if worker.cluster is not None:
            await self._release(worker.cluster, worker.secret_names, worker.party)
        if self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]

    def _pods_of(self, worker: Worker, *, below: int) -> list[tuple[Cluster, PodView]]:
        """Return the pods of a worker's runs before `below`."""
        return [
            (cluster, pod)
            for cluster in self._clusters.values()
            for pod in cluster.watch.pods.values()
            if pod.identity is not None and pod.identity.worker_id == worker.worker_id and pod.identity.run < below
        ]

    async def _before_removal(self, worker_id: str, run: int) -> None:
        await self.before_removal(worker_id, run)

    # Changes that the clusters tell

    def _open(self) -> None:
        """Connect to the clusters, and begin to watch them, unless that is done."""
        if self._opened_at is None:
            self._opened_at = self._now()
        for name, connect in self._connect.items():
            if name not in self._clusters:
                self._clusters[name] = self._connected(name, connect())
            self._clusters[name].watch.start()

    def _connected(self, name: str, api: KubeApi) -> Cluster:
        changes = Changes(
            on_change=partial(self._note_change, name),
            on_removal=partial(self._note_removal, name),
            on_list=partial(self._begin_sweep, name),
        )
        return Cluster(
            name,
            api,
            self._options.instance,
            changes,
            leads=self._leads,
            resync_seconds=self._options.resync_seconds,
        )

    def _leads(self) -> bool:
        return self.leads()

    def _note_change(self, name: str, pod: PodView) -> None:
        self._note_shortage(pod)
        if pod.identity is None:
            return
        worker = self._worker_of(pod.identity, pod.created_at_ms)
        if worker.run == pod.identity.run:
            worker.note(self._clusters[name], pod, self._now())

    def _worker_of(self, identity: Identity, created_at_ms: int) -> Worker:
        """Return the worker of a pod. A pod of a later run than the known one was made by another controller."""
        worker = self._workers.get(identity.worker_id)
        if worker is None or worker.run < identity.run:
            worker = Worker(identity.endpoint_id, identity.worker_id, identity.run, created_at_ms or self._now_ms())
            self._workers[identity.worker_id] = worker
        return worker

    def _note_removal(self, name: str, pod: PodView) -> None:
        self._short.discard(pod.uid)
        self._placing.hasten()
        self._clusters[name].refusals.hasten()
        worker = None if pod.identity is None else self._workers.get(pod.identity.worker_id)
        if worker is None or pod.identity is None:
            return
        if worker.run == pod.identity.run:
            worker.note_gone(pod, self._now_ms())
        worker.changed.set()

    def _note_shortage(self, pod: PodView) -> None:
        """Remember that a resource has no free node, so that other workers use the next one of their list.

        Unless GPUs are missing, that is for its endpoint only, because what it asks for besides may be what is missing.
        """
        resource = pod.resource
        if resource is None or pod.identity is None:
            return
        if pod.has_node:
            self._short.discard(pod.uid)
            for whose in (None, pod.identity.endpoint_id):
                self._recent.pop((whose, resource), None)
        elif pod.is_unschedulable and pod.uid not in self._short:
            self._short.add(pod.uid)
            key = (None if pod.lacks_gpus else pod.identity.endpoint_id, resource)
            self._recent[key] = _shortage(self._recent.pop(key, None), pod, self._now())
            if len(self._recent) > SHORTAGES_KEPT:
                del self._recent[next(iter(self._recent))]

    # Sweeps and warnings

    def _begin_sweep(self, name: str) -> None:
        """Begin a sweep, unless the previous one is in progress."""
        if name not in self._sweeps or self._sweeps[name].done():
            self._sweeps[name] = asyncio.create_task(self._sweep(self._clusters[name]), name=f"sweep of {name}")

    async def _sweep(self, cluster: Cluster) -> None:
        """Remove the pods that are no worker, or not its latest run, and the Secrets that no pod uses."""
        try:
            await cluster.renew_owner()
            for pod in [one for one in cluster.watch.pods.values() if self._is_left(one)]:
                log.warning("removing a pod that is no worker", extra={"cluster": cluster.name, "pod": pod.name})
                await cluster.delete_pod(ENGINE, pod, self._options.pod_margin_seconds)
            await cluster.sweep_secrets()
        except BackendError as error:
            log.info("a sweep is left to the next one: %s", error, extra={"cluster": cluster.name})
        except Exception:
            log.exception("a sweep failed", extra={"cluster": cluster.name})

    def _is_left(self, pod: PodView) -> bool:
        if pod.is_deleted:
            return False
        if pod.identity is None:
            return True
        worker = self._workers.get(pod.identity.worker_id)
        return worker is not None and pod.identity.run < worker.run

    def _ask_for_warnings(self, now: float) -> None:
        """Ask the clusters about some of the pods that take long to start and do not say why."""
        running = {one for one, task in self._warnings.items() if not task.done()}
        self._warnings = {one: self._warnings[one] for one in running}
        lacking = (one for one in self._workers.values() if one.worker_id not in running and one.lacks_reason(now))
        for worker, _ in zip(lacking, range(WARNINGS_AT_ONCE - len(running)), strict=False):
            self._warnings[worker.worker_id] = asyncio.create_task(self._warn(worker), name=f"warn-{worker.worker_id}")

    async def _warn(self, worker: Worker) -> None:
        cluster, pod, message = worker.cluster, worker.pod, ""
        if cluster is None or pod is None:
            return
        try:
            message = await cluster.warning(pod)
        except KubeError as error:
            log.debug("no warnings can be read: %s", error)
        if worker.pod is not None and worker.pod.uid == pod.uid:
            worker.note_cause(message, self._now())

    def _now_ms(self) -> int:
        return int(self._epoch_seconds() * 1000)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _never() -> bool:
    return False


def _shortage(before: Shortage | None, pod: PodView, now: float) -> Shortage:
    """Return the shortage after one more pod without a node. While the resource is skipped, it stays as it is."""
    if before is not None and now - before.at < SKIPPED.delay_after(before.failures, luck=1.0):
        return before
    failures = 1 if before is None else before.failures + 1
    missing = f"free {pod.gpu_resource}" if pod.lacks_gpus else "place for a worker of the endpoint"
    return Shortage(f"no node has {missing}", failures, now)


def _note_error(ending: asyncio.Task[None]) -> None:
    """Note an error that no caller waits for any longer."""
    if not ending.cancelled() and (error := ending.exception()) is not None:
        log.debug("a worker cannot be ended: %s", error)
