"""The Kubernetes backend on a real cluster: the reasons that owners see, and the recovery from faults."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queue_engine.aio import Backoff
from queue_engine.backends.base import BackendError, Phase, RegistryCredential, WorkerSpec
from queue_engine.backends.kubernetes import refusals as refusals_module
from queue_engine.backends.kubernetes import watch as watch_module
from queue_engine.backends.kubernetes.backend import KubernetesBackend
from queue_engine.backends.kubernetes.explain import LATE_SECONDS
from queue_engine.backends.kubernetes.kube_api import ClientApi, Document
from queue_engine.backends.kubernetes.kube_client import ClusterAccess
from queue_engine.domain.endpoints import Resource
from tests.clusters.cases import RecordCase
from tests.clusters.engine import shell_image
from tests.clusters.image_registry import PASSWORD, USERNAME, ImageRegistry
from tests.clusters.kube_gate import Gate
from tests.clusters.kube_installation import KubeInstallation, container_id_of, processes_of, spec_for
from tests.clusters.kubernetes_cluster import Cluster, namespace_of
from tests.integration.backend_contract import FOREVER, all_of, ended, in_phase, observed
from tests.ports import free_port
from tests.waiting import wait_until_async

OBEDIENT = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
"""A container that ends at once when it is asked to."""
RESTART_SECONDS = 300
"""Time for the start of an API server on a loaded machine, and for the controller's next try."""
LOST_NODE_SECONDS = 300
"""Time for the grace period of a pod and LATE_SECONDS after it, and for the start of a kubelet."""
MAY_DISTURB = os.environ.get("QUEUE_ENGINE_TEST_DISTURBS_CLUSTER") == "true"
disturbing = pytest.mark.skipif(
    not MAY_DISTURB, reason="it disturbs other users of the cluster (set QUEUE_ENGINE_TEST_DISTURBS_CLUSTER=true)"
)


@pytest.fixture
async def backend(kube: KubeInstallation) -> AsyncIterator[KubernetesBackend]:
    made = kube.backend()
    yield made
    await made.aclose(0)


@pytest.fixture
def own_namespace(kube_cluster: Cluster) -> Iterator[KubeInstallation]:
    """An installation in a namespace of its own, in which a test may change the rules."""
    with namespace_of(kube_cluster, f"qe-test-{uuid.uuid4().hex[:8]}") as name:
        yield KubeInstallation(kube_cluster, name, uuid.uuid4().hex)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ImageRegistry]:
    with ImageRegistry(free_port(), shell_image(tmp_path)) as serving:
        yield serving


async def reason_of(backend: KubernetesBackend, spec: WorkerSpec) -> str:
    """The reason of a start that fails."""
    await backend.start(spec)
    return str((await ended(backend, spec.worker_id)).reason)


async def explained(backend: KubernetesBackend, worker_id: str, phase: Phase, words: str) -> str:
    """The reason of a worker, as soon as it has these words."""

    async def found() -> str | None:
        one = (await all_of(backend)).get(worker_id)
        said = (one is not None and one.phase is phase and one.reason) or ""
        return said if words in said else None

    return str(await wait_until_async(found, message=f"{worker_id} is not {phase} with: {words}"))


# Reasons in words


async def test_the_end_of_a_container_is_explained(
    backend: KubernetesBackend, kube: KubeInstallation, record_case: RecordCase
) -> None:
    commands = {
        "exit 0": "container exited with status 0",
        "exit 139": "container killed by signal 11 (SIGSEGV)",
        '["/nosuch"]': "the container cannot be started: ",
    }
    for number, (command, words) in enumerate(commands.items()):
        reason = await reason_of(backend, spec_for(f"w{number}", command))
        assert reason.startswith(words)
        record_case(f"command {command}", seen=reason, recovery="started again with backoff")
    await asyncio.gather(*(backend.kill(f"w{number}") for number in range(len(commands))))
    assert await kube.left() == []


