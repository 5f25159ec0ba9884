"""Record pods in each state that the backend explains: `python -m tests.clusters.record_pods`, with KUBECONFIG.

The files in tests/unit/kube/pods are what the API server returned, without members that no test reads. With names as
arguments, only these cases are recorded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from queue_engine.backends.kubernetes.names import GPUS, RESOURCE, Identity, resource_text
from queue_engine.domain.endpoints import Resource
from tests.clusters.engine import IMAGE, shell_image
from tests.clusters.image_registry import ImageRegistry
from tests.clusters.kube_installation import kill_container
from tests.clusters.kubernetes_cluster import Cluster, namespace_of
from tests.clusters.oci_archive import Image
from tests.ports import free_port
from tests.waiting import wait_until

FOLDER = Path(__file__).parents[1] / "unit/kube/pods"
CARD = Resource("local", "NVIDIA_L4_24G", 2)
Json = dict[str, Any]
_NOISE = ("managedFields", "selfLink", "generation")
_KEPT_SPEC = ("containers", "imagePullSecrets", "volumes", "terminationGracePeriodSeconds", "nodeName")


@dataclass(frozen=True)
class Case:
    """A pod, and the state in which it is recorded."""

    name: str
    is_reached: Callable[[Json], bool]
    main: Mapping[str, object] = field(default_factory=dict)
    agent: Mapping[str, object] = field(default_factory=dict)
    spec: Mapping[str, object] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[Cluster, str, str], None] | None = None
    """Function that changes the running pod, with its namespace and name."""
    afterwards: Callable[[Cluster], None] | None = None
    """Function that undoes what `then` has done to the cluster."""


def waits(reason: str, container: str = "main") -> Callable[[Json], bool]:
    return lambda pod: reason in str(_state(pod, container).get("waiting"))


def ended(container: str = "main") -> Callable[[Json], bool]:
    return lambda pod: "terminated" in _state(pod, container)


def is_running(pod: Json) -> bool:
    return all("running" in _state(pod, container) for container in ("agent", "main"))


def is_unschedulable(pod: Json) -> bool:
    return any(one.get("reason") == "Unschedulable" for one in pod["status"].get("conditions", ()))


def is_deleted(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_stopped(pod: Json) -> bool:
    return is_deleted(pod) and all("terminated" in _state(pod, container) for container in ("agent", "main"))


def is_cut_off(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", ())
    return is_deleted(pod) and any(
        (one["type"], one["status"], one.get("reason")) == ("Ready", "False", None) for one in conditions
    )


def kill(container: str) -> Callable[[Cluster, str, str], None]:
    def run(cluster: Cluster, namespace: str, name: str) -> None:
        kill_container(found_pod(cluster, namespace, name), container)

    return run


def delete(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", "--wait=false")


def cut_off_and_delete(cluster: Cluster, namespace: str, name: str) -> None:
    """Suspend the node's kubelet, as a lost node does, and delete the pod, as the cluster does if there is another."""
    signal_kubelet(cluster, signal.SIGSTOP)
    delete(cluster, namespace, name)


def bring_back(cluster: Cluster) -> None:
    signal_kubelet(cluster, signal.SIGCONT)


def signal_kubelet(cluster: Cluster, which: signal.Signals) -> None:
    os.kill(int((cluster.kubeconfig.parent / "kubelet.pid").read_text()), which)


def shell(text: str) -> dict[str, object]:
    return {"command": ["/bin/sh", "-c", text]}


