"""The states of pods in words. Pure.

The first rule that fits a pod counts: its node is lost, it was evicted, one of its containers has ended, it was
deleted, one of its containers cannot start, it has no node. A message of the cluster follows after a colon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from queue_engine.backends.base import Phase
from queue_engine.backends.docker.explain import Explanation, explain_failed_pull
from queue_engine.backends.docker.progress import short
from queue_engine.backends.kubernetes.kube_api import KubeError
from queue_engine.backends.kubernetes.pod_view import ContainerView, PodView, State
from queue_engine.domain.agent_protocol import container_end
from queue_engine.processes.process_groups import describe_exit

LATE_SECONDS = 60.0
"""Time after its grace period from which on the end of a pod is not waited for any longer. Kubelets take about 10 s."""
DELETED = "deleted by somebody else"
UNCONFIRMED = f"{DELETED}; its node has not confirmed the end"
LOST = "the node is lost"
PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
_BACK_OFF = "ImagePullBackOff"
_START_REASONS = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
)
_CANNOT_RUN = ("StartError", "ContainerCannotRun")
_SHUTDOWN = ("Shutdown", "NodeShutdown", "Terminated", "TerminationByKubelet")
_PREEMPTED = ("Preempting", "PreemptionByScheduler", "PreemptionByKubeScheduler")
_NODE_LOST = ("NodeLost", "DeletionByPodGC")
_BY_TAINT = "DeletionByTaintManager"
_DISK_WORDS = ("exceeded its local ephemeral storage limit", "ephemeral local storage usage exceeds the total limit")
_SHELL_SIGNAL_STATUS = 128
_MAX_SIGNAL = 64
_QUOTA_WORDS = "exceeded quota"
_FORBIDDEN = 403
_INVALID = 422


def explain(pod: PodView, now_ms: int, cause: str = "") -> Explanation:
    """Return the phase of a pod and, unless it runs, the reason.

    `cause` is the latest message of a failed pull, or of a warning about the pod, because the kubelet's state of a
    container has it for a moment only.
    """
    rules: tuple[Callable[[], Explanation | None], ...] = (
        lambda: Explanation(Phase.ENDED, LOST) if is_lost(pod, now_ms) else None,
        lambda: _interrupted(pod, now_ms),
        lambda: _ended(pod),
        lambda: _deleted(pod, now_ms),
        lambda: _refused_by_node(pod),
        lambda: _blocked(pod, cause),
        lambda: _without_node(pod),
    )
    for rule in rules:
        if (found := rule()) is not None:
            return found
    if pod.agent.state is pod.main.state is State.RUNNING:
        return Explanation(Phase.RUNNING)
    return Explanation(Phase.STARTING, short(cause) or None)


def explain_gone(last: Explanation) -> Explanation:
    """Return the end of a pod that no longer exists, and whose end this controller has not asked for."""
    is_known = last.phase in (Phase.ENDED, Phase.ENDING) and last.reason is not None
    return Explanation(Phase.ENDED, last.reason if is_known else DELETED, last.retry_helps)


def explain_refusal(error: KubeError) -> Explanation:
    """Return the phase of a start whose pod or Secret the server refuses: it waits, is tried again, or has failed."""
    if error.status == _FORBIDDEN and _QUOTA_WORDS in str(error):
        return Explanation(Phase.WAITING, f"waits for the quota of the namespace: {error}")
    if error.is_transient:
        # Waiting, because a start that is refused must take no place that others could start in.
        return Explanation(Phase.WAITING, f"the cluster does not take it yet: {error}")
    return Explanation(Phase.ENDED, f"the cluster refuses the worker: {error}", retry_helps=error.status != _INVALID)


def is_late(pod: PodView, now_ms: int) -> bool:
    """Return True if the end of a pod was not confirmed long after its deadline, because its node is lost or slow."""
    return pod.deletion_at_ms is not None and now_ms - pod.deletion_at_ms > 1000 * LATE_SECONDS


def is_lost(pod: PodView, now_ms: int) -> bool:
    """Return True if the node of a pod does not respond.

    That the pod is late does not prove it: kubelets of loaded nodes are late too. The cluster has to say so, in its
    reasons or by its mark.
    """
    reasons = (pod.reason, "" if pod.disruption is None else pod.disruption.reason)
    if any(reason in _NODE_LOST for reason in reasons):
        return True
    return is_late(pod, now_ms) and not pod.has_stopped and (pod.is_cut_off or _BY_TAINT in reasons)


def _deleted(pod: PodView, now_ms: int) -> Explanation | None:
    """Explain an end that somebody else has asked for."""
    if not pod.is_deleted:
        return None
    if pod.has_stopped:
        return Explanation(Phase.ENDED, DELETED)
    return Explanation(Phase.ENDED, UNCONFIRMED) if is_late(pod, now_ms) else Explanation(Phase.ENDING, DELETED)


def _interrupted(pod: PodView, now_ms: int) -> Explanation | None:
    """Explain an end that the cluster has caused."""
    reason, message = pod.reason, pod.message
    if pod.disruption is not None and pod.disruption.is_true and reason != "Evicted":
        reason, message = pod.disruption.reason, pod.disruption.message
    if (words := _interruption(pod, reason, message)) is None:
        return None
    has_ended = pod.has_ended or pod.main.state is State.TERMINATED or is_late(pod, now_ms)
    return Explanation(Phase.ENDED if has_ended else Phase.ENDING, words)


def _interruption(pod: PodView, reason: str, message: str) -> str | None:
    if reason in _PREEMPTED:
        return _with("preempted", message)
    if reason in _SHUTDOWN:
        return _with("the node was shut down", message)
    is_evicted = reason in ("Evicted", "EvictionByEvictionAPI", _BY_TAINT)
    if is_evicted and any(words in message for words in _DISK_WORDS):
        return f"the container used more than its {_size(pod.disk_limit)} of disk"
    return _with("evicted", message) if is_evicted else None


def _ended(pod: PodView) -> Explanation | None:
    """Explain the end of the container that has ended first, unless it was ended with the pod."""
    ends = [end for end in (_end_of_main(pod), _end_of_agent(pod)) if end is not None]
    # Times are whole seconds, so an end in the second of the request is taken as its effect.
    before = [one for one in ends if pod.end_asked_at_ms is None or one[0] < pod.end_asked_at_ms]
    return min(before, key=lambda one: one[0])[1] if before else None


def _end_of_main(pod: PodView) -> tuple[int, Explanation] | None:
    main = pod.main
    if main.state is not State.TERMINATED:
        return None
    limit = f" (limit {_size(pod.memory_limit)})" if pod.memory_limit else ""
    words = _common_end(main, "the container", limit) or container_end(_status_of(main))
    return main.finished_at_ms, Explanation(Phase.ENDED, words)


def _end_of_agent(pod: PodView) -> tuple[int, Explanation] | None:
    agent = pod.agent
    if agent.state is not State.TERMINATED:
        return None
    words = _common_end(agent, "the agent", "") or describe_exit("agent", _status_of(agent))
    return agent.finished_at_ms, Explanation(Phase.ENDED, words)


def _common_end(container: ContainerView, what: str, limit: str) -> str | None:
    if container.reason in _CANNOT_RUN:
        return _with(f"{what} cannot be started", container.message)
    return f"{what} ran out of memory{limit}" if container.reason == "OOMKilled" else None


def _status_of(container: ContainerView) -> int:
    """Return the exit status, negative for a signal."""
    status = container.exit_code
    is_signal = _SHELL_SIGNAL_STATUS < status <= _SHELL_SIGNAL_STATUS + _MAX_SIGNAL
    return _SHELL_SIGNAL_STATUS - status if is_signal else status


def _refused_by_node(pod: PodView) -> Explanation | None:
    """Explain the end of a pod whose containers were never made, such as one that its node did not admit."""
    if not pod.has_ended:
        return None
    return Explanation(Phase.ENDED, _with("the node does not take it", pod.message or pod.reason))


def _blocked(pod: PodView, cause: str) -> Explanation | None:
    """Explain a container that cannot start."""
    return next(iter(_blocks(pod, cause)), None)


def _blocks(pod: PodView, cause: str) -> Iterator[Explanation]:
    for container, is_agent in ((pod.main, False), (pod.agent, True)):
        if container.state is State.WAITING:
            what, image = ("the agent", "the agent's image") if is_agent else ("the container", "the image")
            if container.reason == "InvalidImageName":
                yield Explanation(Phase.ENDED, _with(f"{image} name is not valid", container.message), False)
            if container.reason == "ErrImageNeverPull":
                yield Explanation(Phase.ENDED, f"{image} is not on the node", False)
            if container.reason in PULL_REASONS:
                found = _failed_pull(container, cause, has_credential=pod.has_credential and not is_agent)
                yield _of_agent(found) if is_agent else found
            if container.reason in _START_REASONS:
                yield Explanation(Phase.ENDED, _with(f"{what} cannot be started", container.message or cause))


def _failed_pull(container: ContainerView, cause: str, *, has_credential: bool) -> Explanation:
    """Explain a failed pull. The kubelet repeats it, so only a reason that lasts is an end."""
    message = (cause or container.message) if container.reason == _BACK_OFF else container.message
    failed = explain_failed_pull(message, has_credential=has_credential)
    is_end = failed.is_refusal or not failed.retry_helps
    return Explanation(Phase.ENDED if is_end else Phase.STARTING, str(failed), failed.retry_helps)


def _of_agent(found: Explanation) -> Explanation:
    return Explanation(found.phase, f"the agent's image is missing: {found.reason}", found.retry_helps)


def _without_node(pod: PodView) -> Explanation | None:
    if pod.scheduled is None or pod.scheduled.is_true:
        return None
    what = f"waits for {pod.gpus}" if pod.gpus else "no node can take it"
    return Explanation(Phase.WAITING, _with(what, pod.scheduled.message))


def _size(quantity: str) -> str:
    """Return a size in the API's words for owners, who give it in GB."""
    return f"{quantity.removesuffix('Gi')} GB" if quantity.endswith("Gi") else quantity


def _with(words: str, message: str) -> str:
    return f"{words}: {short(message)}" if message else words