async def test_an_image_that_cannot_be_had_is_explained(
    backend: KubernetesBackend, kube: KubeInstallation, registry: ImageRegistry, record_case: RecordCase
) -> None:
    spec = spec_for("w1", FOREVER)
    right = RegistryCredential(USERNAME, PASSWORD)
    wrong = RegistryCredential(USERNAME, "wrong")
    absent = registry.name.removesuffix("1") + "2"
    reasons = [
        (replace(spec, image="localhost/none:1"), "the image is not on the node", False),
        (replace(spec, image=registry.name), "the registry refuses access without a credential", True),
        (replace(spec, image=registry.name, registry_credential=wrong), "the registry refuses the credential", True),
        (replace(spec, image=absent, registry_credential=right), "the image does not exist", False),
    ]
    for number, (one, words, retry_helps) in enumerate(reasons):
        worker = replace(one, worker_id=f"w{number}")
        reason = await reason_of(backend, worker)
        assert reason.startswith(words)
        assert (await observed(backend, worker.worker_id)).retry_helps is retry_helps
        recovery = "started again with backoff" if retry_helps else "FAILED, tried once a minute"
        record_case(f"image {one.image}", seen=reason, recovery=recovery)
        await backend.kill(worker.worker_id)
    await backend.start(replace(spec, worker_id="w9", image=registry.name, registry_credential=right))
    await in_phase(backend, "w9", Phase.RUNNING)
    await backend.kill("w9")
    assert await kube.left() == []


async def test_a_container_that_needs_too_much_memory_is_explained(
    kube: KubeInstallation, record_case: RecordCase
) -> None:
    kube.settings = replace(kube.settings, memory_limits=True)
    backend = kube.backend()
    reason = await reason_of(backend, replace(spec_for("w1", "exec tail /dev/zero"), card_ram_gb=1))
    assert reason == "the container ran out of memory (limit 1 GB)"
    record_case("needs more memory than its limit", seen=reason, recovery="started again with backoff")
    await backend.kill("w1")
    await backend.aclose(0)


async def test_a_container_that_uses_more_disk_than_it_has_is_explained(
    backend: KubernetesBackend, record_case: RecordCase
) -> None:
    command = "busybox dd if=/dev/zero of=/tmp/big bs=1M count=1200 2>/dev/null; exec sleep 600"
    reason = await reason_of(backend, replace(spec_for("w1", command), volume_gb=1))
    assert reason == "the container used more than its 1 GB of disk"
    record_case("uses more disk than its limit", seen=reason, recovery="started again")
    await backend.kill("w1")


async def test_a_worker_waits_for_a_node_and_runs_as_soon_as_there_is_one(
    backend: KubernetesBackend, kube: KubeInstallation, gpu_resource: str, record_case: RecordCase
) -> None:
    made = kube.backend_with_gpus(gpu_resource)
    on_cards = replace(spec_for("w1", FOREVER), resources=(Resource("local", "NVIDIA_L4_24G", 2),))
    await made.start(on_cards)
    reason = await explained(made, "w1", Phase.WAITING, "waits for 2 × NVIDIA_L4_24G: ")
    assert f"Insufficient {gpu_resource}" in reason
    set_capacity(kube.cluster, gpu_resource, 3)
    await in_phase(made, "w1", Phase.RUNNING)
    await made.start(replace(on_cards, worker_id="w2"))
    await explained(made, "w2", Phase.WAITING, "waits for 2 × NVIDIA_L4_24G: ")
    await made.kill("w1")
    await in_phase(made, "w2", Phase.RUNNING)
    record_case("no free GPU", seen=reason, recovery="runs as soon as a node has them")
    await made.kill("w2")
    assert await kube.left() == []
    await made.aclose(0)


async def test_a_missing_secret_is_explained_and_made_for_the_next_run(
    kube: KubeInstallation, record_case: RecordCase
) -> None:
    backend = kube.backend(ForgetfulApi)
    reason = await reason_of(backend, spec_for("w1", FOREVER))
    assert reason.startswith("the container cannot be started: secret ")
    await backend.stop("w1", 0)
    await backend.start(spec_for("w1", FOREVER, run=2))
    await in_phase(backend, "w1", Phase.RUNNING)
    record_case("Secret missing", seen=reason, recovery="made with the next start")
    await backend.kill("w1")
    await backend.aclose(0)


async def test_a_full_quota_is_explained_and_the_start_goes_on_when_there_is_room(
    own_namespace: KubeInstallation, monkeypatch: pytest.MonkeyPatch, record_case: RecordCase
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.2, 1.0))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "workers"},
        "spec": {"hard": {"pods": "1"}},
    }
    own_namespace.kubectl("create", "--filename=-", given=quota)
    backend = own_namespace.backend()
    await backend.start(spec_for("w1", OBEDIENT))
    await in_phase(backend, "w1", Phase.RUNNING)

    def is_counted() -> bool:
        """A quota is kept from when its controller has seen it, which a busy cluster does late."""
        used = own_namespace.kubectl("get", "resourcequota", "workers", "--output=jsonpath={.status.used.pods}")
        return used == "1"

    await wait_until_async(is_counted, message="the quota does not count the pod")
    await backend.start(spec_for("w2", OBEDIENT))
    reason = await explained(backend, "w2", Phase.WAITING, "waits for the quota of the namespace: ")
    await backend.kill("w1")
    await in_phase(backend, "w2", Phase.RUNNING)
    record_case("quota of the namespace is full", seen=reason, recovery="starts as soon as there is room")
    await backend.aclose(0)


