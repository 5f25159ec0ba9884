"""The pod and the Secrets of a worker as a Kubernetes API server is asked for them."""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

import kubernetes_validate
import pytest

from queue_engine.backends.base import RegistryCredential, WorkerSpec
from queue_engine.backends.images import parse_reference
from queue_engine.backends.kubernetes.names import Identity, identity_of, resource_of, selector
from queue_engine.backends.kubernetes.sites import ClusterPlace, Place, Sites
from queue_engine.backends.kubernetes.specs import PodDocuments, PodSettings, pull_policy
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.clusters import Clusters
from queue_engine.domain.endpoints import Resource, ServiceMode
from queue_engine.domain.kubernetes import Toleration

OLDEST = "1.25"
"""The oldest version whose schema the package has. A real server of 1.20 gets the documents in tests/clusters."""
CATALOGUE = Catalogue.parse(
    """
    [[gpu]]
    name = "CPU"
    cpu = true
    [[gpu]]
    name = "NVIDIA_L4_24G"
    kubernetes.products = ["NVIDIA-L4", "NVIDIA-L4-SHARED"]
    [[gpu]]
    name = "MI300X"
    [gpu.kubernetes]
    resourceName = "amd.com/gpu"
    selector = { "amd.com/gpu.family" = "AI" }
    tolerations = [{ key = "amd.com/gpu", operator = "Exists", effect = "NoSchedule" }]
    runtimeClass = "amd"
    """
)
CLUSTERS = Clusters.parse(
    """
    [regions.east]
    nodeSelector = { "topology.kubernetes.io/region" = "us-east-1" }
    [regions.west]
    context = "west"
    """
)
SITES = Sites(CLUSTERS, CATALOGUE, ClusterPlace(None, "workers"))
L4, CPU, AMD = Resource("east", "NVIDIA_L4_24G", 2), Resource("west", "CPU", 1), Resource("west", "MI300X", 8)
SETTINGS = PodSettings("instance-1", 30.0, "registry.example/agent:1", "https://engine.example", naming_key=b"key")
SPEC = WorkerSpec(
    endpoint_id="7",
    worker_id="7-ab",
    run=2,
    revision=3,
    image="demo/image",
    registry_credential=RegistryCredential("me", "canary-90e2"),
    command="serve --port $PORT",
    environment={"KEY": "canary-7d2c"},
    exposed_port=8000,
    protocol="HTTP",
    resources=(L4,),
    volume_gb=20,
    card_vcpus=4,
    card_ram_gb=16,
    card_vram_gb=24,
    ready_path="/healthz",
    agent_environment={"WORKER_AGENT_TOKEN": "canary-a9e1", "WORKER_AGENT_GRACE_SECONDS": "30.0"},
)
LABELS = {
    "app.kubernetes.io/managed-by": "queue-engine",
    "queue-engine/instance": "instance-1",
    "queue-engine/endpoint": "7",
    "queue-engine/worker": "7-ab",
    "queue-engine/run": "2",
    "queue-engine/revision": "3",
}
OWNERS = [
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "queue-engine-anchor",
        "uid": "5e1f",
        "controller": False,
        "blockOwnerDeletion": False,
    }
]


@dataclass(frozen=True)
class Anchor:
    name: str = "queue-engine-anchor"
    uid: str = "5e1f"


def place(*resources: Resource) -> Place:
    found = SITES.place(resources, {}, {}, 0.0)
    assert isinstance(found, Place)
    return found


def pod(spec: WorkerSpec = SPEC, settings: PodSettings = SETTINGS) -> dict[str, Any]:
    return PodDocuments(settings, SITES).pod(spec, place(*spec.resources), Anchor())


def secrets(spec: WorkerSpec = SPEC, settings: PodSettings = SETTINGS) -> tuple[dict[str, Any], ...]:
    return PodDocuments(settings, SITES).secrets(spec, place(*spec.resources), Anchor())


