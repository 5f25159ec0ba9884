"""The end of a pod: its agent drains, then the endpoint's container is stopped, and the node removes both."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from queue_engine.aio import wait_for_event
from queue_engine.backends.container_logs import BeforeRemoval
from queue_engine.backends.kubernetes.cluster import Cluster
from queue_engine.backends.kubernetes.explain import is_late
from queue_engine.backends.kubernetes.pod_view import PodView, State
from queue_engine.backends.kubernetes.worker import Worker

log = logging.getLogger(__name__)

MAIN_STOP_SECONDS = 10
"""Time for the endpoint's container where no agent drains. Many programs ignore SIGTERM as the first process."""
CONFIRM_SECONDS = 10.0
"""Time after its deadline within which a node should confirm the end of a pod."""
LOOK_SECONDS = 5.0
"""Maximum time between two looks at a pod that is ending, because its end may become late without a change."""
MIN_GRACE_SECONDS = 1
"""The shortest end that a node confirms. With 0 the server forgets the pod at once, and its containers may run on."""
FORGET = 0


@dataclass
class _Asked:
    """The latest request for the end of a pod."""

    end_at: float
    at: float
    grace_seconds: int
    is_shorter: bool
    """True if an earlier request gave more time. Kubelets before 1.22 do not notice a shorter one."""

    def is_overdue(self, now: float) -> bool:
        return now - self.at > self.grace_seconds + CONFIRM_SECONDS


class Ender:
    """Ends pods. `now_ms` returns the time in epoch milliseconds."""

    def __init__(
        self, before_removal: BeforeRemoval, now_ms: Callable[[], int], *, force_delete_after_seconds: float
    ) -> None:
        self._before_removal = before_removal
        self._now_ms = now_ms
        self._force_after_ms = 1000 * force_delete_after_seconds

    async def end(self, cluster: Cluster, pod: PodView, worker: Worker) -> None:
        """Ask for the end of a pod until it is removed, by `worker.end_at`, which may become earlier. Raises KubeError.

        The output of its container is read to the end before the removal, as far as the node lets it.
        """
        name, uid = pod.name, pod.uid
        asked: _Asked | None = None
        is_read = False
        while (found := cluster.watch.pods.get(name)) is not None and found.uid == uid:
            worker.changed.clear()
            if found.main.state is State.TERMINATED and not is_read:
                is_read = True
                await self._read(found)
            asked = await self._ask(cluster, found, worker, asked)
            await wait_for_event(worker.changed, LOOK_SECONDS)

    async def _ask(self, cluster: Cluster, pod: PodView, worker: Worker, asked: _Asked | None) -> _Asked:
        now = asyncio.get_running_loop().time()
        end_at = worker.end_at
        if pod.agent.state is State.TERMINATED and asked is None:  # nothing drains
            end_at = min(end_at, now + MAIN_STOP_SECONDS)
        is_forced = self._is_overdue(cluster, pod, asked, now)
        if is_forced:
            log.warning(
                "a pod is removed although its node has not confirmed its end",
                extra={"cluster": cluster.name, "pod": pod.name},
            )
        if is_forced or (pod.is_deleted and pod.has_ended):  # a kubelet may take a minute to clean up
            await cluster.delete_pod(worker.party, pod, FORGET)
            return _Asked(-math.inf, now, FORGET, is_shorter=False)
        is_repeated = asked is not None and not pod.is_deleted and now - asked.at > CONFIRM_SECONDS
        if asked is not None and end_at >= asked.end_at and not is_repeated:
            return asked
        grace_seconds = max(MIN_GRACE_SECONDS, math.ceil(end_at - now))
        await cluster.delete_pod(worker.party, pod, grace_seconds)
        is_shorter = grace_seconds < pod.deletion_grace_seconds and not is_late(pod, cluster.now_ms(self._now_ms()))
        return _Asked(end_at, now, grace_seconds, is_shorter=is_shorter)

    def _is_overdue(self, cluster: Cluster, pod: PodView, asked: _Asked | None, now: float) -> bool:
        """Return True if no node will confirm the end of the pod."""
        if asked is not None and asked.is_shorter:  # a shorter end counts from the first request, so it may be past
            return asked.is_overdue(now)
        now_ms = cluster.now_ms(self._now_ms())
        return pod.deletion_at_ms is not None and now_ms - pod.deletion_at_ms > self._force_after_ms

    async def _read(self, pod: PodView) -> None:
        if pod.identity is not None:
            await self._before_removal(pod.identity.worker_id, pod.identity.run)