async def test_a_pod_deleted_by_hand_is_explained(
    backend: KubernetesBackend, kube: KubeInstallation, record_case: RecordCase
) -> None:
    await backend.start(spec_for("w1", OBEDIENT))
    await in_phase(backend, "w1", Phase.RUNNING)
    kube.kubectl("delete", "pod", "qe-w1-1", "--wait=false")
    reason = str((await ended(backend, "w1")).reason)
    assert reason == "deleted by somebody else"
    record_case("pod deleted by hand", seen=reason, recovery="started again at once")
    await backend.stop("w1", 0)
    assert await kube.left() == []


# The API server


async def test_workers_go_on_while_the_api_server_is_away(
    kube: KubeInstallation, tmp_path: Path, record_case: RecordCase
) -> None:
    async with Gate(kube.cluster, tmp_path) as gate:
        backend = kube.backend(through(gate))
        await backend.start(spec_for("w1", FOREVER))
        before = await in_phase(backend, "w1", Phase.RUNNING)
        await gate.close()
        reason = str((await in_phase(backend, "w1", Phase.UNKNOWN)).reason)
        with pytest.raises(BackendError, match="cannot be reached"):
            await backend.kill("w1")
        await gate.open()
        assert await in_phase(backend, "w1", Phase.RUNNING) == before
        record_case("API server away", seen=reason, recovery="nothing is replaced; goes on")
        await backend.kill("w1")
        assert await kube.left() == []
        await backend.aclose(0)


async def test_a_change_during_a_silent_watch_is_seen_by_the_next_list(
    kube: KubeInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_case: RecordCase
) -> None:
    monkeypatch.setattr(watch_module, "SILENCE_SECONDS", 1.0)
    kube.options = replace(kube.options, resync_seconds=2.0)
    async with Gate(kube.cluster, tmp_path) as gate:
        backend = kube.backend(through(gate))
        await backend.start(spec_for("w1", OBEDIENT))
        await in_phase(backend, "w1", Phase.RUNNING)
        gate.be_silent()
        kube.kubectl("delete", "pod", "qe-w1-1", "--grace-period=1")
        await in_phase(backend, "w1", Phase.UNKNOWN)
        gate.speak()
        assert (await ended(backend, "w1")).reason == "deleted by somebody else"
        record_case("watch silent", seen="the cluster does not respond", recovery="listed again")
        await backend.stop("w1", 0)
        await backend.aclose(0)


@disturbing
async def test_workers_go_on_when_the_api_server_is_restarted(
    backend: KubernetesBackend, kube: KubeInstallation, record_case: RecordCase
) -> None:
    pid_file = pid_file_of(kube.cluster, "apiserver")
    await backend.start(spec_for("w1", FOREVER))
    before = await in_phase(backend, "w1", Phase.RUNNING)
    async with without(pid_file):
        await in_phase(backend, "w1", Phase.UNKNOWN)
    assert await in_phase(backend, "w1", Phase.RUNNING, RESTART_SECONDS) == before
    kube.kubectl("delete", "pod", "qe-w1-1", "--grace-period=1")
    assert (await ended(backend, "w1")).reason == "deleted by somebody else"
    record_case("API server restarted", seen="the cluster does not respond", recovery="listed again; goes on")
    await backend.stop("w1", 0)


@disturbing
async def test_workers_of_a_tainted_node_are_started_again_elsewhere(
    backend: KubernetesBackend, kube: KubeInstallation, record_case: RecordCase
) -> None:
    node = first_node(kube.cluster)
    await backend.start(spec_for("w1", OBEDIENT))
    await in_phase(backend, "w1", Phase.RUNNING)
    taint = "queue-engine-test=true:NoExecute"
    kube.cluster.kubectl("taint", "node", node, taint)
    try:
        reason = str((await ended(backend, "w1")).reason)
        await backend.stop("w1", 0)
        await backend.start(spec_for("w1", OBEDIENT, run=2))
        waiting = await explained(backend, "w1", Phase.WAITING, "no node can take it: ")
    finally:
        kube.cluster.kubectl("taint", "node", node, f"{taint}-")
    await in_phase(backend, "w1", Phase.RUNNING)
    record_case("node tainted", seen=f"{reason}; {waiting}", recovery="started again on another node")
    await backend.kill("w1")


