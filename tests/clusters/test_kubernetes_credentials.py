"""Credentials that are replaced while a controller runs, and a cluster that is away beside another one."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queue_engine.backends.base import Phase
from queue_engine.backends.kubernetes import backend as backend_module
from queue_engine.backends.kubernetes import kube_client
from queue_engine.backends.kubernetes.backend import KubernetesBackend
from queue_engine.backends.kubernetes.kube_api import KubeApi, KubeError, connect
from queue_engine.backends.kubernetes.kube_client import ClusterAccess
from queue_engine.backends.kubernetes.sites import ClusterPlace, Sites
from queue_engine.backends.kubernetes.specs import PodDocuments
from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.clusters import Clusters
from queue_engine.domain.endpoints import Resource
from tests.clusters.cases import RecordCase
from tests.clusters.kube_gate import Gate
from tests.clusters.kube_installation import KubeInstallation, spec_for
from tests.integration.backend_contract import FOREVER, in_phase
from tests.waiting import wait_until, wait_until_async

ACCOUNT = "controller"


@pytest.fixture
def account(kube: KubeInstallation) -> Iterator[KubeInstallation]:
    """An account that may do what the controller does, without a token of its own yet."""
    api = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    rules = [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}]
    role_ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
    subjects = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": kube.namespace}]
    for one in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}},
        {**api, "kind": "Role", "metadata": {"name": ACCOUNT}, "rules": rules},
        {
            **api,
            "kind": "RoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": role_ref,
            "subjects": subjects,
        },
    ):
        kube.kubectl("apply", "--filename=-", given=one)
    yield kube
    for kind in ("rolebinding", "role", "serviceaccount"):
        kube.kubectl("delete", kind, ACCOUNT, "--ignore-not-found")


def made_token(kube: KubeInstallation, name: str) -> str:
    """Make a token of the account, which is valid as long as its Secret exists."""
    metadata = {"name": name, "annotations": {"kubernetes.io/service-account.name": ACCOUNT}}
    document = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}
    kube.kubectl("apply", "--filename=-", given={**document, "metadata": metadata})

    wait_until(lambda: bool(member_of(kube, name, "token")), message="the token is not made")
    return member_of(kube, name, "token").decode()


def member_of(kube: KubeInstallation, secret: str, member: str) -> bytes:
    escaped = member.replace(".", r"\.")
    return base64.b64decode(kube.kubectl("get", "secret", secret, f"--output=jsonpath={{.data.{escaped}}}"))


def server_of(kube: KubeInstallation) -> dict[str, Any]:
    config = json.loads(kube.cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    cluster: dict[str, Any] = config["clusters"][0]["cluster"]
    return cluster


def write_kubeconfig(path: Path, server: dict[str, Any], token: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": server}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document))
    beside.rename(path)


async def test_a_token_that_is_replaced_in_the_kubeconfig_and_revoked_stops_nothing(
    account: KubeInstallation, tmp_path: Path, record_case: RecordCase
) -> None:
    path, server = tmp_path / "kubeconfig", server_of(account)
    first = made_token(account, "first")
    write_kubeconfig(path, server, first)
    backend = account.backend(lambda access: connect(replace(access, kubeconfig=path)))
    await backend.start(spec_for("w1", FOREVER))
    await in_phase(backend, "w1", Phase.RUNNING)
    write_kubeconfig(path, server, made_token(account, "second"))
    account.kubectl("delete", "secret", "first")
    api = connect(ClusterAccess("revoked", account.namespace, kubeconfig_of(tmp_path, server, first)))
    await wait_until_async(lambda: is_refused(api), timeout=30)
    await api.aclose()
    await backend.start(spec_for("w2", FOREVER))
    await in_phase(backend, "w2", Phase.RUNNING)
    record_case("token replaced", seen="401 with the earlier one", recovery="the file is read again; goes on")
    for worker_id in ("w1", "w2"):
        await backend.kill(worker_id)
    await backend.aclose(0)
    account.kubectl("delete", "secret", "second")


def kubeconfig_of(folder: Path, server: dict[str, Any], token: str) -> Path:
    path = folder / "another"
    write_kubeconfig(path, server, token)
    return path


async def is_refused(api: KubeApi) -> bool:
    try:
        await api.list_pods("a=b", limit=1)
    except KubeError as error:
        return error.status == 401
    return False


async def test_the_files_of_a_pods_account_are_read_again_when_they_are_replaced(
    account: KubeInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of(account)
    host, _, port = server["server"].partition("://")[2].rstrip("/").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    # The controller manager of a small test cluster knows no authority, so its tokens are without one.
    of_server = account.cluster.kubeconfig.parent / "pki/apiserver.crt"
    authorities = of_server.read_bytes() if of_server.exists() else b""

    def project(name: str) -> None:
        """Replace the folder, as the kubelet does with a projected volume."""
        (folder := tmp_path / name).mkdir()
        (folder / "token").write_text(made_token(account, name))
        (folder / "ca.crt").write_bytes(member_of(account, name, "ca.crt") or authorities)
        (tmp_path / "link").symlink_to(folder)
        (tmp_path / "link").rename(tmp_path / "data")

    project("before")
    api = connect(ClusterAccess("in-cluster", account.namespace, service_account=tmp_path / "data"))
    await api.list_pods("a=b", limit=1)
    project("after")
    account.kubectl("delete", "secret", "before")
    monkeypatch.setattr(kube_client, "RENEWAL_SECONDS", 0.0)
    for _ in range(3):
        await api.list_pods("a=b", limit=1)
        await asyncio.sleep(0)
    await api.aclose()
    account.kubectl("delete", "secret", "after")


async def test_a_cluster_that_is_away_does_not_stop_the_work_for_another_one(
    kube: KubeInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_case: RecordCase
) -> None:
    monkeypatch.setattr(backend_module, "LIST_WAIT_SECONDS", 5.0)
    clusters = Clusters.parse('[regions.here]\n[regions.there]\ncontext = "away"\n')
    sites = Sites(clusters, load_catalogue(None), ClusterPlace(None, kube.namespace))
    here, there = Resource("here", "CPU", 1), Resource("there", "CPU", 1)
    async with Gate(kube.cluster, tmp_path) as gate:
        await gate.close()
        names = dict(zip((sites.at(here), sites.at(there)), (kube.cluster.kubeconfig, gate.kubeconfig), strict=True))

        def connection(name: str, kubeconfig: Path) -> KubeApi:
            return connect(ClusterAccess(name, kube.namespace, kubeconfig))

        backend = KubernetesBackend(
            {str(name): lambda name=name, path=path: connection(str(name), path) for name, path in names.items()},  # type: ignore[misc]
            kube.options,
            PodDocuments(kube.settings, sites),
            sites,
        )
        backend.leads = lambda: True

        async def is_observed() -> bool:
            return await backend.observe() is not None

        await wait_until_async(is_observed, timeout=30)
        assert backend.unlisted == {sites.at(there)}
        await backend.start(replace(spec_for("w1", FOREVER), resources=(there, here)))
        await backend.start(replace(spec_for("w2", FOREVER), resources=(there,)))
        await in_phase(backend, "w1", Phase.RUNNING)
        reason = str((await in_phase(backend, "w2", Phase.WAITING)).reason)
        assert reason == "waits for the cluster of there, which does not respond"
        await gate.open()
        await in_phase(backend, "w2", Phase.RUNNING)
        assert not backend.unlisted
        record_case("one of two clusters away", seen=reason, recovery="the other one goes on; starts when it is back")
        for worker_id in ("w1", "w2"):
            await backend.kill(worker_id)
        await backend.aclose(0)
