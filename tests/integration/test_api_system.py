"""`/v2/system`: the whole for operators, a tenant's part for its keys."""

import time
from pathlib import Path
from typing import Any

from queue_engine.crypto.certificates import expires_at_ms
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS
from tests.api_server import RunningApi, running_api
from tests.integration.certificates import self_signed


async def system(api: RunningApi, key: str | None = None) -> Any:
    answer = await api.client.get("/v2/system", headers={"X-Api-Key": key or api.key})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def noted(api: RunningApi, *roles: str) -> None:
    for role in roles:
        await api.store.processes.note(f"{role}:host:1:a", lambda role=role: {"controller": role})  # type: ignore[misc]


async def test_an_operator_sees_the_store_and_the_processes(api: RunningApi) -> None:
    await noted(api, "controller", "delivery")
    await api.store.redis.set("{qe}:leader", "controller")
    found = await system(api, await api.new_key(OPERATORS, role=Role.OPERATOR))
    assert (found["warnings"], found["use"]) == ([], None)
    assert [(one["role"], one["leads"], one["host"]) for one in found["processes"]] == [
        ("controller", True, "host"),
        ("delivery", False, "host"),
    ]
    (store,) = found["store"]
    assert store["usedBytes"] > 0
    assert store["server"].startswith("valkey ")


async def test_a_tenant_sees_its_own_use_and_what_concerns_it(api: RunningApi) -> None:
    await noted(api, "api", "controller")
    endpoint_id = await api.create_endpoint(workers=3)
    await api.submit(endpoint_id)
    found = await system(api)
    assert (found["store"], found["processes"]) == (None, None)
    assert {one["code"] for one in found["warnings"]} == {"no_leader", "no_delivery"}
    use = {one["limit"]: (one["used"], one["value"]) for one in found["use"]}
    assert use["workers"] == (3, 1000)
    assert use["waitingTasks"] == (1, 0)
    assert use["storedBytes"][0] > 0
    other = await system(api, await api.new_key("other"))
    assert {one["limit"]: one["used"] for one in other["use"]}["workers"] == 0


async def test_a_limited_key_and_a_submitter_see_no_use_of_the_tenant(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    limited = await api.new_key("default", endpoints=frozenset({endpoint_id}))
    for key in (limited, await api.new_key("default", role=Role.SUBMIT)):
        found = await system(api, key)
        assert (found["use"], found["store"], found["processes"]) == (None, None, None)
        assert found["warnings"]


async def test_no_key_sees_nothing(api: RunningApi) -> None:
    assert (await api.client.get("/v2/system", headers={"X-Api-Key": "nobody"})).status_code == 401


async def test_the_facts_are_read_once_for_many_clients(valkey_url: str) -> None:
    now = [0.0]
    async with running_api(valkey_url, monotonic=lambda: now[0]) as api:
        before = (await system(api))["asOf"]
        assert (await system(api))["asOf"] == before
        now[0] += 6
        assert (await system(api))["asOf"] > before


async def test_a_full_store_is_told_without_its_size(api: RunningApi) -> None:
    used = (await api.store.redis.info("memory"))["used_memory"]
    await api.store.redis.config_set("maxmemory", used + 100_000)
    try:
        told = {one["code"]: one["message"] for one in (await system(api))["warnings"]}
    finally:
        await api.store.redis.config_set("maxmemory", 0)
    assert told["store_nearly_full"] == ("the store is more than 80 % full; submissions are refused when it is full")


def test_the_end_of_a_certificate_is_read(tmp_path: Path) -> None:
    ends_at_ms = expires_at_ms(self_signed(tmp_path, "localhost").path)
    assert ends_at_ms is not None
    assert 0 < ends_at_ms - time.time() * 1000 <= 86_400_000
    assert expires_at_ms(tmp_path / "none.pem") is None
    (tmp_path / "bad.pem").write_text("no certificate")
    assert expires_at_ms(tmp_path / "bad.pem") is None