def cases(registry: str) -> list[Case]:
    missing = {"secretRef": {"name": "qe-env-7-1"}}
    volume = [{"name": "ca", "secret": {"secretName": "qe-agent-w1-1"}}]
    disk = "while :; do busybox dd if=/dev/zero of=/tmp/big bs=1M count=40 2>/dev/null; sleep 1; done"
    return [
        Case("running", is_running),
        Case("unschedulable", is_unschedulable, {"resources": {"requests": {"cpu": "1000"}}}),
        Case(
            "unschedulable_gpu",
            is_unschedulable,
            {"resources": {"limits": {"nvidia.com/gpu": "2"}}},
            annotations={GPUS: "2 × NVIDIA_L4_24G", RESOURCE: resource_text(CARD)},
        ),
        Case("starting", waits("ContainerCreating"), spec={"volumes": volume}),
        Case(
            "pull_unreachable",
            waits("ErrImagePull"),
            {"image": "127.0.0.1:9/none:1", "imagePullPolicy": "Always"},
        ),
        Case(
            "pull_back_off",
            waits("ImagePullBackOff"),
            {"image": "127.0.0.1:9/none:1", "imagePullPolicy": "Always"},
        ),
        Case("pull_refused", waits("ErrImagePull"), {"image": registry, "imagePullPolicy": "Always"}),
        Case("invalid_image_name", waits("InvalidImageName"), {"image": "UPPER/Case:1"}),
        Case("image_never_pulled", waits("ErrImageNeverPull"), {"image": "localhost/none:1"}),
        Case("agent_image_never_pulled", waits("ErrImageNeverPull", "agent"), agent={"image": "localhost/none:1"}),
        Case("config_error", waits("CreateContainerConfigError"), {"envFrom": [missing]}),
        Case("start_error", ended(), {"command": ["/nosuch"]}),
        Case("out_of_memory", ended(), {**shell("exec tail /dev/zero"), "resources": {"limits": {"memory": "32Mi"}}}),
        Case("exit_0", ended(), shell("exit 0")),
        Case("exit_3", ended(), shell("exit 3")),
        Case("signal_11", ended(), shell("exit 139")),
        Case("killed", ended(), then=kill("main")),
        Case("agent_killed", ended("agent"), then=kill("agent")),
        Case(
            "disk_full",
            lambda pod: pod["status"].get("reason") == "Evicted",
            {**shell(disk), "resources": {"limits": {"ephemeral-storage": "10Mi"}}},
        ),
        Case("deleted", is_deleted, then=delete),
        Case("deleted_and_stopped", is_stopped, then=delete),
        Case("node_lost", is_cut_off, then=cut_off_and_delete, afterwards=bring_back),
    ]


def record(cluster: Cluster, namespace: str, case: Case) -> None:
    name = document(case)["metadata"]["name"]
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(document(case)))

    def found() -> Json | None:
        pod = found_pod(cluster, namespace, name)
        return pod if case.is_reached(pod) else None

    try:
        if case.then is not None:
            wait_until(lambda: is_running(found_pod(cluster, namespace, name)))
            case.then(cluster, namespace, name)
        pod = wait_until(found, message=f"{case.name} is not reached")
        text = json.dumps(trimmed(pod or {}), indent=2, sort_keys=True, ensure_ascii=False)
        (FOLDER / f"{case.name}.json").write_text(f"{text}\n")
    finally:
        if case.afterwards is not None:
            case.afterwards(cluster)
        forced = ("--force", "--grace-period=0", "--wait=false")
        cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", *forced, check=False)


def document(case: Case) -> Json:
    identity = Identity("7", f"w-{case.name.replace('_', '-')}", 1)
    common = {"image": IMAGE, "imagePullPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": identity.name,
            "labels": identity.labels("1f5e", 1),
            "annotations": dict(case.annotations),
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {"name": "agent", **common, **case.agent},
                {"name": "main", **common, **shell("exec sleep 600"), **case.main},
            ],
            **case.spec,
        },
    }


def trimmed(pod: Json) -> Json:
    """Return the pod without the members that no test reads."""
    metadata = {key: one for key, one in pod["metadata"].items() if key not in _NOISE}
    spec = {key: one for key, one in pod["spec"].items() if key in _KEPT_SPEC}
    status = {key: one for key, one in pod["status"].items() if key not in ("podIPs", "hostIP", "podIP")}
    return {"metadata": metadata, "spec": spec, "status": status}


def found_pod(cluster: Cluster, namespace: str, name: str) -> Json:
    found: Json = json.loads(cluster.kubectl("get", "pod", name, f"--namespace={namespace}", "--output=json"))
    return found


def _state(pod: Json, container: str) -> Json:
    statuses = [one for one in pod["status"].get("containerStatuses", ()) if one["name"] == container]
    found: Json = statuses[0]["state"] if statuses else {}
    return found


def main() -> None:
    """Record all cases, or those that are named."""
    FOLDER.mkdir(exist_ok=True)
    cluster, named = Cluster.of_environment(), set(sys.argv[1:])
    with tempfile.TemporaryDirectory() as text, namespace_of(cluster, f"qe-record-{uuid.uuid4().hex[:8]}") as namespace:
        folder = Path(text)
        archive = shell_image(folder)
        cluster.import_images(folder, {IMAGE: Image(archive, ["/bin/sh", "/agent.sh"], {"PATH": "/bin"})})
        with ImageRegistry(free_port(), archive) as registry:
            for case in cases(registry.name):
                if not named or case.name in named:
                    record(cluster, namespace, case)


if __name__ == "__main__":
    main()
