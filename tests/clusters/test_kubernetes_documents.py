"""The documents of pods and Secrets before a real API server, which may be older than the schemas of the unit tests."""

import json
from typing import Any

import pytest

from tests.clusters.kubernetes_cluster import Cluster
from tests.unit.test_pod_documents import VARIANTS, pod, secrets

ACCEPTED = ("plain", "without GPU", "bare")
"""The others need classes that a cluster of the tests does not have, or a newer server."""


def accepted(cluster: Cluster, namespace: str, document: dict[str, Any]) -> str:
    """Return the name that the server accepts. The client refuses fields that the server does not know."""
    words = ("create", "--namespace", namespace, "--dry-run=server", "--validate=true", "--output", "name")
    return cluster.kubectl(*words, "--filename", "-", stdin=json.dumps(document)).strip()


@pytest.mark.parametrize("variant", ACCEPTED)
def test_the_server_accepts_the_documents(kube_cluster: Cluster, kube_namespace: str, variant: str) -> None:
    spec, settings = VARIANTS[variant]
    for document in (pod(spec, settings), *secrets(spec, settings)):
        name = f"{document['kind'].lower()}/{document['metadata']['name']}"
        assert accepted(kube_cluster, kube_namespace, document) == name


@pytest.mark.parametrize("wrong", [{"terminationGracePeriod": 5}, {"restartPolicy": "Perhaps"}])
def test_the_server_refuses_a_wrong_document(kube_cluster: Cluster, kube_namespace: str, wrong: dict[str, Any]) -> None:
    document = pod(*VARIANTS["plain"])
    with pytest.raises(AssertionError, match="kubectl"):
        accepted(kube_cluster, kube_namespace, document | {"spec": document["spec"] | wrong})
