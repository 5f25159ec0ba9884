"""`/v2/tenants`: operators create tenants and set their limits; they have no access to any tenant's data."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS
from queue_engine.store.tenants import TenantStore
from tests.api_server import ENDPOINT, RunningApi

DEFAULTS = {"endpoints": 1000, "credentials": 1000, "workersPerEndpoint": 100, "workers": 1000}


@pytest.fixture
async def operator(api: RunningApi) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an operator's key."""
    key = await api.new_key(OPERATORS, role=Role.OPERATOR)
    async with httpx.AsyncClient(base_url=api.url, headers={"X-Api-Key": key}) as client:
        yield client


def data(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_a_tenant_is_created_once_and_listed(operator: httpx.AsyncClient, api: RunningApi) -> None:
    before = await api.store.now_ms()
    tenant = data(await operator.post("/v2/tenants", json={"name": "acme", "limits": {"workers": 5}}))
    assert before <= tenant.pop("createdAt") <= await api.store.now_ms()
    assert tenant == {"name": "acme", "limits": DEFAULTS | {"workers": 5}, "overridden": ["workers"]}
    again = await operator.post("/v2/tenants", json={"name": "acme"})
    assert (again.status_code, again.json()["code"]) == (409, 12001)
    listed = data(await operator.get("/v2/tenants"))
    assert [one["name"] for one in listed["items"]] == ["acme", "default"]
    assert listed["items"][1] == {"name": "default", "createdAt": None, "limits": DEFAULTS, "overridden": []}
    page = data(await operator.get("/v2/tenants", params={"pageSize": 1, "pageNumber": 2}))
    assert ([one["name"] for one in page["items"]], page["total"], page["pages"]) == (["default"], 2, 2)


async def test_limits_are_set_kept_and_restored(operator: httpx.AsyncClient) -> None:
    async def limited(limits: dict[str, int | None]) -> Any:
        return data(await operator.patch("/v2/tenants/default", json={"limits": limits}))

    assert (await limited({"endpoints": 5, "workersPerEndpoint": 0}))["overridden"] == [
        "endpoints",
        "workersPerEndpoint",
    ]
    assert (await limited({"endpoints": 7}))["limits"] == DEFAULTS | {"endpoints": 7, "workersPerEndpoint": 0}
    assert (await limited({"endpoints": None}))["limits"] == DEFAULTS | {"workersPerEndpoint": 0}
    assert (await limited({}))["overridden"] == ["workersPerEndpoint"]
    assert data(await operator.get("/v2/tenants/default"))["overridden"] == ["workersPerEndpoint"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "name: must be 1–64"),
        ({"name": "a/b"}, "name: must be 1–64"),
        ({"name": "-a"}, "name: must be 1–64"),
        ({"name": "a", "limits": {"workers": -1}}, "limits.workers: must be at least 0"),
        ({"name": "a", "limits": {"workers": 10**9 + 1}}, "limits.workers: must be at most"),
        ({"name": "a", "limits": {"workers": "5"}}, "limits.workers: must be an integer"),
        ({"name": "a", "limits": []}, "limits: must be an object"),
    ],
)
async def test_an_invalid_tenant_is_refused_with_its_field(
    operator: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    answer = await operator.post("/v2/tenants", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert data(await operator.get("/v2/tenants"))["total"] == 1


async def test_an_unknown_tenant_is_not_found(operator: httpx.AsyncClient) -> None:
    for method, body in (("GET", None), ("PATCH", {"limits": {"workers": 1}}), ("PATCH", {"limits": {}})):
        answer = await operator.request(method, "/v2/tenants/none", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, 10007)


async def test_a_second_tenant_closes_loopback_for_webhooks(operator: httpx.AsyncClient, api: RunningApi) -> None:
    assert await api.store.api_keys.has_one_tenant()
    data(await operator.post("/v2/tenants", json={"name": "second"}))
    assert not await api.store.api_keys.has_one_tenant()


async def test_changes_of_an_operator_are_in_the_tenants_audit_log(
    operator: httpx.AsyncClient, api: RunningApi
) -> None:
    data(await operator.patch("/v2/tenants/default", json={"limits": {"workers": 5}}))
    (record,) = data(await api.client.get("/v2/audit"))["items"]
    assert (record["action"], record["target"], record["keyName"]) == ("set_tenant_limits", "tenant default", "test")


async def test_a_tenant_has_its_limits_from_its_first_moment_on(
    operator: httpx.AsyncClient, api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creating a tenant with limits is one step: a process that dies between two would leave it with the defaults."""

    async def die(*arguments: Any) -> None:
        raise AssertionError("limits are set in a second step")

    monkeypatch.setattr(TenantStore, "set_limits", die)
    limits = {"endpoints": 0, "workers": 5, "credentials": None}
    tenant = data(await operator.post("/v2/tenants", json={"name": "acme", "limits": limits}))
    assert tenant["limits"] == DEFAULTS | {"endpoints": 0, "workers": 5}
    assert tenant["overridden"] == ["endpoints", "workers"]


async def test_a_tenant_gets_429_at_its_limit_of_endpoints(operator: httpx.AsyncClient, api: RunningApi) -> None:
    await operator.patch("/v2/tenants/default", json={"limits": {"endpoints": 2}})
    for _ in range(2):
        await api.create_endpoint()
    answer = await api.post("/v2/serverless", ENDPOINT)
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert answer.json()["message"] == "endpoints: the tenant has at most 2"
    assert "Retry-After" not in answer.headers
    assert len(data(await api.client.get("/v2/serverless"))) == 2
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    assert (await api.client.post("/v2/serverless", json=ENDPOINT, headers=stranger)).status_code == 200
    await operator.patch("/v2/tenants/default", json={"limits": {"endpoints": 0}})
    await api.create_endpoint()


async def test_a_tenant_gets_429_at_its_limit_of_credentials(operator: httpx.AsyncClient, api: RunningApi) -> None:
    path = "/v2/container-registry-auths"
    await operator.patch("/v2/tenants/default", json={"limits": {"credentials": 1}})
    body = {"name": "ours", "type": "GCR", "username": "robot", "password": "a password"}
    first = data(await api.post(path, body))
    answer = await api.post(path, body)
    assert (answer.status_code, answer.json()["message"]) == (429, "credentials: the tenant has at most 1")
    assert data(await api.client.get(path)) == [first]
    endpoint_id = await api.create_endpoint(containerRegistryAuthId=first["id"])
    await api.client.delete(f"/v2/serverless/{endpoint_id}")
    await api.client.delete(f"{path}/{first['id']}")
    data(await api.post(path, body))


async def test_a_refused_endpoint_does_not_use_its_credential(operator: httpx.AsyncClient, api: RunningApi) -> None:
    path = "/v2/container-registry-auths"
    body = {"name": "ours", "type": "GCR", "username": "robot", "password": "a password"}
    credential = data(await api.post(path, body))["id"]
    await api.create_endpoint()
    await operator.patch("/v2/tenants/default", json={"limits": {"endpoints": 1}})
    assert (await api.post("/v2/serverless", ENDPOINT | {"containerRegistryAuthId": credential})).status_code == 429
    assert data(await api.client.delete(f"{path}/{credential}")) is True
