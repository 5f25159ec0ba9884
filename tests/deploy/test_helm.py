"""deploy/helm: what Helm makes of the charts is valid, fits the engine's settings, and gives nothing away."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest

from queue_engine import __version__
from queue_engine.config.engine import ControllerSettings, DeliverySettings
from queue_engine.config.names import CLIENT_VARIABLES
from queue_engine.config.store_url import parse_store_url
from queue_engine.config.store_users import acl_lines, rules_of
from queue_engine.crypto.sealing import parse_secret_key
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.clusters import Clusters
from queue_engine.observability.metrics import Role, registry_of
from tests import reference_helm
from tests.deploy.helm import (
    ENGINE_CHART,
    NAMESPACE,
    PRODUCTION,
    RELEASE,
    TRIAL,
    WORKERS_CHART,
    Object,
    Refused,
    lint,
    merged,
    named,
    of_kind,
    render,
    role_of,
)
from tests.deploy.programs import DEPLOY, check_command, check_variables, read_settings
from tests.docs.pages import page

ROLES = ("api", "delivery", "controller")
ALL = {"trial": TRIAL, "production": PRODUCTION}
SERVERS = ("1.25", "1.37")
NOT_OF_KUBERNETES = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
GUIDE = page("docs/operations/kubernetes.md")


@pytest.fixture(scope="module", params=ALL)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(ENGINE_CHART, ALL[request.param])


@pytest.fixture(scope="module")
def trial() -> list[Object]:
    return render(ENGINE_CHART, TRIAL)


@pytest.fixture(scope="module")
def production() -> list[Object]:
    return render(ENGINE_CHART, PRODUCTION)


@pytest.fixture(scope="module")
def workers() -> list[Object]:
    return render(WORKERS_CHART, {"networkPolicy": {"engine": {"cidrs": ["203.0.113.7/32"]}}})


def container_of(objects: list[Object], role: str) -> dict[str, Any]:
    [container] = named(objects, "Deployment", f"{RELEASE}-{role}")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def pod_of(objects: list[Object], role: str) -> dict[str, Any]:
    found: dict[str, Any] = named(objects, "Deployment", f"{RELEASE}-{role}")["spec"]["template"]["spec"]
    return found


def environment_of(objects: list[Object], role: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container_of(objects, role)["env"]}


def decoded(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def templates_of(objects: list[Object]) -> list[Object]:
    """The templates of all pods."""
    return [one["spec"]["template"] for one in of_kind(objects, "Deployment") + of_kind(objects, "StatefulSet")]


# Helm and Kubernetes


@pytest.mark.parametrize("chart", [ENGINE_CHART, WORKERS_CHART], ids=lambda path: path.name)
def test_helm_has_nothing_to_say_of_the_chart(chart: Path) -> None:
    assert lint(chart, TRIAL if chart is ENGINE_CHART else {}) == []


def test_a_broken_template_is_found_by_the_linter(tmp_path: Path) -> None:
    broken = Path(shutil.copytree(WORKERS_CHART, tmp_path / WORKERS_CHART.name))
    (broken / "templates/anchor.yaml").write_text("metadata: {name: [}\n")
    assert lint(broken, {}) != []


@pytest.mark.parametrize("server", SERVERS)
def test_servers_accept_the_fields_of_all_objects(server: str, objects: list[Object], workers: list[Object]) -> None:
    checked = [one for one in objects + workers if one["kind"] not in NOT_OF_KUBERNETES]
    for one in checked:
        kubernetes_validate.validate(one, server, strict=True)


def with_budgets(version: str) -> dict[str, Any]:
    return {"podDisruptionBudget": {"apiVersion": version}}


def test_a_wrong_field_of_an_object_is_found(trial: list[Object]) -> None:
    wrong = msgspec.yaml.decode(msgspec.yaml.encode(named(trial, "Deployment", f"{RELEASE}-api")))
    wrong["spec"]["template"]["spec"]["contaners"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="contaners"):
        kubernetes_validate.validate(wrong, SERVERS[-1], strict=True)


# Values


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"api": {"replica": 3}}, "replica"),
        ({"api": {"replicas": 0}}, "replicas"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"settings": {"QUEUE_ENGINE_LEASE_SECOND": 30}}, "QUEUE_ENGINE_LEASE_SECOND"),
        ({"settings": {"QUEUE_ENGINE_LEASE_SECONDS": 0}}, "QUEUE_ENGINE_LEASE_SECONDS"),
        ({"settings": {"QUEUE_ENGINE_LOG_LEVEL": "LOUD"}}, "QUEUE_ENGINE_LOG_LEVEL"),
        ({"settings": {"QUEUE_ENGINE_API_KEY": "qe_secret-of-a-test"}}, "QUEUE_ENGINE_API_KEY"),
        ({"service": {"port": 70000}}, "port"),
        ({"workers": {"namespce": "x"}}, "namespce"),
        ({"workers": {"podSecurity": "privileged"}}, "podSecurity"),
        ({"networkPolicy": {"clients": [{"podSelektor": {}}]}}, "podSelektor"),
        ({"trial": {"store": {"persistence": {"sise": "1Gi"}}}}, "sise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_with_its_name(values: dict[str, Any], name: str) -> None:
    with pytest.raises(Refused, match=name):
        render(ENGINE_CHART, merged(TRIAL, values))


@pytest.mark.parametrize(
    ("left_out", "name"),
    [
        (("image",), r"image\.registry"),
        (("store",), r"store\.existingSecret"),
        (("secretKey",), r"secretKey\.existingSecret"),
        (("apiKey",), r"apiKey\.existingSecret"),
        (("tls",), "agentUrl"),
        (("ingress", "host"), r"ingress\.host"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_is_missing_is_named(left_out: tuple[str, ...], name: str) -> None:
    values = json.loads(json.dumps(PRODUCTION))
    reference_helm.value_at(values, left_out[:-1]).pop(left_out[-1])
    with pytest.raises(Refused, match=name):
        render(ENGINE_CHART, values)


def test_a_namespace_for_workers_is_not_that_of_the_release() -> None:
    with pytest.raises(Refused, match="namespace: engine-room"):
        render(ENGINE_CHART, merged(TRIAL, {"workers": {"namespace": NAMESPACE}}))


@pytest.mark.parametrize("chart", [ENGINE_CHART, WORKERS_CHART], ids=lambda path: path.name)
def test_the_schema_is_closed_everywhere_and_describes_every_value(chart: Path) -> None:
    schema, values = reference_helm.schema_of(chart), reference_helm.values_of(chart)
    open_places = [
        place for place in open_objects(schema) if place not in ("/properties/global", "/properties/workers")
    ]
    assert open_places == []
    described = {path for path, _ in reference_helm.leaves(schema)} - {("global",)}
    for path in described:
        reference_helm.value_at(values, path)
    assert leaves_of(values, described) == described


def open_objects(schema: Any, place: str = "") -> list[str]:
    """The places of objects that take members of any name and kind."""
    if isinstance(schema, list):
        return [found for number, one in enumerate(schema) for found in open_objects(one, f"{place}/{number}")]
    if not isinstance(schema, dict):
        return []
    closed = schema.get("additionalProperties") is False or isinstance(schema.get("additionalProperties"), dict)
    own = [place] if schema.get("type") == "object" and not closed else []
    return own + [found for name, one in schema.items() for found in open_objects(one, f"{place}/{name}")]


def leaves_of(values: Any, described: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if path in described or not isinstance(values, dict):
        return {path}
    return set().union(*(leaves_of(one, described, (*path, name)) for name, one in values.items()))


def test_the_settings_that_the_schema_allows_are_those_of_the_processes() -> None:
    schema = reference_helm.schema_of(ENGINE_CHART)
    assert reference_helm.with_settings(schema) == schema, "run `make docs`"


def test_the_charts_have_the_version_of_the_engine() -> None:
    charts = [msgspec.yaml.decode((one / "Chart.yaml").read_bytes()) for one in (ENGINE_CHART, WORKERS_CHART)]
    assert {one["appVersion"] for one in charts} == {__version__}
    # Charts have versions of SemVer, in which the development version `0.3.0.dev0` is `0.3.0-dev.0`.
    assert {one["version"] for one in charts} == {re.sub(r"\.dev(\d+)$", r"-dev.\1", __version__)}
    assert charts[0]["dependencies"][0]["version"] == charts[1]["version"]


def test_large_numbers_of_the_values_are_written_as_whole_numbers() -> None:
    made = render(ENGINE_CHART, merged(TRIAL, {"settings": {"QUEUE_ENGINE_ALB_MAX_BODY_BYTES": 1073741824}}))
    settings = named(made, "ConfigMap", f"{RELEASE}-settings")["data"]
    assert settings == {"QUEUE_ENGINE_ALB_MAX_BODY_BYTES": "1073741824", "QUEUE_ENGINE_METRICS_ENDPOINT_LIMIT": "100"}


def test_the_values_and_regions_of_the_guide_are_right() -> None:
    [values] = [msgspec.yaml.decode(block.text) for block in GUIDE.blocks if block.language == "yaml"]
    made = render(ENGINE_CHART, values)
    assert environment_of(made, "controller")["QUEUE_ENGINE_AGENT_URL"] == values["agentUrl"]
    regions, types = [block.text for block in GUIDE.blocks if block.language == "toml"]
    clusters = Clusters.parse(regions)
    assert Path(str(clusters.kubeconfig)).parent == Path("/etc/queue-engine/clusters")
    assert clusters.names == ("us-east-1", "eu-west-1")
    assert Catalogue.parse(types).kubernetes["AMD_MI300X_192G"].resource_name == "amd.com/gpu"


# Processes


@pytest.mark.parametrize("role", ROLES)
def test_its_variables_and_its_command_are_those_of_the_process(
    role: str, objects: list[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container = container_of(objects, role)
    check_command([*container["command"], *container["args"]])
    own = environment_of(objects, role)
    check_variables(
        role,
        {name: value for name, value in own.items() if name not in CLIENT_VARIABLES - {"QUEUE_ENGINE_API_KEY_FILE"}},
    )
    shared = named(objects, "ConfigMap", f"{RELEASE}-settings")["data"]
    read_settings(role, shared | own, monkeypatch, tmp_path)


@pytest.mark.parametrize("role", ROLES)
def test_every_file_that_a_process_reads_is_mounted(role: str, objects: list[Object]) -> None:
    container = container_of(objects, role)
    mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod_of(objects, role)["volumes"]}
    assert set(mounted.values()) == set(volumes)
    files = {f"{path}/{name}" for path, volume in mounted.items() for name in files_in(volumes[volume], objects)}
    read = {value for value in environment_of(objects, role).values() if value.startswith("/")}
    assert read <= files
    secrets = {one for one in files if one.startswith("/etc/queue-engine/secrets/")}
    assert secrets == {one for one in read if one.startswith("/etc/queue-engine/secrets/")}


def files_in(volume: dict[str, Any], objects: list[Object]) -> list[str]:
    if "projected" in volume:
        return [item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    if "configMap" in volume:
        return list(named(objects, "ConfigMap", volume["configMap"]["name"])["data"])
    return []


@pytest.mark.parametrize(
    ("role", "secrets"),
    [
        (
            "api",
            {
                "store-url",
                "control-url",
                "secret-key",
                "secret-key-previous",
                "api-key",
                "tls.crt",
                "tls.key",
                "ca.crt",
            },
        ),
        ("delivery", {"store-url", "control-url", "secret-key", "secret-key-previous", "webhook-ca.crt"}),
        ("controller", {"store-url", "control-url", "secret-key", "secret-key-previous", "ca.crt"}),
    ],
)
def test_a_process_has_the_secrets_that_it_needs_and_no_others(
    role: str, secrets: set[str], production: list[Object]
) -> None:
    [volume] = [one for one in pod_of(production, role)["volumes"] if one["name"] == "secrets"]
    assert set(files_in(volume, production)) == secrets


def test_every_pod_fits_the_restricted_standard(objects: list[Object]) -> None:
    for template in templates_of(objects):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["readinessProbe"]
            assert container["livenessProbe"]
            startup = container["startupProbe"]  # a slow start is no reason for a restart
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_only_the_controller_has_a_token_for_the_cluster(objects: list[Object]) -> None:
    with_token = [template for template in templates_of(objects) if template["spec"]["automountServiceAccountToken"]]
    assert [role_of(template) for template in with_token] == ["controller"]
    assert not any(one["automountServiceAccountToken"] for one in of_kind(objects, "ServiceAccount"))


def test_pods_have_longer_to_end_than_their_own_grace_periods(trial: list[Object]) -> None:
    stop = {role: pod_of(trial, role)["terminationGracePeriodSeconds"] for role in ROLES}
    assert stop["controller"] >= ControllerSettings.model_fields["worker_grace_seconds"].default + 20
    assert stop["delivery"] >= DeliverySettings.model_fields["delivery_timeout_seconds"].default + 5
    [word] = re.findall(r"sleep\((\d+)\)", container_of(trial, "api")["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert stop["api"] >= int(word) + 30 + 5
    longer = render(ENGINE_CHART, merged(TRIAL, {"settings": {"QUEUE_ENGINE_DELIVERY_TIMEOUT_SECONDS": 120.5}}))
    assert pod_of(longer, "delivery")["terminationGracePeriodSeconds"] >= 125


def test_an_api_process_ends_only_after_another_one_is_ready(trial: list[Object]) -> None:
    deployment = named(trial, "Deployment", f"{RELEASE}-api")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert container_of(trial, "api")["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_there_are_budgets_where_there_is_more_than_one_replica() -> None:
    made = render(ENGINE_CHART, merged(TRIAL, {"delivery": {"replicas": 1}}))
    budgets = of_kind(made, "PodDisruptionBudget")
    assert {one["metadata"]["name"] for one in budgets} == {f"{RELEASE}-api", f"{RELEASE}-controller"}
    assert {one["apiVersion"] for one in budgets} == {"policy/v1"}
    old = render(ENGINE_CHART, merged(TRIAL, with_budgets("policy/v1beta1")))
    assert {one["apiVersion"] for one in of_kind(old, "PodDisruptionBudget")} == {"policy/v1beta1"}


# Secrets


def test_no_secret_is_outside_of_its_secret(trial: list[Object]) -> None:
    [secret] = of_kind(trial, "Secret")
    private = {name: value for name, value in decoded(secret).items() if name not in ("ca.crt", "tls.crt")}
    others = json.dumps([one for one in trial if one is not secret])
    for name, value in private.items():
        words = {value, base64.b64encode(value.encode()).decode(), json.dumps(value).strip('"')}
        assert not any(word in others for word in words), name


def test_the_checksum_covers_settings_and_files_and_neither_secrets_nor_versions(tmp_path: Path) -> None:
    first, second = render(ENGINE_CHART, TRIAL), render(ENGINE_CHART, TRIAL)
    assert decoded(of_kind(first, "Secret")[0]) != decoded(of_kind(second, "Secret")[0])
    assert templates_of(first) == templates_of(second)
    newer = Path(shutil.copytree(ENGINE_CHART, tmp_path / "queue-engine"))
    chart = newer / "Chart.yaml"
    text, changes = re.subn(r"(?m)^version: .*", "version: 9.9.9", chart.read_text())
    assert changes == 1
    chart.write_text(text)
    assert templates_of(render(newer, TRIAL)) == templates_of(first)
    for values in ({"settings": {"QUEUE_ENGINE_LOG_LEVEL": "DEBUG"}}, {"catalogue": "# another\n"}):
        changed = render(ENGINE_CHART, merged(TRIAL, values))
        for role in ROLES:
            name = f"{RELEASE}-{role}"
            before, after = (named(made, "Deployment", name)["spec"]["template"] for made in (first, changed))
            assert before["metadata"]["annotations"] != after["metadata"]["annotations"]


def test_a_trial_has_a_store_with_users_and_the_right_secrets(trial: list[Object]) -> None:
    [secret] = of_kind(trial, "Secret")
    made = decoded(secret)
    passwords = {"engine": made["engine-password"], "metrics": made["metrics-password"]}
    on = [line for line in acl_lines(passwords) if "default" not in line]
    assert made["users.acl"].splitlines() == ["user default off", on[0], f"user agent off {rules_of('agent')}", on[1]]
    url = parse_store_url(made["store-url"])
    assert (url.username, url.password, url.addresses[0].host) == ("engine", passwords["engine"], f"{RELEASE}-valkey")
    parse_secret_key(made["secret-key"])
    assert re.fullmatch(r"qe_[A-Za-z0-9]{43}", made["api-key"])
    configuration = named(trial, "ConfigMap", f"{RELEASE}-valkey")["data"]["valkey.conf"]
    assert configuration.strip() == (DEPLOY / "redis/valkey.conf").read_text().strip()


def test_the_data_of_a_trial_is_on_a_claim_unless_that_is_off(trial: list[Object]) -> None:
    [claim] = of_kind(trial, "PersistentVolumeClaim")
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}
    [volume] = volumes_of_store(trial)
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    fast = {"trial": {"store": {"persistence": {"storageClass": "fast", "size": "9Gi"}}}}
    [claim] = of_kind(render(ENGINE_CHART, merged(TRIAL, fast)), "PersistentVolumeClaim")
    assert (claim["spec"]["storageClassName"], claim["spec"]["resources"]["requests"]["storage"]) == ("fast", "9Gi")
    off = render(ENGINE_CHART, merged(TRIAL, {"trial": {"store": {"persistence": {"enabled": False}}}}))
    assert of_kind(off, "PersistentVolumeClaim") == []
    [volume] = volumes_of_store(off)
    assert volume["emptyDir"] == {}


def volumes_of_store(objects: list[Object]) -> list[dict[str, Any]]:
    store = next(one for one in objects if one["metadata"]["name"] == f"{RELEASE}-valkey" and "template" in str(one))
    return [one for one in store["spec"]["template"]["spec"]["volumes"] if one["name"] == "data"]


def test_the_ingress_leads_to_the_port_of_the_api(production: list[Object]) -> None:
    [ingress] = of_kind(production, "Ingress")
    assert ingress["apiVersion"] == "networking.k8s.io/v1"
    spec = ingress["spec"]
    assert (spec["ingressClassName"], spec["tls"]) == ("nginx", [{"hosts": [HOST], "secretName": "public"}])
    [rule] = spec["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == (HOST, "/", "Prefix")
    backend = path["backend"]["service"]
    service = named(production, "Service", backend["name"])
    assert backend["port"].get("name") in {one["name"] for one in service["spec"]["ports"]}
    labels = named(production, "Deployment", f"{RELEASE}-api")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


HOST = "queue.example.com"


def test_a_trial_has_a_certificate_that_strict_clients_accept(trial: list[Object], tmp_path: Path) -> None:
    made = decoded(of_kind(trial, "Secret")[0])
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (tmp_path / name).write_text(made[name])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    url = environment_of(trial, "controller")["QUEUE_ENGINE_AGENT_URL"]
    assert url == f"https://{RELEASE}-api.{NAMESPACE}.svc:8000"
    shake_hands(server, client, f"{RELEASE}-api.{NAMESPACE}.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "other.example.com")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """Complete a TLS handshake in memory. Raises what the client raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server, server_hostname=host), server.wrap_bio(to_server, to_client, True)]
    done = [False, False]
    for _ in range(10):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                continue
        if all(done):
            return
    raise AssertionError("the handshake does not end")


