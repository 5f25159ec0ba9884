"""Everything that an agent of `up` holds opens no other secret and changes nothing of the engine's own data.

docs/operations/security.md lists what it can do: it shares the keys of tasks with the agents of all endpoints.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing, parse_secret_keys
from queue_engine.domain.api_keys import Grant
from queue_engine.local.embedded import read_store_url
from queue_engine.store import keys
from queue_engine.store.api_keys import hash_of
from queue_engine.store.scripts import load_scripts
from queue_engine.store.store import Store
from tests.api_server import ENDPOINT
from tests.integration.test_up import API_KEY, Up, create, wait_for_workers

HEADERS = {"Authorization": "Bearer canary-7d10"}


@dataclass(frozen=True)
class Held:
    """The possessions of a worker's agent, and the engine's own access for comparison."""

    environment: Mapping[str, str]
    redis: Redis
    store: Store
    """The store by the agent's user and keys, without the restraint of an agent's own code."""
    engine: Redis
    endpoint_id: str
    other_id: str


@pytest.fixture
async def held(shared_up: Up) -> AsyncIterator[Held]:
    endpoint_id = create(shared_up)
    other_id = shared_up.post("/v2/serverless", ENDPOINT | {"name": "other", "workers": 0})["id"]
    wait_for_workers(shared_up, endpoint_id, 1)
    (agent,) = shared_up.workers()
    environment = agent.environ()
    url = environment["WORKER_AGENT_REDIS_URL"]
    engine = Redis.from_url(read_store_url(shared_up.data_dir / "store") or "")
    redis, store = Redis.from_url(url), Store(url, Sealer(None))
    yield Held(environment, redis, store, engine, str(endpoint_id), str(other_id))
    for client in (redis, engine):
        await client.aclose()
    await store.close()


async def test_what_an_agent_holds_is_not_what_the_engine_holds(held: Held, shared_up: Up) -> None:
    secret_key = (shared_up.data_dir / "secret-key").read_text().strip()
    engine_url = read_store_url(shared_up.data_dir / "store") or ""
    password = engine_url.partition("@")[0].rpartition(":")[2]
    for value in held.environment.values():
        assert secret_key not in value
        assert password not in value
        assert API_KEY not in value
    assert not [name for name in held.environment if "SECRET_KEY" in name]


async def test_an_agent_opens_no_headers_but_those_of_its_endpoint(held: Held, shared_up: Up) -> None:
    """The hashes of tasks are shared, so it can read what is sealed for others."""
    for endpoint_id in (held.endpoint_id, held.other_id):
        task = {"taskId": "t1", "workerPort": 8000, "processUri": "/run", "input": {}, "headers": HEADERS}
        shared_up.post(f"/v2/serverless/{endpoint_id}/tasks", task)
    ring = Sealer.of(parse_secret_keys(held.environment["WORKER_AGENT_ENDPOINT_KEY"]))
    record = await spec_of(held, held.other_id)
    for sealed in (record["sealed"], record["sealed_headers"]):
        with pytest.raises(SealBroken):
            ring.open(sealed, f"task:{held.other_id}:t1")
    own = await spec_of(held, held.endpoint_id)
    with pytest.raises(SealBroken):
        ring.open(own["sealed"], f"task:{held.endpoint_id}:t1")
    opened = json.loads(ring.open(own["sealed_headers"], f"task:{held.endpoint_id}:t1"))
    assert opened["headers"] == HEADERS


async def spec_of(held: Held, endpoint_id: str) -> dict[str, str]:
    task_keys = held.store.partitions.of(endpoint_id).of_task("t1")
    length = int(await held.redis.hget(task_keys.task, "spec"))  # type: ignore[misc]
    found: dict[str, str] = json.loads((await held.redis.get(task_keys.body))[:length])
    return found


async def test_an_agent_reads_no_credential_and_makes_no_key(held: Held, shared_up: Up) -> None:
    before = await held.engine.smembers(keys.API_KEYS)  # type: ignore[misc]
    made = new_api_key()
    redis: Any = held.redis  # its types do not tell it from the synchronous one
    store = held.store
    tries: list[Awaitable[Any]] = [
        redis.keys("*"),
        redis.scan(),
        redis.config_get("*"),
        redis.config_set("requirepass", ""),
        redis.flushall(),
        redis.execute_command("ACL", "SETUSER", "agent", "+@all"),
        redis.execute_command("CLIENT", "LIST"),
        redis.execute_command("MONITOR"),
        redis.eval("return 1", 0),
        redis.script_load("return 1"),
        redis.execute_command("FUNCTION", "LIST"),
        redis.hgetall(keys.credential(1)),
        redis.smembers(keys.API_KEYS),
        redis.hgetall(keys.api_key(hash_of(API_KEY))),
        redis.hset(keys.api_key(hash_of(made)), mapping={"owner": "default", "role": "admin"}),
        redis.hset(keys.META, keys.FINGERPRINT, "0" * 16),
        redis.hset(store.partitions.of(held.other_id).endpoint, "webhook", "http://127.0.0.1/"),
        redis.evalsha(load_scripts()["hold_leadership"].sha, 1, keys.LEADER, "me", "60000"),
        store.api_keys.put(made, tenant="default", name="mine"),
        store.api_keys.create(made, "default", Grant("mine")),
        store.tenants.page(page=1, size=10),
        store.endpoints.signing_secret(held.other_id),
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    allowed = [index for index, one in enumerate(results) if not isinstance(one, NoPermissionError | SecretKeyMissing)]
    assert allowed == []
    assert await held.engine.smembers(keys.API_KEYS) == before  # type: ignore[misc]
