"""The Helm charts on a real cluster: accepted, installed, used, upgraded under load, and removed.

The cluster of these tests has no DNS, no proxies of Services and no tokens in pods. So the engine's pods know names by
`hostAliases`, a gateway on this machine forwards to the Services, and the controller has a kubeconfig with the token of
its account.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import helm_python
import httpx
import pytest

from deploy.demo.tour import SETTINGS, Tour, Workers
from queue_engine import __version__
from queue_engine.client import AsyncClient
from tests.clusters.cases import RecordCase
from tests.clusters.gateway import Gateway
from tests.clusters.kubernetes_cluster import Cluster, Endpoints, Object, missing, namespace_of
from tests.clusters.oci_archive import Image
from tests.clusters.python_image import ENVIRONMENT, engine_image, program_image
from tests.deploy.helm import ENGINE_CHART, PRODUCTION, TRIAL, WORKERS_CHART, documents, merged
from tests.docs.pages import page
from tests.integration.certificates import Authority
from tests.servers import valkey_binary
from tests.waiting import GIVE_UP_SECONDS, wait_until

# With the images and the installation, which the first test waits for.
pytestmark = pytest.mark.timeout(1800)

REGISTRY = "localhost/queue-engine-test"
ENGINE, AGENT, STORE = f"{REGISTRY}/engine", f"{REGISTRY}/chart-agent", f"{REGISTRY}/valkey:1"
INSTALL_SECONDS = 600
DEMO_FILES = 40
ROLES = ("api", "delivery", "controller")
RIGHTS = [
    *(("pods", verb) for verb in ("create", "get", "list", "watch", "delete")),
    ("pods/log", "get"),
    *(("secrets", verb) for verb in ("create", "get", "list", "delete")),
    ("events", "list"),
    ("configmaps/queue-engine-anchor", "get"),
]
NO_RIGHTS = [
    *(("pods", verb) for verb in ("patch", "update", "deletecollection")),
    *((f"pods/{part}", "create") for part in ("exec", "attach", "portforward", "eviction", "ephemeralcontainers")),
    ("pods/exec", "get"),
    *(("secrets", verb) for verb in ("patch", "update", "watch")),
    ("serviceaccounts/token", "create"),
    *(("configmaps", verb) for verb in ("create", "list", "update")),
    *((kind, "create") for kind in ("deployments", "jobs", "rolebindings", "services")),
]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    return Cluster.of_environment()


@pytest.fixture(scope="module")
def images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two versions of the engine and its agent, with the same files, and a store."""
    folder = tmp_path_factory.mktemp("images")
    files = engine_image(folder)
    store = program_image(
        folder / "store.tar", {"valkey-server": valkey_binary(), "valkey-cli": Path("/usr/bin/redis-cli")}
    )
    agent = Image(files, ["worker-agent"], ENVIRONMENT)
    engine = Image(files, ["queue-engine", "--help"], ENVIRONMENT)
    both = {f"{name}:{tag}": image for name, image in ((ENGINE, engine), (AGENT, agent)) for tag in (1, 2)}
    cluster.import_images(folder, both | {STORE: Image(store, ["valkey-server"], {"PATH": "/usr/local/bin:/bin"})})


def helm(cluster: Cluster, namespace: str) -> helm_python.Config:
    return helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace)


# The server


@pytest.mark.parametrize("values", [TRIAL, PRODUCTION], ids=["trial", "production"])
def test_the_server_accepts_the_objects_of_the_chart(values: dict[str, Any], cluster: Cluster) -> None:
    with helm(cluster, "default") as config:
        made = config.install(ENGINE_CHART, "qe-chart", merged(values, WITHOUT_OPERATOR), dry_run="server")
    objects = documents(made["manifest"])
    budgets = {one["apiVersion"] for one in objects if one["kind"] == "PodDisruptionBudget"}
    versions = cluster.kubectl("api-versions").split()
    assert budgets == {"policy/v1" if "policy/v1" in versions else "policy/v1beta1"}


