"""Fixtures of the tests that run real processes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from queue_engine.store.store import Store
from tests.api_server import RunningApi, running_api
from tests.integration.parts import HttpServer, Programs, open_store, programs_on
from tests.integration.test_up import Up, delete_endpoints, running_up
from tests.servers import StoreServer, valkey_binary


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


@pytest.fixture
def executed_programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    """Programs that are never forked, for tests of a start and of what /proc shows of a process."""
    with programs_on(valkey_server.url, tmp_path, may_fork=False) as started:
        yield started


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[StoreServer]:
    """A store that a test may stop and start again."""
    with StoreServer(valkey_binary(), tmp_path / "store", options=("--appendonly", "yes")) as server:
        yield server


@pytest.fixture
def own_programs(own_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(own_server.url, tmp_path) as started:
        yield started


@pytest.fixture
async def store(valkey_server: StoreServer) -> AsyncIterator[Store]:
    opened = open_store(valkey_server.url)
    await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url) as running:
        yield running


@pytest.fixture
async def endpoint_id(api: RunningApi) -> str:
    return await api.create_endpoint()


@pytest.fixture
def container() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture(scope="module")
def lasting_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` for the tests of a module, because its start and end take four seconds of processor time."""
    with running_up(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture
def shared_up(lasting_up: Up) -> Iterator[Up]:
    """The module's `up`, for tests that leave its processes as they were. Their endpoints are deleted."""
    yield lasting_up
    delete_endpoints(lasting_up)
