"""Fixtures of the tests that run real processes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from queue_engine.store.store import Store
from tests.api_server import RunningApi, running_api
from tests.integration.parts import HttpServer, Programs, open_store, programs_on
from tests.servers import StoreServer


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
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