# Rights, networks, monitoring


def test_the_rights_of_the_controller_are_these_and_in_one_namespace(objects: list[Object]) -> None:
    [role] = of_kind(objects, "Role")
    rights = {
        resource: (rule["verbs"], rule.get("resourceNames")) for rule in role["rules"] for resource in rule["resources"]
    }
    assert rights == {
        "pods": (["create", "get", "list", "watch", "delete"], None),
        "pods/log": (["get"], None),
        "secrets": (["create", "get", "list", "delete"], None),
        "events": (["list"], None),
        "configmaps": (["get"], ["queue-engine-anchor"]),
    }
    [binding] = of_kind(objects, "RoleBinding")
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "queue-engine-workers"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": f"{RELEASE}-controller", "namespace": NAMESPACE}]
    assert not of_kind(objects, "ClusterRole") + of_kind(objects, "ClusterRoleBinding")


def test_the_chart_of_another_cluster_has_an_account_with_a_token(workers: list[Object]) -> None:
    [binding] = of_kind(workers, "RoleBinding")
    [secret] = of_kind(workers, "Secret")
    account = {"name": "queue-engine-controller", "namespace": "queue-engine-workers"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    assert named(workers, "ServiceAccount", account["name"])["metadata"]["namespace"] == account["namespace"]
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": account["name"]}
    assert "data" not in secret


def test_all_is_denied_that_no_policy_allows(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    for namespace in (NAMESPACE, "queue-engine-workers"):
        [deny] = [
            one["spec"]
            for one in policies
            if one["metadata"]["namespace"] == namespace and one["metadata"]["name"].endswith("default-deny")
        ]
        assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
        assert not {"ingress", "egress"} & set(deny)
    selected = named(objects, "NetworkPolicy", f"{RELEASE}-default-deny")["spec"]["podSelector"]["matchLabels"]
    for template in templates_of(objects):
        assert selected.items() <= template["metadata"]["labels"].items()


def test_workers_reach_no_private_network_and_no_metadata_service(objects: list[Object]) -> None:
    blocks = blocks_of(named(objects, "NetworkPolicy", "workers"))
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "::/0"}
    kept_out = {network for block in blocks for network in block["except"]}
    assert kept_out >= {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"}


def test_networks_that_may_receive_webhooks_are_open_for_delivery(production: list[Object]) -> None:
    blocks = blocks_of(named(production, "NetworkPolicy", f"{RELEASE}-delivery"))
    assert {"10.1.0.0/16", "10.2.0.0/16"} <= {block["cidr"] for block in blocks}


def blocks_of(policy: Object) -> list[dict[str, Any]]:
    peers = [peer for rule in policy["spec"]["egress"] for peer in rule.get("to", [])]
    return [peer["ipBlock"] for peer in peers if "ipBlock" in peer]


def test_the_alerts_are_those_of_prometheus(production: list[Object]) -> None:
    rules = msgspec.yaml.decode((DEPLOY / "prometheus/alerts.yml").read_bytes())
    assert named(production, "PrometheusRule", RELEASE)["spec"] == rules


@pytest.mark.parametrize(("limit", "rendered"), [(None, 2000), (1_000_000, 1_000_000), (0, None)])
def test_a_scrape_of_an_agent_has_a_limit_of_samples(limit: int | None, rendered: int | None) -> None:
    given = {} if limit is None else {"sampleLimit": limit}
    [monitor] = of_kind(render(WORKERS_CHART, {"podMonitor": {"enabled": True, **given}}), "PodMonitor")
    assert monitor["spec"].get("sampleLimit") == rendered
    samples = sum(len(metric.samples) for metric in registry_of(Role.AGENT).collect())
    assert 0 < samples < 1000


def test_everything_is_removed_with_the_release(objects: list[Object]) -> None:
    """Hooks, claims of a StatefulSet and kept objects would stay."""
    for one in objects:
        annotations = one["metadata"].get("annotations", {})
        assert not [name for name in annotations if name.startswith("helm.sh/")], one["metadata"]["name"]
        assert "volumeClaimTemplates" not in one.get("spec", {})
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] in (NAMESPACE, "queue-engine-workers")
    anchor = named(objects, "ConfigMap", "queue-engine-anchor")
    assert anchor["metadata"]["namespace"] == "queue-engine-workers"


def test_every_port_names_its_protocol(objects: list[Object]) -> None:
    """A server of version 1.20 refuses ports without one, because Helm 4 applies objects on the server's side."""
    of_services = [port for one in of_kind(objects, "Service") for port in one["spec"]["ports"]]
    pods = [template["spec"] for template in templates_of(objects)]
    of_containers = [port for pod in pods for container in pod["containers"] for port in container["ports"]]
    assert of_services
    assert of_containers
    assert {port["protocol"] for port in of_services + of_containers} == {"TCP"}


def test_a_pod_of_a_worker_is_no_pod_of_the_engine(objects: list[Object]) -> None:
    """By labels: a Service or a policy of the engine that selected workers would send them the engine's traffic."""
    selectors = [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    assert all(one["app.kubernetes.io/name"] == "queue-engine" for one in selectors)
    assert all(one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm" for one in objects)
