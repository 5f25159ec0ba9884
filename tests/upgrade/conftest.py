"""Stores that hold a recorded dump, and processes on them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from queue_engine.crypto.sealing import Sealer, parse_secret_key
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer
from tests.servers import StoreServer
from tests.store.probe import Probe
from tests.upgrade import dumps
from tests.upgrade.record import SECRET_KEY

FORMAT_1 = Path(__file__).with_name("format1.jsonl")
FORMAT_1_VIEWS = Path(__file__).with_name("format1.views.jsonl")


@pytest.fixture
def format1() -> dumps.Dump:
    return dumps.read(FORMAT_1)


@pytest.fixture
async def store(store_server: StoreServer, format1: dumps.Dump) -> AsyncIterator[Store]:
    """A store of each kind for the code of today. It is empty."""
    opened = Store(store_server.url, Sealer(parse_secret_key(SECRET_KEY)), partitions=format1.about["partitions"])
    yield opened
    await opened.close()


@pytest.fixture
async def probe(store: Store) -> Probe:
    return Probe(store.redis)


@pytest.fixture
def container() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server