def test_a_volume_without_a_class_is_bound_to_the_claim_of_a_trial(cluster: Cluster, tmp_path: Path) -> None:
    name = f"qe-claim-{uuid.uuid4().hex[:6]}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "4Gi"},
            "hostPath": {"path": str(tmp_path)},
            "persistentVolumeReclaimPolicy": "Delete",
        },
    }
    with namespace_of(cluster, name), helm(cluster, name) as config:
        objects = documents(config.install(ENGINE_CHART, name, dict(TRIAL), dry_run="client")["manifest"])
        [claim] = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
        volume["spec"]["claimRef"] = {"namespace": name, "name": claim["metadata"]["name"]}  # type: ignore[index]
        try:
            cluster.apply(volume, claim)
            wait_until(lambda: phase_of(cluster, name) == "Bound", timeout=60, message="the claim is not bound")
        finally:
            cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


def phase_of(cluster: Cluster, namespace: str) -> str:
    [claim] = cluster.objects("persistentvolumeclaims", namespace)
    phase: str = claim["status"]["phase"]
    return phase


WITHOUT_OPERATOR: dict[str, Any] = {
    "serviceMonitor": {"enabled": False},
    "prometheusRule": {"enabled": False},
    "workers": {"podMonitor": {"enabled": False}},
}
"""The cluster does not have the Prometheus operator, whose objects a server accepts only with it."""


def test_the_chart_for_another_cluster_gives_its_account_these_rights_and_leaves_nothing(cluster: Cluster) -> None:
    name = f"qe-chart-{uuid.uuid4().hex[:6]}"
    workers = f"{name}-workers"
    with namespace_of(cluster, name), helm(cluster, name) as config:
        values = {
            "namespace": workers,
            "networkPolicy": {"engine": {"cidrs": ["203.0.113.7/32"]}},
            "quota": {"pods": 7},
        }
        config.install(WORKERS_CHART, "workers", values, timeout=INSTALL_SECONDS)

        def token() -> str:
            [secret] = cluster.objects(
                "secret", workers, "--field-selector", "metadata.name=queue-engine-controller-token"
            )
            return str(secret.get("data", {}).get("token", ""))

        assert wait_until(token, message="the account gets no token")
        check_rights(cluster, f"{workers}:queue-engine-controller", workers)
        config.uninstall("workers", timeout=INSTALL_SECONDS)
        wait_until(lambda: workers not in namespaces(cluster), message=f"{workers} stays")


def check_rights(cluster: Cluster, account: str, namespace: str) -> None:
    """Check that a service account has all rights of a controller in the namespace of its workers, and no others."""
    lacking = [right for right in RIGHTS if not may(cluster, account, namespace, *right)]
    excess = [right for right in NO_RIGHTS if may(cluster, account, namespace, *right)]
    elsewhere = [
        right for right in RIGHTS for other in ("default", "kube-system") if may(cluster, account, other, *right)
    ]
    assert (lacking, excess, elsewhere) == ([], [], [])


def may(cluster: Cluster, account: str, namespace: str, resource: str, verb: str) -> bool:
    """Ask the server, as `kubectl auth can-i` does."""
    kind, _, part = resource.partition("/")
    named = {"name": part} if kind == "configmaps" and part else {"subresource": part}
    groups = {"deployments": "apps", "jobs": "batch", "rolebindings": "rbac.authorization.k8s.io"}
    attributes = {"namespace": namespace, "verb": verb, "resource": kind, "group": groups.get(kind, ""), **named}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{account}", "resourceAttributes": attributes},
    }
    with cluster.client() as client:
        answered = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review)
    assert answered.is_success, answered.text
    allowed: bool = answered.json()["status"]["allowed"]
    return allowed


def namespaces(cluster: Cluster) -> list[str]:
    return cluster.kubectl("get", "namespaces", "--output", "name").replace("namespace/", "").split()


# An installation


