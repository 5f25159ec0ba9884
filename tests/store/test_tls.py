"""TLS to the store: to one server, to a master behind sentinels, to a cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.store import Store, UnfitStore
from queue_engine.store.tasks import Submission
from tests.integration.certificates import self_signed
from tests.ports import free_port
from tests.servers import StoreServer, redis_binary
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.probe import Probe
from tests.topology import SLOTS, SentinelServer
from tests.waiting import wait_until

pytestmark = pytest.mark.redis7  # the embedded Valkey is built without TLS


@pytest.fixture(autouse=True, scope="session")
def _quick_timers() -> None:
    """Do nothing, because the servers of this module are configured with quick timers."""


@dataclass(frozen=True)
class Secure:
    """A server that requires client certificates, and its TLS files. Its other port is for the tests."""

    server: StoreServer
    tls_port: int
    pem: Path

    @property
    def query(self) -> str:
        return f"ssl_ca_certs={self.pem}&ssl_certfile={self.pem}&ssl_keyfile={self.pem}"


def start(directory: Path, *options: str) -> Secure:
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server of version 7.0 or newer: apt-get install redis-server")
    pem = self_signed(directory, "127.0.0.1").path
    port = free_port()
    server = StoreServer(binary, directory / "server", options=(*tls_options(pem, port), *options))
    server.start()
    return Secure(server, port, pem)


def tls_options(pem: Path, port: int) -> tuple[str, ...]:
    files = ("--tls-cert-file", str(pem), "--tls-key-file", str(pem), "--tls-ca-cert-file", str(pem))
    return ("--tls-port", str(port), *files)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    made = start(tmp_path_factory.mktemp("tls"))
    yield made
    made.server.stop()


async def works(url: str) -> None:
    store = Store(url, Sealer(SECRET_KEY), partitions=2)
    try:
        await store.prepare()
        endpoint = await store.endpoints.create(TENANT, config())
        bench = Bench(store, endpoint.endpoint_id, Probe(store.redis))
        assert await bench.submit("t1") is Submission.ACCEPTED
        assert [entry.task_id for entry in await bench.agent().claim(1, block_ms=1)] == ["t1"]
    finally:
        await store.close()


async def refusal(url: str) -> str:
    store = Store(url, Sealer(SECRET_KEY))
    try:
        with pytest.raises((StoreUnavailable, UnfitStore)) as refused:
            await store.prepare()
        return str(refused.value)
    finally:
        await store.close()


async def test_one_server(secure: Secure) -> None:
    await works(f"rediss://127.0.0.1:{secure.tls_port}/0?{secure.query}")


async def test_a_certificate_that_is_not_trusted_is_refused(secure: Secure, tmp_path: Path) -> None:
    other = self_signed(tmp_path, "127.0.0.1").path
    own = f"ssl_certfile={secure.pem}"
    fault = "cannot be reached (TLS: certificate verify failed)"
    assert fault in await refusal(f"rediss://127.0.0.1:{secure.tls_port}?{own}")
    assert fault in await refusal(f"rediss://127.0.0.1:{secure.tls_port}?{own}&ssl_ca_certs={other}")
    await works(f"rediss://127.0.0.1:{secure.tls_port}?{own}&ssl_cert_reqs=none")


async def test_a_certificate_for_another_name_is_refused_unless_that_is_allowed(secure: Secure) -> None:
    url = f"rediss://localhost:{secure.tls_port}?{secure.query}"
    assert "cannot be reached" in await refusal(url)
    await works(f"{url}&ssl_check_hostname=no")


async def test_a_client_without_a_certificate_is_refused(secure: Secure) -> None:
    assert "cannot be reached" in await refusal(f"rediss://127.0.0.1:{secure.tls_port}?ssl_ca_certs={secure.pem}")


async def test_files_that_cannot_be_used_are_named(secure: Secure, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    url = f"rediss://127.0.0.1:{secure.tls_port}"
    assert f"ssl_ca_certs: cannot use {garbage}" in await refusal(f"{url}?ssl_ca_certs={garbage}")
    assert "ssl_certfile or ssl_keyfile: cannot use" in await refusal(f"{url}?ssl_certfile={garbage}")


async def test_a_master_behind_sentinels(secure: Secure, tmp_path: Path) -> None:
    port = free_port()
    lines = [
        *("tls-replication yes", f"tls-port {port}"),
        *(f"tls-{kind}-file {secure.pem}" for kind in ("cert", "key", "ca-cert")),
        f"sentinel monitor main 127.0.0.1 {secure.tls_port} 1",
    ]
    with SentinelServer(secure.server.binary, tmp_path / "sentinel", config="\n".join(lines) + "\n"):
        await works(f"rediss+sentinel://127.0.0.1:{port}/main?{secure.query}")


async def test_a_cluster(tmp_path: Path) -> None:
    secure = start(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
    try:
        secure.server.command("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1))
        wait_until(
            lambda: "cluster_state:ok" in secure.server.command("CLUSTER", "INFO"), message="the cluster is down"
        )
        await works(f"rediss+cluster://127.0.0.1:{secure.tls_port}?{secure.query}")
    finally:
        secure.server.stop()
