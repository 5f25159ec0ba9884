"""One engine for the scenarios of a module."""

from collections.abc import Iterator

import pytest

from tests.faults.engine import Engine
from tests.faults.running import running_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine("standard", tmp_path_factory.mktemp("faults")) as running:
        yield running