@dataclass
class Installation:
    """A release on the cluster, with clients of its API."""

    cluster: Cluster
    release: str
    namespace: str
    workers: str
    url: str
    authority: Authority
    values: dict[str, Any]
    key: str = ""
    endpoint: str = ""
    load: list[str] = field(default_factory=list)

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"X-Api-Key": self.key},
            verify=ssl.create_default_context(cafile=str(self.authority.bundle)),
            trust_env=False,
            timeout=30,
        )

    def data(self, client: httpx.Client, path: str) -> Any:
        return client.get(f"/v2/serverless/{path}").raise_for_status().json()["data"]

    def logs(self) -> str:
        """The last lines of all processes, and the state of all pods, for the message of a failure."""
        pods = self.cluster.kubectl("get", "pods", "--all-namespaces", "--output", "wide", check=False)
        selector = f"app.kubernetes.io/instance={self.release}"
        words = ("logs", "--namespace", self.namespace, "--selector", selector, "--tail", "8", "--prefix")
        return f"{pods}\n{self.cluster.kubectl(*words, check=False)}"


@pytest.fixture(scope="module")
def installed(cluster: Cluster, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    name = f"qe-chart-{uuid.uuid4().hex[:6]}"
    release, workers = "farm", f"{name}-workers"
    with ExitStack() as until_end:
        until_end.enter_context(namespace_of(cluster, name))
        gateway = until_end.enter_context(Gateway(cluster.host_address(name, STORE)))
        for service, port in (("valkey", 6379), ("api", 0)):
            endpoints = Endpoints(cluster, name, f"{release}-{service}")
            until_end.callback(endpoints.close)
            port = gateway.forward(endpoints, port)
        server = f"https://{gateway.host}:{gateway.forward(lambda: [('127.0.0.1', cluster.port)])}"
        host = f"{release}-api.{name}.svc"
        authority = Authority(tmp_path_factory.mktemp("certificates"))
        certificate = authority.issue(gateway.host, host).path.read_text()
        authorities = {"tls.crt": certificate, "tls.key": certificate, "ca.crt": authority.bundle.read_text()}
        cluster.make_secret(name, "certificate", authorities, "kubernetes.io/tls")
        values = values_for(gateway.host, port, host, workers)
        found = Installation(cluster, release, name, workers, f"https://{gateway.host}:{port}", authority, values)
        until_end.callback(remove, found)
        with helm(cluster, name) as config:
            config.install(ENGINE_CHART, release, values, timeout=INSTALL_SECONDS)
        cluster.make_secret(name, "kubeconfig", {"kubeconfig": kubeconfig_of(cluster, found, server)})
        wait_until_ready(found)
        found.key = base64.b64decode(secrets_of_trial(found)["api-key"]).decode()
        yield found


def values_for(gateway: str, port: int, host: str, workers: str) -> dict[str, Any]:
    """Values for a cluster without DNS, proxies, tokens in pods, and classes of storage."""
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return {
        "image": {"registry": REGISTRY, "engine": "engine", "agent": "chart-agent", "tag": "1", "pullPolicy": "Never"},
        "trial": {
            "enabled": True,
            "store": {"image": STORE, "persistence": {"enabled": False}, "resources": small},
        },
        "tls": {"existingSecret": "certificate", "caKey": "ca.crt"},
        "agentUrl": f"https://{gateway}:{port}",
        "service": {"port": port},
        "hostAliases": [{"ip": gateway, "hostnames": ["farm-valkey", host]}],
        "clusters": {
            "regions": 'kubeconfig = "/etc/queue-engine/clusters/kubeconfig"\n\n[regions.local]\n',
            "existingSecret": "kubeconfig",
        },
        "settings": {"QUEUE_ENGINE_WEBHOOK_ALLOW": f"{gateway}/32", **SETTINGS_OF_DEMO},
        "workers": {"namespace": workers},
        **{role: {"resources": small} for role in ROLES},
    }


SETTINGS_OF_DEMO: dict[str, Any] = {
    name: float(value) if re.fullmatch(r"[\d.]+", value) else value for name, value in SETTINGS.items()
}


def kubeconfig_of(cluster: Cluster, installation: Installation, server: str) -> str:
    """Return a kubeconfig of the controller's account."""
    account = f"{installation.release}-controller"
    annotations = {"kubernetes.io/service-account.name": account}
    metadata = {"name": "token", "namespace": installation.namespace, "annotations": annotations}
    kind = "kubernetes.io/service-account-token"
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind})

    def token() -> str:
        [secret] = cluster.objects("secret", installation.namespace, "--field-selector", "metadata.name=token")
        return base64.b64decode(secret.get("data", {}).get("token", "")).decode()

    user = {"token": wait_until(token, message="the account gets no token")}
    context = {"cluster": "here", "user": "controller", "namespace": installation.workers}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "controller", "user": user}],
            "contexts": [{"name": "here", "context": context}],
            "current-context": "here",
        }
    )


