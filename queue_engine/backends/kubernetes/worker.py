"""The state of a worker in the backend, and the observation that follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from queue_engine.backends.base import REASON_SECONDS, Observed, Phase
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes.cluster import Cluster
from queue_engine.backends.kubernetes.explain import PULL_REASONS, explain, explain_gone
from queue_engine.backends.kubernetes.pod_view import PodView
from queue_engine.backends.turns import Party

WARNING_SECONDS = 30.0
"""Time of a start without a reason after which the cluster is asked for warnings, and the pause until the next time."""
MIN_MASKED_CHARACTERS = 6
"""Minimum length of a masked value: `true` and `8000` are in many messages, and no secrets."""
MASK = "***"
FAILED_PULL = "ErrImagePull"
"""The state of a container for a moment after a failed pull, whose message has the cause."""


@dataclass(eq=False)
class Worker:
    """A run of a worker: its pod, its start and its end."""

    endpoint_id: str
    worker_id: str
    run: int
    started_at_ms: int
    tenant: str = ""
    """The endpoint's tenant; empty for a worker of another controller."""
    cluster: Cluster | None = None
    """None until the start was placed."""
    pod: PodView | None = None
    progress: Explanation = field(default_factory=lambda: Explanation(Phase.STARTING))
    """The phase and the reason before its pod exists."""
    failure: Explanation | None = None
    """The end of a start that has failed, or of a pod that was removed."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Values of the endpoint's variables, which are masked in reasons. Empty for a worker of another controller."""
    secret_names: frozenset[str] = frozenset()
    """Names of the Secrets that its start makes."""
    making: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    end_at: float = 0.0
    """Monotonic time at which its pod is killed, while the worker is ending."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the pod has changed, or `end_at` has become earlier."""
    cause: str = ""
    """The latest message of a failed pull, or of a warning."""
    asked_at: float = 0.0
    """Monotonic time at which the cluster was asked for warnings, or the pod was first seen."""
    _last: Explanation | None = None
    _shown: Explanation | None = None
    _shown_at: float = 0.0

    @property
    def party(self) -> Party:
        """The endpoint for which its objects are made and removed."""
        return Party(self.tenant, self.endpoint_id)

    @property
    def is_making(self) -> bool:
        return self.making is not None and not self.making.done()

    @property
    def is_ending(self) -> bool:
        return self.ending is not None and not self.ending.done()

    def show(self, reason: Explanation) -> None:
        """Show why its pod does not exist yet."""
        self.progress = reason

    def note(self, cluster: Cluster, pod: PodView, now: float) -> None:
        """Note the state of the pod."""
        before, self.started_at_ms = self.pod, pod.created_at_ms or self.started_at_ms
        if before is None:
            self.asked_at = now
        elif _is_pulling(before) and not _is_pulling(pod):
            self.cause = ""
        self.cluster, self.pod, self._last = cluster, pod, None
        for container in (pod.main, pod.agent):
            if container.reason == FAILED_PULL and container.message:
                self.cause = container.message
        self.changed.set()

    def note_gone(self, pod: PodView, now_ms: int) -> None:
        """Note that the pod no longer exists. That is the worker's end, unless this controller has asked for it."""
        if not self.is_ending and self.failure is None:
            server_ms = now_ms if self.cluster is None else self.cluster.now_ms(now_ms)
            self.failure = explain_gone(explain(pod, server_ms, self.cause))
        self.pod, self._last = None, None
        self.changed.set()

    def note_cause(self, message: str, now: float) -> None:
        """Note a warning about the pod; empty if there is none."""
        self.asked_at = now
        if message:
            self.cause, self._last = message, None

    def lacks_reason(self, now: float) -> bool:
        """Return True if its start takes long, and the pod does not say why."""
        last = self._last
        if last is None or last.phase is not Phase.STARTING or self.is_ending or now - self.asked_at < WARNING_SECONDS:
            return False
        return last.reason is None or not self.cause

    def observed(self, now: float, now_ms: int) -> Observed:
        """Return the observation. During an outage of the cluster, what has not ended is unknown."""
        found = self.explained(now_ms)
        if found.phase is not Phase.ENDED and self.is_ending:
            found = Explanation(Phase.ENDING)
        outage = None if self.cluster is None else self.cluster.watch.outage
        if found.phase is not Phase.ENDED and outage is not None:
            found = Explanation(Phase.UNKNOWN, f"the cluster {outage}")
        shown = self._calmed(found, now)
        return Observed(
            self.run,
            shown.phase,
            self.started_at_ms,
            masked(shown.reason, self.secrets),
            shown.retry_helps,
            None if self.pod is None else self.pod.main.container_id,
        )

    def explained(self, now_ms: int) -> Explanation:
        """Return the phase and the reason, as far as the cluster has shown them."""
        if self.failure is not None:
            return self.failure
        if self.pod is None:
            return self.progress
        if self.cluster is not None:
            now_ms = self.cluster.now_ms(now_ms)
        if self._last is None or self.pod.is_deleted:  # the end of a pod can become late
            # The deadline of an end that this controller has made shorter may be past at once.
            self._last = explain(self.pod, 0 if self.is_ending else now_ms, self.cause)
        return self._last

    def _calmed(self, found: Explanation, now: float) -> Explanation:
        """Return what is shown: a reason is shown for REASON_SECONDS at least, unless the phase changes."""
        shown = self._shown
        if shown is not None and shown.reason and found.reason and now - self._shown_at < REASON_SECONDS:
            is_same = (shown.phase, shown.retry_helps) == (found.phase, found.retry_helps)
            found = shown if is_same else found
        if shown != found:
            self._shown, self._shown_at = found, now
        return found


def _is_pulling(pod: PodView) -> bool:
    return pod.main.reason in PULL_REASONS or pod.agent.reason in PULL_REASONS


def masked(reason: str | None, secrets: Iterable[str]) -> str | None:
    """Return a reason with `***` in place of the values."""
    if reason is None:
        return None
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= MIN_MASKED_CHARACTERS:
            reason = reason.replace(value, MASK)
    return reason
