"""Agents with a token that is not theirs, is no longer valid, or was never made, at a real API."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.frames import CONTENT_TYPE
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.agent_tokens import AgentToken
from queue_engine.domain.principals import Role
from queue_engine.domain.workers import managed_worker_id
from queue_engine.store.agent_tokens import place_of
from tests.api_server import RunningApi, running_api
from tests.waiting import wait_until_async

REFUSED = (401, 40101)
NOT_ITS_WORKER = (403, 40301)


class Agents:
    """Sends calls of agents, each without the API key of the test's client."""

    def __init__(self, api: RunningApi, client: httpx.AsyncClient) -> None:
        self._api = api
        self._client = client

    async def token_of(self, endpoint_id: str) -> str:
        token = new_agent_token(endpoint_id)
        created = await self._api.store.agent_tokens.create(endpoint_id, "default", token, "test")
        assert isinstance(created, AgentToken)
        return token

    async def managed(self, endpoint_id: str, suffix: str) -> tuple[str, str]:
        """Start a managed worker; return its id and its token."""
        worker_id = managed_worker_id(endpoint_id, suffix)
        await self._api.store.workers.put(endpoint_id, worker_id, managed=True)
        return worker_id, await self.started_again(endpoint_id, worker_id)

    async def started_again(self, endpoint_id: str, worker_id: str) -> str:
        token = new_agent_token(worker_id)
        await self._api.store.workers.begin_start(endpoint_id, worker_id, token)
        return token

    async def hello(self, token: str, worker: str = "w1") -> tuple[int, int]:
        """Return status and code of `hello`; the code is 0 for a response that is no refusal."""
        return await self.hello_with({"Authorization": f"Bearer {token}"}, worker)

    async def hello_with(self, headers: Mapping[str, str], worker: str = "w1", **query: str) -> tuple[int, int]:
        body = b"".join(calls.HELLO.request.encode(m.WorkerRequest(worker)))
        answer = await self._client.post(
            calls.HELLO.path, content=body, headers={"Content-Type": CONTENT_TYPE, **headers}, params=query
        )
        return answer.status_code, 0 if answer.status_code == 200 else answer.json()["code"]

    async def claim(self, token: str, worker: str = "w1", *, wait_ms: int = 0) -> int:
        request = m.ClaimRequest(worker, "c" * 32, 1, wait_ms)
        answer = await self._client.post(
            calls.CLAIM.path,
            content=b"".join(calls.CLAIM.request.encode(request)),
            headers={"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {token}"},
        )
        return answer.status_code


@pytest.fixture
async def agents(api: RunningApi) -> AsyncIterator[Agents]:
    async with httpx.AsyncClient(base_url=api.url, timeout=60, verify=False) as client:
        yield Agents(api, client)


async def test_only_a_token_in_the_authorization_header_is_taken(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    token = await agents.token_of(endpoint_id)
    assert await agents.hello(token) == (200, 0)
    bearer = {"Authorization": f"Bearer {token}"}
    assert await agents.hello_with(bearer | {"X-Api-Key": "ignored"}) == (200, 0)
    for headers in ({}, {"X-Api-Key": token}, {"Cookie": f"token={token}"}, {"Authorization": token}):
        for query in ({}, {"token": token}, {"access_token": token}, {"Authorization": f"Bearer {token}"}):
            assert await agents.hello_with(headers, **query) == REFUSED


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR])
async def test_an_api_key_is_no_token(api: RunningApi, agents: Agents, endpoint_id: str, role: Role) -> None:
    key = await api.new_key("" if role is Role.OPERATOR else "default", role=role)
    assert await agents.hello(key) == REFUSED
    assert await agents.hello(f"qea_{endpoint_id}_{key.removeprefix('qe_')}") == REFUSED