def containers(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    agent, main = document["spec"]["containers"]
    return agent, main


def content(secret: dict[str, Any]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_the_whole_pod() -> None:
    _pull, environment, _agent = secrets()
    assert pod() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "qe-7-ab-2",
            "labels": LABELS,
            "annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
                "queue-engine/resource": '{"region": "east", "gpuType": "NVIDIA_L4_24G", "gpuCount": 2}',
                "queue-engine/gpus": "2 × NVIDIA_L4_24G",
            },
            "ownerReferences": OWNERS,
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 50,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "shareProcessNamespace": False,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "imagePullSecrets": [{"name": _pull["metadata"]["name"]}],
            "nodeSelector": {"topology.kubernetes.io/region": "us-east-1"},
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{condition}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 60,
                }
                for condition in ("not-ready", "unreachable")
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "nvidia.com/gpu.product",
                                        "operator": "In",
                                        "values": ["NVIDIA-L4", "NVIDIA-L4-SHARED"],
                                    },
                                    {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["22887"]},
                                ]
                            }
                        ]
                    }
                }
            },
            "containers": [
                {
                    "name": "agent",
                    "image": "registry.example/agent:1",
                    "imagePullPolicy": "IfNotPresent",
                    "env": [
                        {"name": "WORKER_AGENT_GRACE_SECONDS", "value": "30.0"},
                        {"name": "WORKER_AGENT_SERVER", "value": "https://engine.example"},
                        {"name": "WORKER_AGENT_EXPOSED_PORT", "value": "8000"},
                        {"name": "WORKER_AGENT_READY_PATH", "value": "/healthz"},
                        {"name": "WORKER_AGENT_ENDPOINT", "value": "7"},
                        {"name": "WORKER_AGENT_WORKER_ID", "value": "7-ab"},
                        {"name": "WORKER_AGENT_RUN", "value": "2"},
                        {"name": "WORKER_AGENT_SERVICE_MODE", "value": "QUEUE"},
                        {"name": "WORKER_AGENT_CONCURRENCY", "value": "1"},
                        {"name": "WORKER_AGENT_START_TIMEOUT_SECONDS", "value": "1800.0"},
                        {"name": "WORKER_AGENT_CONTAINER_URL", "value": "http://127.0.0.1"},
                        {"name": "WORKER_AGENT_OWN_NETWORK", "value": "true"},
                        {"name": "WORKER_AGENT_METRICS_PORT", "value": "9091"},
                        {"name": "WORKER_AGENT_DRAIN_HOOK", "value": "true"},
                        {
                            "name": "WORKER_AGENT_METRICS_HOST",
                            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
                        },
                        {
                            "name": "WORKER_AGENT_TOKEN",
                            "valueFrom": {"secretKeyRef": {"name": "qe-agent-7-ab-2", "key": "token"}},
                        },
                    ],
                    "ports": [{"name": "agent", "containerPort": 9091, "protocol": "TCP"}],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "1Gi"},
                        "limits": {"memory": "512Mi", "ephemeral-storage": "1Gi"},
                    },
                    "securityContext": {
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "runAsNonRoot": True,
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                },
                {
                    "name": "main",
                    "image": "docker.io/demo/image:latest",
                    "imagePullPolicy": "Always",
                    "command": ["/bin/sh", "-c", "serve --port $$PORT"],
                    "envFrom": [{"secretRef": {"name": environment["metadata"]["name"]}}],
                    "resources": {
                        "requests": {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "19Gi"},
                        "limits": {"ephemeral-storage": "19Gi", "nvidia.com/gpu": "2"},
                    },
                    "lifecycle": {"preStop": {"httpGet": {"path": "/drained", "port": 9091}}},
                    "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 5},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {
                            "drop": ["ALL"],
                            "add": [
                                *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP"),
                                *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
                            ],
                        },
                    },
                },
            ],
        },
    }


