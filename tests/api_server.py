"""The real API on a real port, over a real store, for tests."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette

from queue_engine.api.app import create_app
from queue_engine.api.http.server import listen, serve
from queue_engine.api.proxy.access import WorkerAccess
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.engine import ApiSettings
from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.domain.api_keys import Grant
from queue_engine.engine.engine import Engine
from queue_engine.engine.waits import WaitLimits
from queue_engine.net.resolver import NameNotResolved
from queue_engine.store.api_keys import Creation
from queue_engine.store.store import Store
from tests.waiting import GIVE_UP_SECONDS

SECRET_KEY = new_secret_key()

ENDPOINT: dict[str, Any] = {
    "name": "echo",
    "image": "registry.example/echo:1",
    "resources": [{"region": "us-east-3", "gpuType": "NVIDIA_RTX_4090_24G", "gpuCount": 1}],
    "workers": 1,
    "containerVolumeInGb": 20,
    "serviceMode": "QUEUE",
}
TASK: dict[str, Any] = {"input": {"n": 1}, "workerPort": 8000, "processUri": "/run"}


PUBLIC_ADDRESSES = ("93.184.216.34",)


class ScriptedLookup:
    """Addresses of names from a table; None stands for a name without an address. All other names are public."""

    def __init__(self, addresses: Mapping[str, Sequence[str] | None] | None = None) -> None:
        self.by_host = dict(addresses or {})
        self.asked: list[str] = []

    async def addresses(self, host: str, owner: str = "") -> Sequence[str]:
        self.asked.append(host)
        found = self.by_host.get(host, PUBLIC_ADDRESSES)
        if found is None:
            raise NameNotResolved(f"{host} could not be resolved")
        return found


@dataclass
class RunningApi:
    """An API that is being served. `client` sends the key of the tenant `default`."""

    settings: ApiSettings
    app: Starlette
    store: Store
    engine: Engine
    lookup: ScriptedLookup
    port: int
    key: str
    client: httpx.AsyncClient
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Begin to stop serving, as SIGTERM does."""
        self.engine.drain()
        self.stopping.set()

    async def new_key(self, tenant: str, **limits: Any) -> str:
        """Return a new key. `limits` are fields of its Grant; a key without any has all rights inside the tenant."""
        key = new_api_key()
        result = await self.store.api_keys.create(key, tenant, Grant("test", **limits))
        assert result is Creation.OK
        return key

    async def post(self, path: str, body: object) -> httpx.Response:
        """POST `body` as JSON in ASCII, so that lone surrogates can be sent too."""
        headers = {"Content-Type": "application/json"}
        return await self.client.post(path, content=json.dumps(body), headers=headers)

    async def create_endpoint(self, **changes: Any) -> str:
        answer = await self.post("/v2/serverless", ENDPOINT | changes)
        assert answer.status_code == 200, answer.text
        endpoint_id: str = answer.json()["data"]["id"]
        return endpoint_id

    async def submit(self, endpoint_id: str, **changes: Any) -> httpx.Response:
        return await self.post(f"/v2/serverless/{endpoint_id}/tasks", TASK | changes)

    async def keys_stored(self) -> int:
        """All keys in the store but the one that the readiness check writes."""
        return int(await self.store.redis.dbsize()) - int(await self.store.redis.exists("{qe}:probe"))


def settings_of(store_url: str, with_secret_key: bool, **values: Any) -> ApiSettings:
    """Return the settings of an API for tests, on a free port. `values` are further ones."""
    usual: dict[str, Any] = {
        "port": 0,
        "api_metrics": "public",
        "secret_key": SecretStr(SECRET_KEY) if with_secret_key else None,
    }
    return ApiSettings(redis_url=SecretStr(store_url), **(usual | values))


# Read once for all tests that have no settings of their own, because it takes a tenth of a short test.
usual_settings = cache(settings_of)
usual_catalogue = cache(lambda: load_catalogue(None))


@asynccontextmanager
async def running_api(
    store_url: str,
    *,
    lookup: ScriptedLookup | None = None,
    with_secret_key: bool = True,
    monotonic: Callable[[], float] = time.monotonic,
    **values: Any,
) -> AsyncIterator[RunningApi]:
    """Serve the API until the block ends. `values` are settings."""
    settings = (
        settings_of(store_url, with_secret_key, **values) if values else usual_settings(store_url, with_secret_key)
    )
    store = Store(store_url, settings.sealer(), partitions=settings.partitions)
    lookup = lookup or ScriptedLookup()
    with listen(settings) as listener:
        port: int = listener.getsockname()[1]
        worker_access = WorkerAccess(settings.worker_policy(frozenset({port})), settings.alb_keepalive_seconds)
        catalogue = usual_catalogue() if settings.catalogue_file is None else load_catalogue(settings.catalogue_file)
        rules, limits = settings.destination_rules(frozenset({port})), settings.tenant_limits()
        ceilings, secret_keys = settings.ceilings(), settings.secret_keys
        engine = Engine(
            store,
            lookup,
            rules,
            secret_keys,
            limits=limits,
            ceilings=ceilings,
            agent_times=settings.agent_times(),
            local_agents=settings.alb_local_agents,
            wait_limits=WaitLimits(settings.max_waits, settings.max_waits_per_tenant),
            monotonic=monotonic,
        )
        app = create_app(settings, engine, worker_access, catalogue, monotonic=monotonic)
        key = new_api_key()
        await store.api_keys.put(key, tenant="default", name="test")
        url = f"http://127.0.0.1:{port}"
        headers = {"X-Api-Key": key}
        # Without TLS there is nothing to verify, and reading the certificates takes a fifth of a short test.
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=GIVE_UP_SECONDS, verify=False) as client:
            api = RunningApi(settings, app, store, engine, lookup, port, key, client)
            serving = asyncio.create_task(serve(app, settings, listener, api.stopping))
            try:
                yield api
            finally:
                await client.aclose()
                api.stop()
                await serving
                await engine.agent_work.aclose()
                await worker_access.aclose()
                await store.close()
