"""The states of pods in words, from pods of a real cluster and from some that a cluster of one node cannot show."""

import json
from pathlib import Path
from typing import Any

import pytest

from queue_engine.backends.base import Phase
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes.explain import explain, explain_gone
from queue_engine.backends.kubernetes.pod_view import PodView, pod_view

PODS = Path(__file__).parent / "pods"
NOW_MS = 1_795_874_587_000
NOW = "2026-11-28T14:03:07Z"
EARLIER = "2026-11-28T14:01:00Z"


def recorded(name: str) -> PodView:
    return pod_view(json.loads((PODS / f"{name}.json").read_text()))


def view(*, main: Any = None, agent: Any = None, spec: Any = None, metadata: Any = None, **status: Any) -> PodView:
    states = [("agent", agent or {"running": {}}), ("main", main or {"running": {}})]
    statuses = [{"name": name, "state": state} for name, state in states if state != "absent"]
    return pod_view(
        {
            "metadata": {"name": "qe-w1-1", "uid": "1", **(metadata or {})},
            "spec": spec or {},
            "status": {"phase": "Running", "containerStatuses": statuses, **status},
        }
    )


@pytest.mark.parametrize(
    ("name", "phase", "reason", "retry_helps"),
    [
        ("running", Phase.RUNNING, "None", True),
        ("unschedulable", Phase.WAITING, "no node can take it: 0/1 nodes are available: 1 Insufficient cpu.", True),
        (
            "unschedulable_gpu",
            Phase.WAITING,
            "waits for 2 × NVIDIA_L4_24G: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
            True,
        ),
        ("starting", Phase.STARTING, "None", True),
        ("pull_unreachable", Phase.STARTING, "the image cannot be pulled: ", True),
        ("pull_back_off", Phase.STARTING, "the image cannot be pulled: Back-off pulling image", True),
        ("pull_refused", Phase.ENDED, "the registry refuses access without a credential: ", True),
        ("invalid_image_name", Phase.ENDED, "the image name is not valid: ", False),
        ("image_never_pulled", Phase.ENDED, "the image is not on the node", False),
        (
            "agent_image_never_pulled",
            Phase.ENDED,
            "the agent's image is not on the node",
            False,
        ),
        ("config_error", Phase.ENDED, 'the container cannot be started: secret "qe-env-7-1" not found', True),
        ("start_error", Phase.ENDED, "the container cannot be started: ", True),
        ("out_of_memory", Phase.ENDED, "the container ran out of memory (limit 32Mi)", True),
        ("exit_0", Phase.ENDED, "container exited with status 0", True),
        ("exit_3", Phase.ENDED, "container exited with status 3", True),
        ("signal_11", Phase.ENDED, "container killed by signal 11 (SIGSEGV)", True),
        ("killed", Phase.ENDED, "container killed by signal 9 (SIGKILL), perhaps out of memory", True),
        ("agent_killed", Phase.ENDED, "agent killed by signal 9", True),
        ("disk_full", Phase.ENDED, "the container used more than its 10Mi of disk", True),
        ("deleted", Phase.ENDING, "deleted by somebody else", True),
    ],
)
def test_a_recorded_pod_is_explained(name: str, phase: Phase, reason: str, retry_helps: bool) -> None:
    found = explain(recorded(name), NOW_MS)
    assert str(found.reason).startswith(reason)
    assert (found.phase, found.retry_helps) == (phase, retry_helps)


MANIFEST = 'failed to resolve reference "127.0.0.1:5000/team/shell:2": 127.0.0.1:5000/team/shell:2: not found'
LATE_SOON = {"deletionTimestamp": "2026-11-28T14:02:08Z", "deletionGracePeriodSeconds": 30}
LATE = {"deletionTimestamp": "2026-11-28T14:02:06Z", "deletionGracePeriodSeconds": 30}
NOT_READY = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]
CUT_OFF = [{"type": "Ready", "status": "False"}]
UNCONFIRMED = "deleted by somebody else; its node has not confirmed the end"
TAKEN = [{"type": "PodScheduled", "status": "True"}]


def disruption(reason: str, message: str = "") -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]