def test_the_whole_secrets_in_the_order_of_their_creation() -> None:
    pull, environment, agent = secrets()
    common = {name: LABELS[name] for name in ("app.kubernetes.io/managed-by", "queue-engine/instance")}
    of_revision = {"queue-engine/endpoint": "7", "queue-engine/revision": "3"}
    for secret, labels, kind in (
        (pull, common, "kubernetes.io/dockerconfigjson"),
        (environment, common | of_revision, "Opaque"),
        (agent, LABELS, "Opaque"),
    ):
        name = secret["metadata"]["name"]
        assert secret == {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": labels, "ownerReferences": OWNERS},
            "type": kind,
            "immutable": True,
            "data": secret["data"],
        }
    assert pull["metadata"]["name"].startswith("qe-pull-")
    assert environment["metadata"]["name"].startswith("qe-env-7-3-")
    assert agent["metadata"]["name"] == "qe-agent-7-ab-2"
    assert content(environment) == {"PYTHONUNBUFFERED": "1", "PORT": "8000", "KEY": "canary-7d2c"}
    assert content(agent) == {"token": "canary-a9e1"}
    assert json.loads(content(pull)[".dockerconfigjson"]) == {
        "auths": {
            "https://index.docker.io/v1/": {
                "username": "me",
                "password": "canary-90e2",
                "auth": base64.b64encode(b"me:canary-90e2").decode(),
            }
        }
    }


VARIANTS = {
    "plain": (SPEC, SETTINGS),
    "without GPU": (replace(SPEC, resources=(CPU,), registry_credential=None), SETTINGS),
    "another vendor": (replace(SPEC, resources=(AMD,), service_mode=ServiceMode.ALB), SETTINGS),
    "bare": (replace(SPEC, command=None, exposed_port=None, ready_path=None, resources=(CPU,), volume_gb=0), SETTINGS),
    "all settings": (
        SPEC,
        replace(
            SETTINGS,
            agent_ca="-----BEGIN CERTIFICATE-----",
            agent_pull_policy="Never",
            pull_policy="Always",
            pull_secrets=("registry",),
            service_account="worker",
            restricted=True,
            memory_limits=True,
            storage_class="fast",
            priority_class="low",
            runtime_class="kata",
            tolerations=(Toleration(key="gpu", value="yes", effect="NoSchedule"),),
            annotations={"example.com/team": "a"},
            is_evictable=True,
        ),
    ),
}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pods_have_the_schema_of_servers(variant: str, version: str) -> None:
    kubernetes_validate.validate(pod(*VARIANTS[variant]), version, strict=True)


def test_the_secrets_have_the_schema_of_servers() -> None:
    for secret in secrets(*VARIANTS["all settings"]):
        kubernetes_validate.validate(secret, OLDEST, strict=True)


def test_a_document_with_a_wrong_field_is_noticed() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod() | {"sepc": {}}, OLDEST, strict=True)


def test_no_secret_is_in_a_pod_and_each_in_one_secret_only() -> None:
    assert "canary" not in json.dumps(pod())
    for secret in ("canary-90e2", "canary-7d2c", "canary-a9e1"):
        assert sum(secret in json.dumps(content(one)) for one in secrets()) == 1


def test_the_agents_variables_have_precedence_and_are_not_the_containers() -> None:
    agent, main = containers(pod(replace(SPEC, environment={"WORKER_AGENT_TOKEN": "mine"})))
    assert "env" not in main
    assert variables(agent)["WORKER_AGENT_TOKEN"] == {"secretKeyRef": {"name": "qe-agent-7-ab-2", "key": "token"}}
    assert "envFrom" not in agent