@disturbing
async def test_the_worker_of_a_lost_node_has_ended_and_its_pod_is_forgotten(
    kube: KubeInstallation, record_case: RecordCase
) -> None:
    """The node is lost while its kubelet does not run. Its containers go on until the kubelet is back."""
    pid_file = pid_file_of(kube.cluster, "kubelet")
    kube.options = replace(kube.options, force_delete_after_seconds=LATE_SECONDS)
    backend = kube.backend()
    await backend.start(spec_for("w1", f"mkdir -p /tmp/www; httpd -p 8000 -h /tmp/www; {OBEDIENT}"))
    await in_phase(backend, "w1", Phase.RUNNING)
    await wait_until_async(lambda: is_ready(kube.pods("w1")[0]), message="the pod does not become ready")
    [pod] = kube.pods("w1")
    container = container_id_of(pod, "main")
    async with without(pid_file):
        # In place of the cluster, which evicts no pod while all of its nodes are lost.
        kube.kubectl("delete", "pod", "qe-w1-1", "--wait=false")
        reason = str((await ended(backend, "w1", LOST_NODE_SECONDS)).reason)
        assert reason == "the node is lost"
        assert processes_of(container)
        await backend.stop("w1", 0)
        assert await kube.left() == []
        # As its replacement: there is no other node in this cluster.
        await backend.start(spec_for("w2", OBEDIENT))
        waiting = await explained(backend, "w2", Phase.WAITING, "no node can take it: ")
    await in_phase(backend, "w2", Phase.RUNNING, LOST_NODE_SECONDS)
    await wait_until_async(lambda: not processes_of(container), message="the container of the lost worker goes on")
    record_case("node lost", seen=f"{reason}; {waiting}", recovery="replaced; the pod is forgotten, its containers end")
    await backend.kill("w2")
    assert await kube.left() == []
    await backend.aclose(0)


# Controllers


