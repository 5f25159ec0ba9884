"""`/v2/tenants`: operators create tenants and set their limits; they have no access to any tenant's data."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS
from queue_engine.store.tenants import TenantStore
from tests.api_server import ENDPOINT, RunningApi, running_api

DEFAULTS = {
    "endpoints": 1000, "credentials": 1000, "workersPerEndpoint": 100, "workers": 1000,
    "storedBytes": None, "waitingTasks": 0, "waitingDeliveries": 0, "submitsPerSecond": 0,
}  # fmt: skip


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
        ({"name": "a", "limits": {"submitsPerSecond": 10**6 + 1}}, "limits.submitsPerSecond: must be at most"),
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


async def test_an_endpoint_has_at_most_the_tenants_limit_of_workers(
    operator: httpx.AsyncClient, api: RunningApi
) -> None:
    message = "workersPerEndpoint: an endpoint of the tenant has at most 100"
    answer = await api.post("/v2/serverless", ENDPOINT | {"workers": 101})
    assert (answer.status_code, answer.json()["message"]) == (429, message)
    assert "Retry-After" not in answer.headers
    path = f"/v2/serverless/{await api.create_endpoint(workers=100)}"
    for refused in (
        await api.client.put(f"{path}/workers", params={"count": 101}),
        await api.client.put(f"{path}/workers/101"),
        await api.client.patch(path, json={"workers": 101}),
    ):
        assert (refused.status_code, refused.json()["message"]) == (429, message)
    assert data(await api.client.get(path))["totalWorkers"] == 100
    await operator.patch("/v2/tenants/default", json={"limits": {"workersPerEndpoint": 0}})
    assert data(await api.client.put(f"{path}/workers/101")) is True


async def test_a_tenant_has_at_most_its_limit_of_workers_on_all_endpoints(
    operator: httpx.AsyncClient, api: RunningApi
) -> None:
    await operator.patch("/v2/tenants/default", json={"limits": {"workers": 5}})
    path = f"/v2/serverless/{await api.create_endpoint(workers=3)}"
    data(await api.client.post(f"{path}/stop"))  # a stopped endpoint may start again
    message = "workers: the tenant has at most 5"
    other = f"/v2/serverless/{await api.create_endpoint(workers=2)}"
    for refused in (
        await api.post("/v2/serverless", ENDPOINT),
        await api.client.put(f"{other}/workers/3"),
        await api.client.patch(other, json={"workers": 3}),
    ):
        assert (refused.status_code, refused.json()["message"]) == (429, message)
    data(await api.client.patch(other, json={"name": "renamed"}))
    data(await api.post("/v2/serverless", ENDPOINT | {"workers": 0}))
    data(await api.client.put(f"{path}/workers/1"))
    data(await api.client.put(f"{other}/workers/4"))
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    assert (await api.client.post("/v2/serverless", json=ENDPOINT, headers=stranger)).status_code == 200


async def test_a_tenant_with_more_workers_than_a_new_limit_may_have_fewer_but_not_more(
    operator: httpx.AsyncClient, api: RunningApi
) -> None:
    path = f"/v2/serverless/{await api.create_endpoint(workers=50)}"
    await operator.patch("/v2/tenants/default", json={"limits": {"workers": 10, "workersPerEndpoint": 10}})
    assert data(await api.client.put(f"{path}/workers/40")) is True
    assert (await api.client.put(f"{path}/workers/41")).status_code == 429


async def test_settings_of_the_process_are_the_limits_of_tenants_without_their_own(valkey_url: str) -> None:
    async with running_api(valkey_url, max_endpoints_per_tenant=1, max_waiting_tasks_per_tenant=7) as api:
        await api.create_endpoint()
        answer = await api.post("/v2/serverless", ENDPOINT)
        assert (answer.status_code, answer.json()["message"]) == (429, "endpoints: the tenant has at most 1")
        headers = {"X-Api-Key": await api.new_key(OPERATORS, role=Role.OPERATOR)}
        shown = data(await api.client.get("/v2/tenants/default", headers=headers))
        assert (shown["limits"]["endpoints"], shown["limits"]["waitingTasks"], shown["overridden"]) == (1, 7, [])
        await api.client.patch("/v2/tenants/default", json={"limits": {"endpoints": 2}}, headers=headers)
        await api.create_endpoint()
        assert (await api.post("/v2/serverless", ENDPOINT)).json()["message"] == "endpoints: the tenant has at most 2"
        page = (await api.client.get("/metrics")).text
        assert 'queue_engine_limit_refusals_total{limit="endpoints"} ' in page
        assert 'queue_engine_limit_refusals_total{limit="storedBytes"} ' in page


async def test_a_tenant_at_a_limit_of_its_total_gets_429_with_a_time(
    operator: httpx.AsyncClient, api: RunningApi
) -> None:
    endpoint_id = await api.create_endpoint()
    await operator.patch("/v2/tenants/default", json={"limits": {"waitingTasks": 2}})
    answer = await api.submit(endpoint_id)
    while answer.status_code == 200:  # the totals are a second old
        answer = await api.submit(endpoint_id)
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert answer.json()["message"] == "waitingTasks: the tenant has at most 2"
    assert answer.headers["Retry-After"] == "5"


# Ceilings of endpoints' settings


CEILINGS: dict[str, Any] = {
    "max_queued_tasks_per_endpoint": 100,
    "max_result_retention_seconds": 3600,
    "max_worker_concurrency": 8,
}


@pytest.mark.parametrize(
    ("field", "ceiling"), [("maxQueuedTasks", 100), ("resultRetentionSeconds", 3600), ("concurrency", 8)]
)
async def test_a_setting_above_the_operators_ceiling_is_refused(valkey_url: str, field: str, ceiling: int) -> None:
    async with running_api(valkey_url, **CEILINGS) as api:
        message = f"{field}: must be at most {ceiling}, the operator's limit"
        answer = await api.post("/v2/serverless", ENDPOINT | {field: ceiling + 1})
        assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (400, 10001, message)
        path = f"/v2/serverless/{await api.create_endpoint(**{field: ceiling})}"
        answer = await api.client.patch(path, json={field: ceiling + 1})
        assert (answer.status_code, answer.json()["message"]) == (400, message)
        assert data(await api.client.get(path))[field] == ceiling


async def test_defaults_are_lowered_to_the_ceilings_and_older_values_stay(valkey_url: str) -> None:
    async with running_api(valkey_url) as before:
        path = f"/v2/serverless/{await before.create_endpoint(concurrency=50)}"
    async with running_api(valkey_url, **CEILINGS) as api:
        made = data(await api.post("/v2/serverless", ENDPOINT))
        assert (made["maxQueuedTasks"], made["resultRetentionSeconds"], made["concurrency"]) == (100, 3600, 1)
        renamed = data(await api.client.patch(path, json={"name": "renamed"}))
        assert (renamed["concurrency"], renamed["maxQueuedTasks"]) == (50, 1_000_000)
        assert (await api.client.patch(path, json={"concurrency": 49})).status_code == 400
        assert data(await api.client.patch(path, json={"maxQueuedTasks": None}))["maxQueuedTasks"] == 1_000_000
