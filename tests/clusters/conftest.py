"""The platforms of these tests."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.engine import IMAGE, ContainerEngine, missing, shell_image
from tests.clusters.image_registry import ImageRegistry
from tests.clusters.installation import Installation


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


@pytest.fixture
def platform(container_engine: ContainerEngine) -> Iterator[Installation]:
    engine = Installation(container_engine, uuid.uuid4().hex)
    yield engine
    engine.clear()


@pytest.fixture
def registry(container_engine: ContainerEngine, tmp_path: Path) -> Iterator[ImageRegistry]:
    with ImageRegistry(container_engine.registry_port, shell_image(tmp_path)) as serving:
        yield serving