@pytest.mark.parametrize("is_carried_out", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_the_next_controller_completes_a_start_from_any_step(
    kube: KubeInstallation, at: int, is_carried_out: bool
) -> None:
    """Two Secrets and a pod are made. The store has the run, so the next controller starts it or the one after it."""
    halted = asyncio.Event()
    first = kube.backend(lambda access: HaltingApi(access, at, is_carried_out=is_carried_out, halted=halted))
    await first.start(spec_for("w1", OBEDIENT))
    async with asyncio.timeout(60):
        await halted.wait()
    await first.aclose(0)
    kube.options = replace(kube.options, resync_seconds=1.0)
    second = kube.backend()
    has_pod = (at, is_carried_out) == (3, True)
    assert set(await all_of(second)) == ({"w1"} if has_pod else set())
    await second.start(spec_for("w1", OBEDIENT, run=1 if has_pod else 2))
    await in_phase(second, "w1", Phase.RUNNING)

    async def has_only_its_own() -> bool:
        return len(await kube.left()) == 3

    await wait_until_async(has_only_its_own, message="Secrets of the first controller are left")
    await second.kill("w1")
    assert await kube.left() == []
    await second.aclose(0)


async def test_a_hundred_starts_and_ends_leave_nothing(
    backend: KubernetesBackend, kube: KubeInstallation, record_case: RecordCase
) -> None:
    for round_ in range(10):
        ids = [f"w{round_}-{number}" for number in range(10)]
        await asyncio.gather(*(backend.start(spec_for(one, OBEDIENT)) for one in ids))
        if not round_:  # the others end at any point of their start
            await asyncio.gather(*(in_phase(backend, one, Phase.RUNNING) for one in ids))
        await asyncio.gather(*(backend.kill(one) for one in ids))
    assert await all_of(backend) == {}
    assert await kube.left() == []
    record_case("100 starts and ends", seen="", recovery="no object is left")


# Output


async def test_the_output_of_a_container_is_read_to_its_end(backend: KubernetesBackend, kube: KubeInstallation) -> None:
    await backend.start(
        spec_for(
            "w1", "echo first; echo second >&2; sleep 1; busybox head -c 40000 /dev/zero | busybox tr '\\0' a; exit 3"
        )
    )
    await ended(backend, "w1")
    async with aclosing(backend.follow("w1", 1, 0)) as entries:
        found = [entry async for entry in entries]
    text = b"".join(entry.data for entry in found)
    assert sorted(text.splitlines()) == sorted([b"first", b"second", b"a" * 40000])
    assert all(entry.stamp_ns > 1_600_000_000 * 10**9 for entry in found)
    later = found[-1].stamp_ns
    async with aclosing(backend.follow("w1", 1, later)) as entries:
        assert found[-1] in [entry async for entry in entries]
    await backend.kill("w1")


async def test_the_variables_of_a_container_are_those_of_its_start(backend: KubernetesBackend) -> None:
    spec = replace(spec_for("w1", 'echo "<$MODEL>"; exit 3'), environment={"MODEL": "canary-7d2c $(HOME) $$"})
    await backend.start(spec)
    await ended(backend, "w1")
    assert (await backend.environment("w1", 1))["MODEL"] == "canary-7d2c $(HOME) $$"
    async with aclosing(backend.follow("w1", 1, 0)) as entries:
        assert [entry.data async for entry in entries] == [b"<canary-7d2c $(HOME) $$>\n"]
    await backend.kill("w1")


# Changes of the cluster


class ForgetfulApi(ClientApi):
    """The API, but the first Secret with variables is not made."""

    forgot = False

    async def create_secret(self, document: Document) -> None:
        if document["metadata"]["name"].startswith("qe-env-") and not self.forgot:
            self.forgot = True
            return
        await super().create_secret(document)


class HaltingApi(ClientApi):
    """The API of a controller that dies at one of its writes."""

    def __init__(self, access: ClusterAccess, at: int, *, is_carried_out: bool, halted: asyncio.Event) -> None:
        super().__init__(access)
        self._left = at
        self._is_carried_out = is_carried_out
        self._halted = halted

    async def create_secret(self, document: Document) -> None:
        await self._halting(super().create_secret(document))

    async def create_pod(self, document: Document) -> Document:
        found: Document = await self._halting(super().create_pod(document))
        return found

    async def _halting(self, call: Any) -> Any:
        self._left -= 1
        if self._left > 0:
            return await call
        if self._is_carried_out:
            await call
        else:
            call.close()
        self._halted.set()
        return await asyncio.Event().wait()


def through(gate: Gate) -> Any:
    """The API through a gate."""
    return lambda access: ClientApi(replace(access, kubeconfig=gate.kubeconfig))


@pytest.fixture
def gpu_resource(kube_cluster: Cluster) -> Iterator[str]:
    """The name of a resource that no node has yet."""
    name = f"queue-engine.test/gpu-{uuid.uuid4().hex[:8]}"
    yield name
    set_capacity(kube_cluster, name, None)


def set_capacity(cluster: Cluster, resource: str, count: int | None) -> None:
    """Let the first node have a number of a resource, as a device plugin would; None: not know it."""
    path = f"/status/capacity/{resource.replace('/', '~1')}"
    change = {"op": "remove", "path": path} if count is None else {"op": "add", "path": path, "value": str(count)}
    with cluster.client() as client:
        response = client.patch(
            f"/api/v1/nodes/{first_node(cluster)}/status",
            content=json.dumps([change]),
            headers={"Content-Type": "application/json-patch+json"},
        )
    assert response.is_success or count is None, response.text


def is_ready(pod: Document) -> bool:
    """Return True for a pod that the cluster can mark as one of a lost node."""
    return any((one["type"], one["status"]) == ("Ready", "True") for one in pod["status"].get("conditions", ()))


def first_node(cluster: Cluster) -> str:
    return cluster.kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}").strip()


@asynccontextmanager
async def without(pid_file: Path) -> AsyncIterator[None]:
    """End the process of a pid file, and start it again with the same words at the end."""
    pid = int(pid_file.read_text())
    process = Path(f"/proc/{pid}")
    words = process.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    folder = os.readlink(process / "cwd")
    os.kill(pid, signal.SIGTERM)
    # An API server ends up to a minute after the last request that it has begun.
    await wait_until_async(lambda: not process.exists() or "zombie" in process.joinpath("status").read_text())
    try:
        yield
    finally:
        begin(pid_file, words, folder)


def begin(pid_file: Path, words: Sequence[bytes], folder: str) -> None:
    """Start a program that goes on after the tests, and write its pid."""
    with pid_file.with_suffix(".log").open("ab") as log:
        started = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    pid_file.write_text(f"{started.pid}\n")


def pid_file_of(cluster: Cluster, name: str) -> Path:
    """The pid file of a program of the cluster, beside its kubeconfig. Skips if it runs elsewhere."""
    path = cluster.kubeconfig.parent / f"{name}.pid"
    if not path.exists():
        pytest.skip(f"the cluster's {name} is not of this machine: {path} is not here")
    return path
