"""Fixtures for all tests: real stores, each of them empty when a test begins.

`store_url` runs a test on every supported kind of store; `valkey_url` on the embedded one only.
"""

import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from queue_engine.processes.interpreter import Loading, collect_rarely
from tests.collecting import import_from_own_place
from tests.environment import look_for_no_sniffio, trust_no_authority
from tests.examples import FULL
from tests.promtool import promtool_binary
from tests.servers import StoreServer, redis_binary, valkey_binary

# The machine's other work must not fail a property; the examples that fail are printed for a repeat.
settings.register_profile("tests", max_examples=FULL, deadline=None, print_blob=True)
settings.register_profile("fast", max_examples=FULL // 10, deadline=None, print_blob=True)
settings.load_profile("tests")

trust_no_authority()
look_for_no_sniffio()

# A shell's background job ignores Ctrl-C, and so would all programs that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(valkey_binary(), tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis7_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server of version 7.0 or newer: apt-get install redis-server")
    with StoreServer(binary, tmp_path_factory.mktemp("redis7")) as server:
        yield server


@pytest.fixture(scope="session", params=["valkey", pytest.param("redis7", marks=pytest.mark.redis7)])
def store_server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(scope="session")
def store_url(store_server: StoreServer) -> str:
    return store_server.url


@pytest.fixture(scope="session")
def valkey_url(valkey_server: StoreServer) -> str:
    return valkey_server.url


@pytest.fixture(scope="session")
def promtool() -> str:
    binary = promtool_binary()
    if binary is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return binary


@pytest.fixture(autouse=True)
def _empty_stores(request: pytest.FixtureRequest) -> None:
    for server in {"store_server", "valkey_server"} & set(request.fixturenames):
        request.getfixturevalue(server).empty()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect the tests without garbage collections, and leave them out of later ones, because they stay to the end."""
    with Loading():
        import_from_own_place(session)
        collected = yield
    collect_rarely()
    return collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the unit tests last: each is short, so that all processes of a run end at about the same time."""
    items.sort(key=lambda item: "unit" in item.path.parts)