def ended(status: int, at: str = EARLIER, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": status, "finishedAt": at, "reason": reason}}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (view(metadata=LATE_SOON), Explanation(Phase.ENDING, "deleted by somebody else")),
        (view(metadata=LATE), Explanation(Phase.ENDED, UNCONFIRMED)),
        (view(metadata=LATE, conditions=NOT_READY), Explanation(Phase.ENDED, UNCONFIRMED)),
        (view(metadata=LATE, conditions=CUT_OFF), Explanation(Phase.ENDED, "the node is lost")),
        (view(metadata=LATE_SOON, conditions=CUT_OFF), Explanation(Phase.ENDING, "deleted by somebody else")),
        (
            view(metadata=LATE, conditions=disruption("DeletionByTaintManager")),
            Explanation(Phase.ENDED, "the node is lost"),
        ),
        (
            view(metadata=LATE, conditions=disruption("PreemptionByScheduler", "by qe-w2-1")),
            Explanation(Phase.ENDED, "preempted: by qe-w2-1"),
        ),
        (view(reason="NodeLost"), Explanation(Phase.ENDED, "the node is lost")),
        (view(conditions=disruption("DeletionByPodGC")), Explanation(Phase.ENDED, "the node is lost")),
        (
            view(conditions=disruption("PreemptionByScheduler", "by qe-w2-1"), metadata=LATE_SOON),
            Explanation(Phase.ENDING, "preempted: by qe-w2-1"),
        ),
        (
            view(phase="Failed", reason="Preempting", message="to admit a critical pod", main="absent"),
            Explanation(Phase.ENDED, "preempted: to admit a critical pod"),
        ),
        (
            view(phase="Failed", reason="Terminated", message="imminent node shutdown", main=ended(137)),
            Explanation(Phase.ENDED, "the node was shut down: imminent node shutdown"),
        ),
        (
            view(phase="Failed", reason="Evicted", message="The node was low on resource: memory.", main=ended(137)),
            Explanation(Phase.ENDED, "evicted: The node was low on resource: memory."),
        ),
        (
            view(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource", main="absent"),
            Explanation(Phase.ENDED, "the node does not take it: Node didn't have enough resource"),
        ),
        (
            view(main={"waiting": {"reason": "ErrImagePull", "message": MANIFEST}}),
            Explanation(Phase.ENDED, f"the image does not exist: {MANIFEST}", retry_helps=False),
        ),
        (
            view(agent={"waiting": {"reason": "ErrImagePull", "message": "not found"}}, main="absent"),
            Explanation(
                Phase.ENDED, "the agent's image is missing: the image does not exist: not found", retry_helps=False
            ),
        ),
        (view(agent=ended(1, reason="OOMKilled")), Explanation(Phase.ENDED, "the agent ran out of memory")),
        (
            view(agent=ended(143, EARLIER), main=ended(3, "2026-11-28T14:00:59Z")),
            Explanation(Phase.ENDED, "container exited with status 3"),
        ),
        (
            view(main=ended(3, "2026-11-28T14:01:37Z"), metadata=LATE_SOON),
            Explanation(Phase.ENDED, "container exited with status 3"),
        ),
        (
            view(main=ended(143, "2026-11-28T14:01:38Z"), metadata=LATE_SOON),
            Explanation(Phase.ENDING, "deleted by somebody else"),
        ),
        (view(main={"waiting": {"reason": "PodInitializing"}}, conditions=TAKEN), Explanation(Phase.STARTING)),
    ],
)
def test_a_pod_is_explained(pod: PodView, expected: Explanation) -> None:
    assert explain(pod, NOW_MS) == expected


@pytest.mark.parametrize("late_seconds", [0, 61, 3600])
def test_a_deleted_pod_whose_containers_have_ended_is_on_no_lost_node(late_seconds: int) -> None:
    """A loaded kubelet has reported both ends, and removes the pod minutes later."""
    pod = recorded("deleted_and_stopped")
    assert explain(pod, after_deadline(pod, late_seconds)) == Explanation(Phase.ENDED, "deleted by somebody else")


@pytest.mark.parametrize(
    ("late_seconds", "expected"),
    [
        (0, Explanation(Phase.ENDING, "deleted by somebody else")),
        (61, Explanation(Phase.ENDED, "the node is lost")),
    ],
)
def test_a_deleted_pod_that_the_cluster_has_marked_is_on_a_lost_node(late_seconds: int, expected: Explanation) -> None:
    pod = recorded("node_lost")
    assert explain(pod, after_deadline(pod, late_seconds)) == expected


def after_deadline(pod: PodView, seconds: int) -> int:
    assert pod.deletion_at_ms is not None
    return pod.deletion_at_ms + 1000 * seconds


def test_a_pull_that_waits_for_its_next_try_is_explained_by_its_cause() -> None:
    found = explain(recorded("pull_back_off"), NOW_MS, cause=MANIFEST)
    assert found == Explanation(Phase.ENDED, f"the image does not exist: {MANIFEST}", retry_helps=False)


def test_a_long_message_is_cut() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "x " * 500}
    assert len(str(explain(view(conditions=[condition]), NOW_MS).reason)) < 400


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (Explanation(Phase.RUNNING), "deleted by somebody else"),
        (Explanation(Phase.WAITING, "no node can take it"), "deleted by somebody else"),
        (Explanation(Phase.ENDING, "preempted"), "preempted"),
        (Explanation(Phase.ENDED, "evicted: low on memory"), "evicted: low on memory"),
    ],
)
def test_a_pod_that_is_gone_has_ended_for_the_reason_that_was_seen_last(last: Explanation, reason: str) -> None:
    assert explain_gone(last) == Explanation(Phase.ENDED, reason)