@pytest.mark.parametrize("mode", [ServiceMode.ALB, ServiceMode.CUSTOM])
def test_the_address_of_a_worker_that_others_connect_to_is_its_pods(mode: ServiceMode) -> None:
    agent, _ = containers(pod(replace(SPEC, service_mode=mode)))
    assert variables(agent)["WORKER_AGENT_ADVERTISE_HOST"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_a_pod_without_gpus_sees_none_and_takes_any_node_of_its_region() -> None:
    document = pod(replace(SPEC, resources=(CPU,), environment={"NVIDIA_VISIBLE_DEVICES": "all"}))
    _, main = containers(document)
    assert variables(main) == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert "nvidia.com/gpu" not in main["resources"]["limits"]
    assert (main["resources"]["requests"]["cpu"], main["resources"]["requests"]["memory"]) == ("4", "16Gi")
    assert not {"affinity", "nodeSelector", "runtimeClassName"} & document["spec"].keys()
    assert "queue-engine/gpus" not in document["metadata"]["annotations"]


def test_an_endpoint_cannot_choose_gpus_by_a_variable() -> None:
    _pull, environment, _agent = secrets(replace(SPEC, environment={"NVIDIA_VISIBLE_DEVICES": "all"}))
    assert "NVIDIA_VISIBLE_DEVICES" not in content(environment)


def test_a_gpu_type_has_its_own_resource_nodes_tolerations_and_runtime() -> None:
    document = pod(replace(SPEC, resources=(AMD,)))
    _, main = containers(document)
    assert main["resources"]["limits"]["amd.com/gpu"] == "8"
    [term] = document["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchExpressions": [{"key": "amd.com/gpu.family", "operator": "In", "values": ["AI"]}]}
    assert document["spec"]["runtimeClassName"] == "amd"
    assert {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in document["spec"]["tolerations"]


def test_the_settings_of_the_operator_are_in_the_pod() -> None:
    document = pod(*VARIANTS["all settings"])
    agent, main = containers(document)
    spec = document["spec"]
    named = [spec[f"{name}Name"] for name in ("serviceAccount", "priorityClass", "runtimeClass")]
    assert named == ["worker", "low", "kata"]
    assert document["metadata"]["annotations"].keys() == {
        "example.com/team", "queue-engine/resource", "queue-engine/gpus",
    }  # fmt: skip
    assert {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"} in spec["tolerations"]
    assert [one["name"] for one in spec["imagePullSecrets"]][1:] == ["registry"]
    assert (agent["imagePullPolicy"], main["imagePullPolicy"]) == ("Never", "Always")
    assert main["securityContext"] == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }
    assert main["resources"]["limits"]["memory"] == "32Gi"


def test_a_volume_of_a_storage_class_replaces_the_nodes_disk() -> None:
    document = pod(*VARIANTS["all settings"])
    _, main = containers(document)
    assert "ephemeral-storage" not in main["resources"]["requests"]
    [volume] = [one for one in document["spec"]["volumes"] if one["name"] == "volume"]
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert (claim["storageClassName"], claim["resources"]) == ("fast", {"requests": {"storage": "20Gi"}})
    assert main["volumeMounts"] == [{"name": "volume", "mountPath": "/data"}]


def test_the_authority_of_the_api_is_a_file_of_the_agent_only() -> None:
    document = pod(*VARIANTS["all settings"])
    agent, main = containers(document)
    assert variables(agent)["WORKER_AGENT_SERVER_CA"] == "/etc/queue-engine/ca/ca.crt"
    [mount] = agent["volumeMounts"]
    assert mount["name"] not in [one["name"] for one in main["volumeMounts"]]
    _pull, _environment, of_agent = secrets(*VARIANTS["all settings"])
    assert content(of_agent)["ca.crt"] == "-----BEGIN CERTIFICATE-----"
    assert "volumes" not in pod()["spec"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo $$ $(PORT) ${HOME}", ["/bin/sh", "-c", "echo $$$$ $$(PORT) $${HOME}"]),
        ('["serve", "$(PORT)"]', ["serve", "$$(PORT)"]),
        (" ", None),
    ],
)
def test_a_command_reaches_the_container_as_it_is(command: str, words: list[str] | None) -> None:
    """Kubernetes replaces `$(NAME)` by the value of a variable, and `$$` by `$`."""
    _, main = containers(pod(replace(SPEC, command=command)))
    assert main.get("command") == words


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a/b", "Always"),
        ("a/b:2", "IfNotPresent"),
        ("a/b@sha256:" + "0" * 64, "IfNotPresent"),
        ("localhost/b:2", "Never"),
    ],
)
def test_an_image_is_pulled_again_only_if_its_tag_says_nothing(image: str, policy: str) -> None:
    assert pull_policy(parse_reference(image)) == policy


