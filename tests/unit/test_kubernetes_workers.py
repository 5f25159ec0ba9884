"""Requirements of the Kubernetes backend before it starts, and the errors that name what is missing."""

import sys
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from queue_engine.backends.kubernetes.network import bridge_of
from queue_engine.cli import kubernetes_workers
from queue_engine.cli.docker_workers import AGENT_IMAGE
from queue_engine.config.engine import ControllerSettings
from queue_engine.domain.clusters import Clusters
from queue_engine.domain.errors import EngineError

URL = "https://engine.example"
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def settings(**given: Any) -> ControllerSettings:
    return ControllerSettings(backend="kubernetes", **given)


async def test_the_url_for_agents_is_required() -> None:
    with pytest.raises(EngineError, match=r"QUEUE_ENGINE_AGENT_URL: is required with the Kubernetes backend"):
        await kubernetes_workers.kubernetes_workers(settings(), None)  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    with pytest.raises(EngineError, match=r"pip install '/path/to/clone\[kubernetes\]'"):
        kubernetes_workers._backend(settings(agent_url=URL), URL, Clusters(), "instance")


def test_a_process_without_a_kubeconfig_and_in_no_pod_is_told_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EngineError, match=r"KUBECONFIG: the Kubernetes backend needs a kubeconfig"):
        kubernetes_workers._kubeconfig(Clusters(), {})
    in_pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert kubernetes_workers._kubeconfig(Clusters(), in_pod) is None
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert kubernetes_workers._kubeconfig(Clusters(), in_pod) == tmp_path / ".kube/config"
    assert kubernetes_workers._kubeconfig(Clusters(), {"KUBECONFIG": "/a"}) == Path("/a")
    assert kubernetes_workers._kubeconfig(Clusters(kubeconfig="/b"), {"KUBECONFIG": "/a"}) == Path("/b")


def test_the_default_image_of_the_agent_is_never_pulled_and_another_one_is() -> None:
    of_default = kubernetes_workers._pod_settings(settings(), URL, "instance")
    assert (of_default.agent_image, of_default.agent_pull_policy) == (AGENT_IMAGE, "Never")
    of_other = kubernetes_workers._pod_settings(settings(agent_image="registry.example/agent:1"), URL, "instance")
    assert (of_other.agent_image, of_other.agent_pull_policy) == ("registry.example/agent:1", None)


def test_the_settings_of_pods_are_parsed(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN")
    found = kubernetes_workers._pod_settings(
        settings(
            secret_key=KEY,
            agent_ca=authority,
            worker_grace_seconds=12,
            kubernetes_pod_security="restricted",
            kubernetes_pull_secrets="a, b",
            kubernetes_tolerations='[{"key": "gpu", "operator": "Exists"}]',
            kubernetes_annotations='{"example.com/a": "b"}',
        ),
        URL,
        "instance",
    )
    assert (found.agent_ca, found.grace_seconds, found.restricted) == ("-----BEGIN", 12, True)
    assert found.pull_secrets == ("a", "b")
    assert [one.document for one in found.tolerations] == [{"key": "gpu", "operator": "Exists"}]
    assert found.annotations == {"example.com/a": "b"}
    assert found.naming_key not in (b"", kubernetes_workers._pod_settings(settings(), URL, "instance").naming_key)


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="QUEUE_ENGINE_AGENT_CA: No such file"):
        kubernetes_workers._pod_settings(settings(agent_ca=tmp_path / "none.pem"), URL, "instance")


INTERFACES = [IPv4Interface("127.0.0.1/8"), IPv4Interface("192.168.1.7/24"), IPv4Interface("10.42.0.1/24")]


@pytest.mark.parametrize(
    ("pods", "address"),
    [
        (["10.42.0.17"], "10.42.0.1"),
        (["10.43.0.1", "", "fd00::1", "10.42.0.9"], "10.42.0.1"),
        (["10.43.0.1"], None),
        (["192.168.1.7"], None),
        ([], None),
    ],
)
def test_pods_reach_this_machine_at_the_bridge_of_their_network(pods: list[str], address: str | None) -> None:
    assert bridge_of(pods, INTERFACES) == address