def wait_until_ready(installation: Installation) -> None:
    """Wait until all Deployments have only pods of their newest version, which are ready."""

    def unready() -> list[str]:
        found = installation.cluster.objects("deployment", installation.namespace)
        return (
            [one["metadata"]["name"] for one in found if not is_rolled_out(one)] if len(found) == len(ROLES) else ["-"]
        )

    wait_until(lambda: not unready(), INSTALL_SECONDS, lambda: f"not ready: {unready()}\n{installation.logs()}")


def is_rolled_out(deployment: Object) -> bool:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    is_seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
    return is_seen and counts == [wanted] * 3


def remove(installation: Installation) -> None:
    with helm(installation.cluster, installation.namespace) as config:
        config.uninstall(installation.release, ignore_not_found=True, timeout=INSTALL_SECONDS)


def test_the_controller_has_its_rights_and_no_others(installed: Installation) -> None:
    check_rights(installed.cluster, f"{installed.namespace}:farm-controller", installed.workers)
    for role in ("api", "delivery"):
        account = f"{installed.namespace}:farm-{role}"
        assert not [right for right in RIGHTS if may(installed.cluster, account, installed.workers, *right)]


def test_the_commands_of_the_guide_lead_to_the_first_task(installed: Installation, tmp_path: Path) -> None:
    [block] = [one for one in page("docs/operations/kubernetes.md").blocks if "kubectl exec" in one.text]
    command = block.text[block.text.index("kubectl exec") :]
    for there, here in (
        ("--namespace queue-engine", f"--namespace {installed.namespace}"),
        ("deploy/queue-engine-api", "deploy/farm-api"),
        (f"images.example.com/team/queue-engine/agent:{__version__}", f"{AGENT}:1"),
        ("here:CPU", "local:CPU"),
    ):
        assert there in command
        command = command.replace(there, here)
    ran = subprocess.run(
        ["bash", "-ec", command],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "KUBECONFIG": str(installed.cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_SECONDS * 2,
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}\n{installed.logs()}"
    assert "HELLO" in ran.stdout


def test_the_demo_runs_through_the_installation(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(installed.authority.bundle))

    async def take_the_tour() -> None:
        async with AsyncClient(installed.url, installed.key) as client:
            tour = Tour(client, print, str(httpx.URL(installed.url).host))
            await tour.run(DEMO_FILES, Workers("kubernetes", f"{AGENT}:1", None))

    asyncio.run(take_the_tour())


def test_an_upgrade_under_load_loses_no_task_and_restarts_no_worker(
    installed: Installation, record_case: RecordCase
) -> None:
    with installed.client() as client:
        [endpoint] = [one for one in installed.data(client, "") if one["name"] == "echo"]
        installed.endpoint = str(endpoint["id"])
        before, secrets = workers_of(installed), secrets_of_trial(installed)
        assert before
        load = Load(installed)
        load.start()
        try:
            wait_until(lambda: len(load.accepted) > 20, message=f"no load: {load.refused[:3]}")
            with helm(installed.cluster, installed.namespace) as config:
                values = merged(installed.values, {"image": {"tag": "2"}})
                config.upgrade(ENGINE_CHART, installed.release, values, timeout=INSTALL_SECONDS)
            wait_until_ready(installed)
            at = len(load.accepted)
            wait_until(lambda: len(load.accepted) > at + 20, message=f"no load: {load.refused[:3]}")
        finally:
            load.stop()
        assert load.refused == []
        count = f"{installed.endpoint}/tasks/count"
        wait_until(
            lambda: installed.data(client, count)["processing"] == 0,
            INSTALL_SECONDS,  # a loaded machine submits faster than it executes, for as long as the upgrade takes
            message=f"not ended: {installed.logs()}",
        )
        tasks = all_tasks(installed, client)
    ended = {task_id: (tasks[task_id]["status"], tasks[task_id]["attempts"]) for task_id in load.accepted}
    assert {task_id: one for task_id, one in ended.items() if one != ("SUCCESS", 1)} == {}
    assert workers_of(installed) == before
    assert secrets_of_trial(installed) == secrets
    wait_until(lambda: images_of_api(installed) == {f"{ENGINE}:2"}, INSTALL_SECONDS, "an old API process stays")
    seen = f"{len(load.accepted)} tasks submitted during it, all executed once"
    record_case("upgrade of the chart under load", seen=seen, recovery="not needed: workers and their pods go on")


def secrets_of_trial(installation: Installation) -> dict[str, str]:
    name = f"metadata.name={installation.release}-trial"
    [secret] = installation.cluster.objects("secret", installation.namespace, "--field-selector", name)
    data: dict[str, str] = secret["data"]
    return data


def images_of_api(installation: Installation) -> set[str]:
    pods = installation.cluster.objects("pods", installation.namespace, "--selector", "app.kubernetes.io/component=api")
    return {str(one["spec"]["containers"][0]["image"]) for one in pods}


def all_tasks(installation: Installation, client: httpx.Client) -> dict[str, Any]:
    """Return the tasks of the guide's endpoint by their ids."""
    found: dict[str, Any] = {}
    number, pages = 0, 1
    while number < pages:
        number += 1
        got = installation.data(client, f"{installation.endpoint}/tasks?pageNumber={number}&pageSize=1000")
        pages = got["pages"]
        found |= {task["taskId"]: task for task in got["items"]}
    return found


def workers_of(installation: Installation) -> dict[str, str]:
    """The pods of the workers of the guide's endpoint, with the times of their starts."""
    selector = f"queue-engine/endpoint={installation.endpoint}"
    pods = installation.cluster.objects("pods", installation.workers, "--selector", selector)
    return {one["metadata"]["uid"]: str(one["status"].get("startTime")) for one in pods}


class Load(threading.Thread):
    """Submits one task after the other. A request without a response is sent again, which is safe with a `taskId`."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self._installation = installation
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        number = 0
        with self._installation.client() as client:
            while not self._stopping.wait(0.1):
                number += 1
                self._submit(client, f"load_{number}")

    def _submit(self, client: httpx.Client, task_id: str) -> None:
        task = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": {"text": "hello"}}
        path = f"/v2/serverless/{self._installation.endpoint}/tasks"
        for _ in range(MAX_TRIES):
            try:
                response = client.post(path, json=task)
            except httpx.TransportError:
                continue
            if response.is_success:
                self.accepted.append(task_id)
            else:
                self.refused.append(response.text)
            return
        self.refused.append(f"{task_id}: no response")


MAX_TRIES = 5
"""A connection is cut at most once for each API process that ends."""


def test_the_release_is_removed_with_its_workers_and_nothing_stays(installed: Installation) -> None:
    cluster = installed.cluster
    assert cluster.objects("pods", installed.workers)
    own = {"secret/certificate", "secret/kubeconfig", "secret/token"}
    remove(installed)
    kinds = cluster.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))

    def left() -> set[str]:
        found = cluster.kubectl(
            "get", listed, "--namespace", installed.namespace, "--output", "name", "--ignore-not-found"
        )
        return {one for one in found.split() if one not in own and not is_of_every_namespace(one)}

    wait_until(lambda: not left(), INSTALL_SECONDS, message=f"left: {left()}")
    wait_until(
        lambda: installed.workers not in namespaces(cluster), INSTALL_SECONDS, message=f"{installed.workers} stays"
    )


def is_of_every_namespace(name: str) -> bool:
    return bool(re.fullmatch(r"serviceaccount/default|secret/default-token-\w+|configmap/kube-root-ca\.crt", name))