def test_a_name_of_a_secret_changes_with_its_content() -> None:
    def names(spec: WorkerSpec, settings: PodSettings = SETTINGS) -> list[str]:
        return [one["metadata"]["name"] for one in secrets(spec, settings)]

    before = names(SPEC)
    assert names(SPEC) == before
    other_value = names(replace(SPEC, environment={"KEY": "other"}))
    assert (other_value[0], other_value[2]) == (before[0], before[2])
    assert other_value[1] != before[1]
    for credential in (RegistryCredential("me", "other"), RegistryCredential("you", "canary-90e2")):
        assert names(replace(SPEC, registry_credential=credential))[0] != before[0]
    assert names(replace(SPEC, image="registry.example/image"))[0] != before[0]
    for settings in (replace(SETTINGS, naming_key=b"another"), replace(SETTINGS, instance="instance-2")):
        assert not {*names(SPEC, settings)[:2]} & {*before}


def test_a_start_that_goes_on_needs_no_token() -> None:
    spec = replace(SPEC, agent_environment={})
    assert [one["metadata"]["name"].split("-")[1] for one in secrets(spec)] == ["pull", "env"]
    assert pod(spec)["spec"]["containers"][0]["env"][-1] == pod()["spec"]["containers"][0]["env"][-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "UPPER"}, "image: "),
        ({"exposed_port": 9091}, "expose: port 9091 is the agent's own"),
        ({"environment": {"A B": "x"}}, "environmentVars: 'A B' is not a name"),
        ({"environment": {"..a": "x"}}, "environmentVars: '..a' is not a name"),
        ({"environment": {"1A": "x"}}, "environmentVars: '1A' is not a name"),
        ({"resources": (Resource("mars", "CPU", 1),)}, "resources: no cluster is configured for the region mars"),
        ({"resources": (Resource("east", "ABACUS", 1),)}, "resources: the catalogue has no GPU type ABACUS"),
        (
            {"resources": (CPU,), "service_mode": ServiceMode.ALB},
            "resources: ALB endpoints cannot have workers in",
        ),
    ],
)
def test_a_worker_that_no_cluster_can_run_is_refused(changes: dict[str, Any], reason: str) -> None:
    refusal = PodDocuments(SETTINGS, SITES).refusal(replace(SPEC, **changes))
    assert refusal is not None
    assert refusal.startswith(reason)


@pytest.mark.parametrize("name", ["A", "_a", "a.b-c", "A1"])
def test_a_worker_that_a_cluster_can_run_is_not_refused(name: str) -> None:
    assert PodDocuments(SETTINGS, SITES).refusal(replace(SPEC, environment={name: "x"})) is None


def test_a_pod_is_found_again_by_its_labels_and_annotations() -> None:
    metadata = pod()["metadata"]
    assert identity_of(metadata["labels"]) == Identity("7", "7-ab", 2)
    assert resource_of(metadata["annotations"]) == L4
    assert selector("instance-1") == "queue-engine/instance=instance-1"


@pytest.mark.parametrize(("name", "value"), [("run", "x"), ("run", "9" * 19), ("worker", "a/b"), ("endpoint", "")])
def test_labels_of_others_are_no_identity(name: str, value: str) -> None:
    assert identity_of(LABELS | {f"queue-engine/{name}": value}) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"region":"a","gpuType":"b","gpuCount":"x"}'])
def test_an_annotation_that_was_changed_is_no_resource(text: str) -> None:
    assert resource_of({"queue-engine/resource": text}) is None
