"""Bodies that arrive slowly: their keys are checked again, and a tenant has a limited number of bytes in progress."""

import asyncio
import json
import time
from typing import Any

import pytest

from queue_engine.api.http.bodies import MIN_BYTES_PER_SECOND, UNCOUNTED_BYTES, BodyReader, TenantBodies
from queue_engine.config.engine import ApiSettings
from queue_engine.domain.errors import TooManyRequests
from queue_engine.domain.principals import Role
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.store.api_keys import OPERATORS, hash_of
from tests.api_server import ENDPOINT, TASK, RunningApi, running_api
from tests.integration.raw_http import Connection, Received
from tests.waiting import wait_until_async

KEY = {"name": "made", "role": "admin"}
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v2/serverless", ENDPOINT),
    ("PATCH", "/v2/serverless/1", {"name": "renamed"}),
    ("POST", "/v2/serverless/1/tasks", TASK),
    ("POST", "/v2/container-registry-auths", {"name": "a", "type": "GCR", "username": "b", "password": "c"}),
    ("POST", "/v2/keys", KEY),
]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SlowRequest:
    """A request whose body is sent after the API has begun to read it, so after its key was checked."""

    def __init__(self, connection: Connection, body: bytes) -> None:
        self.connection = connection
        self.body = body

    @classmethod
    async def begun(cls, api: RunningApi, method: str, path: str, key: str, body: bytes) -> "SlowRequest":
        connection = await Connection.to(api)
        lines = (
            f"{method} {path} HTTP/1.1", "Host: x", f"X-Api-Key: {key}", "Content-Type: application/json",
            f"Content-Length: {len(body)}", "Expect: 100-continue", "", "",
        )  # fmt: skip
        await connection.send("\r\n".join(lines).encode())
        assert await connection.line() == "HTTP/1.1 100 Continue"
        return cls(connection, body)

    async def end(self) -> Received:
        await self.connection.send(self.body)
        received = await self.connection.answer()
        self.connection.close()
        return received


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_a_key_that_is_revoked_while_its_body_arrives_changes_nothing(
    valkey_url: str, method: str, path: str, body: dict[str, Any]
) -> None:
    clock = Clock()
    async with running_api(valkey_url, monotonic=clock) as api:
        await api.create_endpoint()
        keys = [await api.new_key("default") for _ in range(2)]
        revoked, valid = [await SlowRequest.begun(api, method, path, key, json.dumps(body).encode()) for key in keys]
        await api.store.api_keys.revoke(hash_of(keys[0]))
        before = await api.keys_stored()
        clock.now += REVOCATION_SECONDS + 0.1
        assert (await revoked.end()).status == 401
        assert await api.keys_stored() == before
        assert (await valid.end()).status == 200


async def test_an_operators_key_that_is_revoked_while_its_body_arrives_changes_nothing(valkey_url: str) -> None:
    clock = Clock()
    async with running_api(valkey_url, monotonic=clock) as api:
        key = await api.new_key(OPERATORS, role=Role.OPERATOR)
        slow = await SlowRequest.begun(api, "POST", "/v2/tenants", key, b'{"name": "acme"}')
        await api.store.api_keys.revoke(hash_of(key))
        clock.now += REVOCATION_SECONDS + 0.1
        assert (await slow.end()).status == 401
        assert await api.store.tenants.get("acme") is None


async def test_a_key_makes_no_key_after_its_revocation_however_soon(valkey_url: str) -> None:
    """The clock does not advance, so the API considers the key valid until the script refuses it."""
    async with running_api(valkey_url, monotonic=Clock()) as api:
        other = await api.new_key("default", role=Role.READ)
        key = await api.new_key("default")
        slow = await SlowRequest.begun(api, "POST", "/v2/keys", key, json.dumps(KEY).encode())
        await api.store.api_keys.revoke(hash_of(key))
        assert (await slow.end()).status == 401
        headers = {"X-Api-Key": key}
        answer = await api.client.post(f"/v2/keys/{hash_of(other)[:16]}/rotate", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, 40101)
        assert {one.key_hash for one in await api.store.api_keys.all()} == {hash_of(other), hash_of(api.key)}


async def test_a_tenant_has_a_limited_number_of_bytes_in_progress(valkey_url: str) -> None:
    limit = 100_000
    async with running_api(valkey_url, max_body_bytes=limit, max_body_bytes_per_tenant=limit) as api:
        endpoint_id = await api.create_endpoint()
        path = f"/v2/serverless/{endpoint_id}/tasks"
        large = json.dumps(TASK | {"input": "x" * 60_000}).encode()
        first = await SlowRequest.begun(api, "POST", path, api.key, large)
        await first.connection.send(large[:-1])

        async def large_ones_get(status: int) -> bool:
            answer = await api.client.post(path, content=large, headers={"Content-Type": "application/json"})
            assert answer.status_code in (200, 429)
            if answer.status_code == 429:
                assert answer.json()["message"].startswith(f"body: at most {limit} bytes of a tenant's requests")
                assert answer.headers["retry-after"] == "1"
            return answer.status_code == status

        await wait_until_async(lambda: large_ones_get(429))
        assert (await api.submit(endpoint_id)).status_code == 200
        stranger = {"X-Api-Key": await api.new_key("stranger"), "Content-Type": "application/json"}
        assert (await api.client.post(path, content=large, headers=stranger)).status_code == 404
        first.body = large[-1:]
        assert (await first.end()).status == 200
        assert await large_ones_get(200)
        second = await SlowRequest.begun(api, "POST", path, api.key, large)
        await second.connection.send(large[:-1])
        await wait_until_async(lambda: large_ones_get(429))
        second.connection.close()
        await wait_until_async(lambda: large_ones_get(200))


async def test_a_limit_below_the_size_of_one_body_admits_a_body_of_that_size(valkey_url: str) -> None:
    async with running_api(valkey_url, max_body_bytes=200_000, max_body_bytes_per_tenant=10_000) as api:
        assert (await api.submit(await api.create_endpoint(), input="x" * 100_000)).status_code == 200


def test_no_bytes_are_counted_of_requests_that_have_ended() -> None:
    bodies = TenantBodies(10)
    bodies.add("a", 10)
    with pytest.raises(TooManyRequests, match="QUEUE_ENGINE_MAX_BODY_BYTES_PER_TENANT"):
        bodies.add("a", 1)
    bodies.add("b", 10)
    bodies.remove("a", 10)
    bodies.remove("b", 10)
    assert dict(bodies.counted) == {}
    TenantBodies(0).add("a", 2**40)


async def test_a_body_below_the_minimum_rate_gets_no_further_time() -> None:
    reader = BodyReader(2**20, 9.0, TenantBodies(0))
    now = asyncio.get_running_loop().time()
    for seconds, is_in_time in ((60, True), (70, False)):
        received = 60 * MIN_BYTES_PER_SECOND
        assert (reader._patience_ends(time.monotonic() - seconds, received) > now) is is_in_time


def test_the_longest_body_of_the_default_size_arrives_in_little_more_than_a_minute() -> None:
    settings = ApiSettings()
    assert settings.max_body_bytes / MIN_BYTES_PER_SECOND + settings.read_timeout_seconds < 75
    assert settings.max_connections_per_tenant * UNCOUNTED_BYTES <= settings.max_body_bytes_per_tenant