async def test_the_secret_of_a_token_is_worth_nothing_under_another_name(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    other = await api.create_endpoint(name="other")
    token = await agents.token_of(endpoint_id)
    worker_id, of_worker = await agents.managed(endpoint_id, "3fa9c0d1e2")
    for forged in (
        token.replace(f"qea_{endpoint_id}_", f"qea_{other}_"),
        token.replace(f"qea_{endpoint_id}_", f"qea_{worker_id}_"),
        of_worker.replace(worker_id, endpoint_id),
        of_worker.replace(worker_id, managed_worker_id(other, "3fa9c0d1e2")),
    ):
        assert await agents.hello(forged, worker_id) == REFUSED


async def test_a_revoked_token_is_refused_although_it_was_cached(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    token, other = await agents.token_of(endpoint_id), await agents.token_of(endpoint_id)
    assert await agents.hello(token) == (200, 0)
    found = await api.store.agent_tokens.find(place_of(token))
    assert found is not None
    await api.client.delete(f"/v2/serverless/{endpoint_id}/agent-tokens/{found.token_id}")

    async def is_refused() -> bool:
        return await agents.hello(token) == REFUSED

    await wait_until_async(is_refused)
    assert await agents.hello(other) == (200, 0)


async def test_a_claim_that_waits_gives_no_task_to_a_revoked_token(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    token = await agents.token_of(endpoint_id)
    claim = asyncio.create_task(agents.claim(token, wait_ms=20_000))

    async def is_admitted() -> bool:
        found = await api.store.agent_tokens.find(place_of(token))
        return found is not None and found.last_used_at_ms is not None

    await wait_until_async(is_admitted)
    found = await api.store.agent_tokens.find(place_of(token))
    assert found is not None
    await api.store.agent_tokens.revoke(found)

    async def is_refused() -> bool:
        return await agents.hello(token) == REFUSED

    await wait_until_async(is_refused)
    await api.submit(endpoint_id, taskId="a")
    assert await claim == 401
    other = await agents.token_of(endpoint_id)
    assert await agents.claim(other, "w2", wait_ms=20_000) == 200


async def test_the_token_of_a_worker_acts_for_no_other_worker(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    worker_id, token = await agents.managed(endpoint_id, "1")
    other_id, _ = await agents.managed(endpoint_id, "2")
    assert await agents.hello(token, worker_id) == (200, 0)
    for worker in (other_id, "w1"):
        assert await agents.hello(token, worker) == NOT_ITS_WORKER
    by_hand = await agents.token_of(endpoint_id)
    assert await agents.hello(by_hand, worker_id) == NOT_ITS_WORKER


async def test_the_token_of_a_worker_ends_with_its_next_start_and_with_the_worker(
    api: RunningApi, agents: Agents, endpoint_id: str
) -> None:
    worker_id, first = await agents.managed(endpoint_id, "1")
    assert await agents.hello(first, worker_id) == (200, 0)
    second = await agents.started_again(endpoint_id, worker_id)

    async def refuses(token: str) -> bool:
        return await agents.hello(token, worker_id) == REFUSED

    await wait_until_async(lambda: refuses(first))
    assert await agents.hello(second, worker_id) == (200, 0)
    await api.store.workers.remove(endpoint_id, worker_id)
    await wait_until_async(lambda: refuses(second))


async def test_a_flood_of_unknown_tokens_does_not_stop_a_valid_agent(valkey_url: str) -> None:
    """600 requests from the agent's own address. `test_agent_admission` has 10,000 of them without HTTP."""
    kept = httpx.Limits(max_keepalive_connections=100)  # to connect again takes longer than the request
    async with (
        running_api(valkey_url) as api,
        httpx.AsyncClient(base_url=api.url, timeout=60, verify=False, limits=kept) as client,
    ):
        agents = Agents(api, client)
        endpoint_id = await api.create_endpoint()
        token = await agents.token_of(endpoint_id)
        outcomes: Counter[tuple[int, int]] = Counter()

        async def flood() -> None:
            for number in range(1, 7):
                unknown = (new_agent_token(str(number + 100 * place)) for place in range(100))
                outcomes.update(await asyncio.gather(*map(agents.hello, unknown)))

        flooding = asyncio.create_task(flood())
        served = 0
        while not flooding.done():
            assert await agents.hello(token) == (200, 0)
            served += 1
        await flooding
        assert served > 0
        assert set(outcomes) == {REFUSED, (429, 429)}
        # An API key from the same address has look-ups of its own.
        assert (await client.get("/v2/me", headers={"X-Api-Key": "unknown"})).status_code == 401
