"""The contract of backends on a real Kubernetes cluster."""

from collections.abc import AsyncIterator

import pytest

from queue_engine.backends.kubernetes.backend import KubernetesBackend
from tests.clusters.kube_installation import KubeInstallation, spec_for
from tests.integration.backend_contract import MakeSpec, OutlivesController


@pytest.fixture
def make_spec() -> MakeSpec:
    return spec_for


@pytest.fixture
def platform(kube: KubeInstallation) -> KubeInstallation:
    return kube


@pytest.fixture
async def backend(kube: KubeInstallation) -> AsyncIterator[KubernetesBackend]:
    made = kube.backend()
    yield made
    await made.aclose(0)


class TestKubernetesBackend(OutlivesController):
    LIMIT_SECONDS = 60
    LAST_LINES = ()
