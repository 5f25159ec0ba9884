"""Fixtures: a store on every kind of server, and a bench whose consistency is checked at the end of the test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.store.store import Store
from tests.servers import StoreServer
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.probe import Probe

PARTITIONS = 4


@pytest.fixture(autouse=True, scope="module")
def _quick_timers(store_server: StoreServer) -> Iterator[None]:
    """Raise the server's timer rate, because a blocking read of 1 ms waits for the next round: 100 ms by default.

    It is lowered after each module, because an idle server with quick timers computes too.
    """
    store_server.command("CONFIG", "SET", "hz", "500")
    yield
    store_server.command("CONFIG", "SET", "hz", "10")


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(SECRET_KEY)


@pytest.fixture
async def store(store_server: StoreServer, sealer: Sealer) -> AsyncIterator[Store]:
    opened = Store(store_server.url, sealer, partitions=PARTITIONS)
    yield opened
    await opened.close()


@pytest.fixture
async def probe(store: Store) -> Probe:
    return Probe(store.redis)


@pytest.fixture
async def bench(store: Store, probe: Probe) -> AsyncIterator[Bench]:
    endpoint = await store.endpoints.create(TENANT, config())
    made = Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
    yield made
    assert await made.check() == []
