"""`/v2/serverless/{id}/agent-tokens`: tokens are shown once, listed and revoked by the endpoint's admins."""

from typing import Any

import httpx
import pytest

from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.agent_tokens import MAX_TOKENS_PER_ENDPOINT
from queue_engine.domain.principals import Role
from queue_engine.domain.workers import managed_worker_id
from queue_engine.store.agent_tokens import place_of, token_id_of
from tests.api_server import RunningApi


def path_of(endpoint_id: str, token_id: str = "") -> str:
    return f"/v2/serverless/{endpoint_id}/agent-tokens" + (f"/{token_id}" if token_id else "")


async def made(api: RunningApi, endpoint_id: str, name: str = "office") -> dict[str, Any]:
    answer = await api.post(path_of(endpoint_id), {"name": name})
    assert answer.status_code == 200, answer.text
    token: dict[str, Any] = answer.json()["data"]
    return token


async def listed(api: RunningApi, endpoint_id: str) -> list[dict[str, Any]]:
    answer = await api.client.get(path_of(endpoint_id))
    assert answer.status_code == 200, answer.text
    tokens: list[dict[str, Any]] = answer.json()["data"]
    return tokens


def refused(answer: httpx.Response, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]


async def test_a_new_token_is_shown_once_and_admits_agents_of_its_endpoint(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    token = await made(api, endpoint_id)
    secret = token.pop("token")
    assert token == {
        "id": token_id_of(secret), "name": "office", "workerId": None, "createdAt": token["createdAt"],
        "lastUsedAt": None,
    }  # fmt: skip
    assert await listed(api, endpoint_id) == [token]
    assert secret not in (await api.client.get(path_of(endpoint_id))).text
    found = await api.store.agent_tokens.find(place_of(secret))
    assert found is not None
    assert (found.principal().tenant, found.principal().endpoint_id) == ("default", endpoint_id)


async def test_a_token_is_no_api_key(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    token = (await made(api, endpoint_id))["token"]
    async with httpx.AsyncClient(base_url=api.url) as client:
        for headers in ({"X-Api-Key": token}, {"Authorization": f"Bearer {token}"}):
            for path in ("/v2/me", path_of(endpoint_id), f"/v2/serverless/{endpoint_id}/tasks"):
                assert (await client.get(path, headers=headers)).status_code == 401
        assert (await client.get("/v2/me", params={"token": token, "apiKey": api.key})).status_code == 401


async def test_a_revoked_token_is_gone_and_others_stay(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    first, second = await made(api, endpoint_id, "first"), await made(api, endpoint_id, "second")
    assert (await api.client.delete(path_of(endpoint_id, first["id"]))).json()["data"] is True
    assert [one["name"] for one in await listed(api, endpoint_id)] == ["second"]
    assert await api.store.agent_tokens.find(place_of(first["token"])) is None
    assert await api.store.agent_tokens.find(place_of(second["token"])) is not None
    for unknown in (first["id"], "0" * 16, "x", second["id"][:8]):
        refused(await api.client.delete(path_of(endpoint_id, unknown)), 404, "agent token not found")


async def test_a_token_is_not_revoked_by_way_of_another_endpoint(api: RunningApi) -> None:
    endpoint_id, other = await api.create_endpoint(), await api.create_endpoint()
    token = await made(api, endpoint_id)
    refused(await api.client.delete(path_of(other, token["id"])), 404, "agent token not found")
    assert [one["id"] for one in await listed(api, endpoint_id)] == [token["id"]]


async def test_the_token_of_a_managed_worker_is_listed_and_revoked(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    worker_id = managed_worker_id(endpoint_id, "3fa9c0d1e2")
    token = new_agent_token(worker_id)
    await api.store.workers.put(endpoint_id, worker_id, managed=True)
    await api.store.workers.begin_start(endpoint_id, worker_id, token)
    (view,) = await listed(api, endpoint_id)
    assert (view["id"], view["workerId"], view["name"]) == (token_id_of(token), worker_id, "")
    assert (await api.client.delete(path_of(endpoint_id, view["id"]))).status_code == 200
    assert await api.store.agent_tokens.find(place_of(token)) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "name: must be at least 1"),
        ({"name": "a\nb"}, "name: must not have control characters"),
        ({"name": "x" * 101}, "name: must be at most 100"),
        ({"name": 7}, "name: must be a string"),
    ],
)
async def test_an_invalid_name_is_refused(api: RunningApi, fields: dict[str, Any], message: str) -> None:
    endpoint_id = await api.create_endpoint()
    refused(await api.post(path_of(endpoint_id), fields), 400, message)
    assert await listed(api, endpoint_id) == []


async def test_a_key_with_an_end_creates_no_token_and_revokes_some(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    token = await made(api, endpoint_id)
    ends = await api.store.now_ms() + 600_000
    api.client.headers["X-Api-Key"] = await api.new_key("default", role=Role.ADMIN, expires_at_ms=ends)
    refused(await api.post(path_of(endpoint_id), {"name": "x"}), 403, "a token has no end")
    assert (await api.client.delete(path_of(endpoint_id, token["id"]))).status_code == 200


async def test_the_number_of_tokens_is_limited(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    for _ in range(MAX_TOKENS_PER_ENDPOINT):
        await api.store.agent_tokens.create(endpoint_id, "default", new_agent_token(endpoint_id), "")
    refused(await api.post(path_of(endpoint_id), {"name": "x"}), 429, "agentTokens: an endpoint has at most 100")
    assert len(await listed(api, endpoint_id)) == MAX_TOKENS_PER_ENDPOINT
