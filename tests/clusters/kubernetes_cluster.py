"""A real Kubernetes cluster for tests: that of KUBECONFIG, whose node is this machine.

Images are imported into its containerd, whose socket CONTAINERD_ADDRESS names; by default it is looked for beside the
kubeconfig.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.clusters.gateway import Address
from tests.clusters.oci_archive import Image, write_archive
from tests.waiting import wait_until

Object = dict[str, Any]

CALL_SECONDS = 120


def missing() -> str | None:
    """Return why no cluster can be had here; None if one can."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        return "no cluster: set KUBECONFIG to that of a cluster whose node is this machine"
    lacking = [name for name in ("kubectl", "ctr") if shutil.which(name) is None]
    if lacking:
        return f"no cluster: {', '.join(lacking)} not here"
    if not _containerd(Path(kubeconfig)).exists():
        return f"no cluster: no containerd at {_containerd(Path(kubeconfig))}: set CONTAINERD_ADDRESS"
    return None


def _containerd(kubeconfig: Path) -> Path:
    return Path(os.environ.get("CONTAINERD_ADDRESS") or kubeconfig.parent / "containerd/containerd.sock")


@dataclass(frozen=True)
class Cluster:
    """The cluster, by kubectl and by its API."""

    kubeconfig: Path
    server: str
    token: str

    @classmethod
    def of_environment(cls) -> Cluster:
        """Return the cluster of KUBECONFIG. Its user has to have a token."""
        kubeconfig = Path(os.environ["KUBECONFIG"])
        content = msgspec.yaml.decode(kubeconfig.read_bytes())
        return cls(kubeconfig, content["clusters"][0]["cluster"]["server"], content["users"][0]["user"]["token"])

    @property
    def port(self) -> int:
        """The port of the API server on this machine."""
        return int(self.server.rpartition(":")[2])

    @property
    def containerd(self) -> Path:
        """The socket of the node's runtime."""
        return _containerd(self.kubeconfig)

    def client(self) -> httpx.Client:
        """Return a client of the API server. It accepts a certificate that no authority has signed."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.server, headers=headers, verify=False, trust_env=False, timeout=CALL_SECONDS)

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl and return its output; with `check` AssertionError if it fails."""
        ran = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_SECONDS,
        )
        assert ran.returncode == 0 or not check, f"kubectl {words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def objects(self, kind: str, namespace: str, *more: str) -> list[Object]:
        """Return the objects of a kind. `more` are words of kubectl, such as a selector."""
        found = json.loads(self.kubectl("get", kind, "--namespace", namespace, "--output", "json", *more))
        items: list[Object] = found["items"]
        return items

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        for one in objects:
            self.kubectl("apply", "--filename", "-", stdin=json.dumps(one))

    def make_secret(self, namespace: str, name: str, data: Mapping[str, str], kind: str = "Opaque") -> None:
        metadata = {"name": name, "namespace": namespace}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": dict(data)})

    def import_images(self, folder: Path, images: Mapping[str, Image]) -> None:
        """Put images into the node's containerd, from which pods take them with the pull policy Never."""
        archive = write_archive(folder / "images.tar", images)
        ran = subprocess.run(
            ["ctr", "--address", self.containerd, "--namespace", "k8s.io", "images", "import", archive],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        archive.unlink()
        assert ran.returncode == 0, ran.stderr

    def host_address(self, namespace: str, image: str) -> str:
        """Return the address of this machine in the network of the pods. It runs a pod to find the network."""
        name = "network"
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [
                        {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sleep", "1000"]}
                    ],
                },
            }
        )

        def address() -> str:
            return self.kubectl(
                "get", "pod", name, "--namespace", namespace, "--output", "jsonpath={.status.podIP}"
            ).strip()

        pod = wait_until(address, message="a pod gets no address")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((pod, 9))  # sends nothing
            found: str = probe.getsockname()[0]
        self.kubectl("delete", "pod", name, "--namespace", namespace, "--wait=false")
        return found


class Endpoints:
    """The addresses of the ready pods of a Service, as the cluster's proxies know them."""

    def __init__(self, cluster: Cluster, namespace: str, service: str) -> None:
        self._client = cluster.client()
        self._path = f"/api/v1/namespaces/{namespace}/endpoints"
        self._selector = f"metadata.name={service}"
        self._addresses: Sequence[Address] = ()
        self._closed = False
        threading.Thread(target=self._follow, daemon=True).start()

    def __call__(self) -> Sequence[Address]:
        return self._addresses

    def close(self) -> None:
        self._closed = True
        self._client.close()

    def _follow(self) -> None:
        while not self._closed:
            try:
                self._list_and_watch()
            except (httpx.HTTPError, httpx.StreamError, RuntimeError, ssl.SSLError):
                continue  # the API server or the client has ended the connection

    def _list_and_watch(self) -> None:
        listed = self._client.get(self._path, params={"fieldSelector": self._selector}).json()
        for one in listed.get("items", []):
            self._addresses = _addresses_of(one)
        version = listed.get("metadata", {}).get("resourceVersion", "0")
        more = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "60"}
        with self._client.stream("GET", self._path, params={"fieldSelector": self._selector} | more) as response:
            for line in response.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                self._addresses = () if event["type"] == "DELETED" else _addresses_of(event["object"])


def _addresses_of(endpoints: Object) -> list[Address]:
    return [
        (address["ip"], subset["ports"][0]["port"])
        for subset in endpoints.get("subsets") or []
        for address in subset.get("addresses") or []
    ]


@contextmanager
def namespace_of(cluster: Cluster, name: str) -> Iterator[str]:
    """Make a namespace, and remove it with all that is in it."""
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false", check=False)
