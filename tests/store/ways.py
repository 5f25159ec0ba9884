"""The ways by which agents reach the engine, behind one interface: the store, and the API with a token."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from pydantic import SecretStr

from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.crypto.sealing import Sealer
from queue_engine.net.authorities import Authorities
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreLog, StoreTaskSource, StoreWorkerRecord
from tests.api_server import running_api
from tests.ports import free_port
from tests.store.bench import LONG_LEASE_MS, SECRET_KEY, TENANT, Bench
from tests.store.proxy import LossyProxy
from worker_agent.ports import LogSink, TaskSource, WorkerRecord
from worker_agent.server.api import Api
from worker_agent.server.http import HttpClient, ServerAddress
from worker_agent.server.record import ServerLog, ServerWorkerRecord
from worker_agent.server.source import ApiLimits, ServerTaskSource
from worker_agent.server.token import Token

LOG_SECONDS = 60
LIMITS = ApiLimits(64 * 1024 * 1024, 64 * 1024 * 1024, LONG_LEASE_MS / 1000)


class Way(Protocol):
    """Makes the ports of workers of one endpoint."""

    def source(self, worker_id: str = "a1") -> TaskSource: ...

    def record(self, worker_id: str = "w1") -> WorkerRecord: ...

    def log(self, worker_id: str = "w1") -> LogSink: ...


class StoreWay:
    """Agents on the store."""

    def __init__(self, store: Store, endpoint_id: str) -> None:
        self._store = store
        self._endpoint_id = endpoint_id

    def source(self, worker_id: str = "a1") -> StoreTaskSource:
        queue = self._store.queue(endpoint_id=self._endpoint_id, worker_id=worker_id, lease_ms=LONG_LEASE_MS)
        return StoreTaskSource(queue)

    def record(self, worker_id: str = "w1") -> StoreWorkerRecord:
        return StoreWorkerRecord(self._store.workers, endpoint_id=self._endpoint_id, worker_id=worker_id)

    def log(self, worker_id: str = "w1") -> StoreLog:
        return StoreLog(
            self._store.logs, endpoint_id=self._endpoint_id, worker_id=worker_id, retention_seconds=LOG_SECONDS
        )


class ApiWay:
    """Agents with a token. Each has connections of its own."""

    def __init__(self, url: str, token: str, endpoint_id: str) -> None:
        self._url = url
        self._token = token
        self._endpoint_id = endpoint_id
        self._clients: list[HttpClient] = []

    def source(self, worker_id: str = "a1") -> ServerTaskSource:
        return ServerTaskSource(self._api(), LIMITS, endpoint_id=self._endpoint_id, worker_id=worker_id)

    def record(self, worker_id: str = "w1") -> ServerWorkerRecord:
        return ServerWorkerRecord(self._api(), worker_id=worker_id)

    def log(self, worker_id: str = "w1") -> ServerLog:
        return ServerLog(self._api(), worker_id=worker_id)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _api(self) -> Api:
        self._clients.append(HttpClient(ServerAddress.parse(self._url), Authorities()))
        return Api(self._clients[-1], Token(self._token))


@asynccontextmanager
async def way_of(kind: str, bench: Bench) -> AsyncIterator[Way]:
    """The way of this kind, `store` or `api`, to the endpoint of the bench."""
    if kind == "store":
        yield StoreWay(bench.store, bench.endpoint_id)
        return
    async with api_url(bench) as url:
        way = ApiWay(url, await new_token(bench), bench.endpoint_id)
        yield way
        way.close()


@asynccontextmanager
async def lossy_way_of(kind: str, bench: Bench) -> AsyncIterator[tuple[Way, LossyProxy]]:
    """The way of this kind, behind a proxy that loses replies."""
    if kind == "store":
        await bench.store.prepare()  # because agents do not load scripts
        async with LossyProxy(bench.store.url) as proxy:
            store = Store(proxy.url, Sealer(SECRET_KEY), partitions=bench.store.partitions.count, is_agent=True)
            yield StoreWay(store, bench.endpoint_id), proxy
            await store.close()
        return
    async with api_url(bench) as url, LossyProxy(url) as proxy:
        way = ApiWay(proxy.url.replace("redis://", "http://"), await new_token(bench), bench.endpoint_id)
        yield way, proxy
        way.close()


@asynccontextmanager
async def way_to_nothing(kind: str) -> AsyncIterator[Way]:
    """The way of this kind to a port on which nothing listens."""
    if kind == "store":
        store = Store(f"redis://127.0.0.1:{free_port()}/0", Sealer(None))
        yield StoreWay(store, "1")
        await store.close()
        return
    way = ApiWay(f"http://127.0.0.1:{free_port()}", new_agent_token("1"), "1")
    yield way
    way.close()


@asynccontextmanager
async def api_url(bench: Bench) -> AsyncIterator[str]:
    """An API on the store of the bench."""
    async with running_api(
        bench.store.url,
        secret_key=SecretStr(base64.urlsafe_b64encode(SECRET_KEY).decode()),
        partitions=bench.store.partitions.count,
        lease_seconds=LONG_LEASE_MS / 1000,
        log_retention_seconds=LOG_SECONDS,
    ) as api:
        yield api.url


async def new_token(bench: Bench) -> str:
    """Return a new agent token of the endpoint."""
    secret = new_agent_token(bench.endpoint_id)
    await bench.store.agent_tokens.create(bench.endpoint_id, TENANT, secret, "test")
    return secret
