"""The platforms of these tests, and the table of cases after them."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from queue_engine.backends.docker.names import MANAGED_BY, MANAGER
from queue_engine.backends.kubernetes import backend as backend_module
from tests.clusters.cases import PROPERTY, RecordCase, platform_of, rows_of, table
from tests.clusters.engine import IMAGE, ContainerEngine, missing, shell_image
from tests.clusters.image_registry import ImageRegistry
from tests.clusters.installation import Installation
from tests.clusters.kube_installation import KubeInstallation
from tests.clusters.kubernetes_cluster import Cluster, namespace_of
from tests.clusters.kubernetes_cluster import missing as kube_missing
from tests.clusters.oci_archive import Image
from tests.clusters.python_image import AGENT_IMAGE, ENTRY_POINT, ENVIRONMENT, agent_image


@pytest.fixture(scope="session")
def container_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    """A real container engine with the image of the tests."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with ContainerEngine() as engine:
        archive = shell_image(tmp_path_factory.mktemp("image"))
        engine.load(IMAGE, archive, ["/bin/sh", "/agent.sh"], {"PATH": "/bin"})
        if (reason := engine.unable()) is not None:
            pytest.skip(reason)
        yield engine


@pytest.fixture(scope="session")
def with_agent(container_engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> ContainerEngine:
    """The engine with the image of real agents."""
    container_engine.load(AGENT_IMAGE, agent_image(tmp_path_factory.mktemp("agent")), ENTRY_POINT, ENVIRONMENT)
    return container_engine


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail in the file that leaves a worker's container on the engine, and not in a later one that expects none.

    Others may have containers on an engine that was given.
    """
    if platform_of(request.module.__name__) != "docker":
        yield
        return
    engine: ContainerEngine = request.getfixturevalue("container_engine")
    yield
    if not engine.given:
        left = [(one["Names"], one["State"]) for one in engine.containers(f"{MANAGED_BY}={MANAGER}")]
        assert left == [], "containers are left"


@pytest.fixture
def platform(container_engine: ContainerEngine) -> Iterator[Installation]:
    engine = Installation(container_engine, uuid.uuid4().hex)
    yield engine
    engine.clear()


@pytest.fixture
def registry(container_engine: ContainerEngine, tmp_path: Path) -> Iterator[ImageRegistry]:
    with ImageRegistry(container_engine.registry_port, shell_image(tmp_path)) as serving:
        if not container_engine.uses_http(serving.name):
            pytest.skip("DOCKER_HOST asks registries of loopback over TLS only; the tests' registry has none")
        yield serving


@pytest.fixture(scope="session")
def kube_cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A real Kubernetes cluster with the image of the tests."""
    if (reason := kube_missing()) is not None:
        pytest.skip(reason)
    cluster, folder = Cluster.of_environment(), tmp_path_factory.mktemp("kube-image")
    cluster.import_images(folder, {IMAGE: Image(shell_image(folder), ["/bin/sh", "/agent.sh"], {"PATH": "/bin"})})
    return cluster


@pytest.fixture(scope="session")
def kube_namespace(kube_cluster: Cluster) -> Iterator[str]:
    """A namespace for the workers of all tests that change nothing in it by themselves."""
    with namespace_of(kube_cluster, f"qe-test-{uuid.uuid4().hex[:8]}") as name:
        yield name


@pytest.fixture
def kube(kube_cluster: Cluster, kube_namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeInstallation]:
    """An installation of its own for each test."""
    # A node on a loaded machine takes more than the usual time to remove a pod. The bound itself has a test of its own.
    monkeypatch.setattr(backend_module, "STOP_MARGIN_SECONDS", 120.0)
    made = KubeInstallation(kube_cluster, kube_namespace, uuid.uuid4().hex)
    yield made
    made.clear()


@pytest.fixture
def record_case(request: pytest.FixtureRequest) -> RecordCase:
    """Record a case of this test for the table at the end of the run."""
    platform = platform_of(request.module.__name__)

    def record(case: str, *, seen: str, recovery: str) -> None:
        request.node.user_properties.append((PROPERTY, (platform, case, seen, recovery)))

    return record


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    if rows := rows_of(reports):
        terminalreporter.write_sep("=", "cases: seen reason and recovery")
        for line in table(rows):
            terminalreporter.write_line(line)
