"""`/agent/v1/…` on a real store: the life of a task, long polls, cancellations, drain, and two API processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.domain.endpoints import DesiredState, ServiceMode
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.tasks import Cost, TaskState
from queue_engine.domain.workers import Pace, WorkerStatus
from queue_engine.engine.agents.claims import EndpointClaims, WaitingEndpoints
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.store.queue import MAX_TOGETHER
from tests.api_server import RunningApi, running_api
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until_async
from tests.wire_agent import ADDRESS, TOKEN, Refused, WireAgent, new_agent, new_token

AgentMaker = Callable[..., Awaitable[WireAgent]]


@pytest.fixture
async def new(api: RunningApi, endpoint_id: str) -> AsyncIterator[AgentMaker]:
    """Make agents of the endpoint, with one token."""
    token = (await new_token(api, endpoint_id))["token"]
    async with AsyncExitStack() as agents:

        async def make(worker: str = "by-hand-1", url: str = "") -> WireAgent:
            return await agents.enter_async_context(WireAgent(url or api.url, token, worker))

        yield make


async def submitted(api: RunningApi, endpoint_id: str, *task_ids: str, **changes: object) -> None:
    for task_id in task_ids:
        answer = await api.submit(endpoint_id, taskId=task_id, **changes)
        assert answer.status_code == 200, answer.text


async def state_of(api: RunningApi, endpoint_id: str, task_id: str) -> TaskState:
    task = await api.store.tasks.get(endpoint_id, task_id)
    assert task is not None
    return task.state


async def waiting(api: RunningApi, count: int) -> None:
    """Wait until that many agents wait for a task."""
    claims = api.engine.agent_work._claims
    await wait_until_async(lambda: sum(one.waiting for one in claims.values()) == count)


async def claimed_ids(agent: WireAgent, claims: tuple[str, ...]) -> list[str]:
    response, _ = await agent.start(*claims)
    return [one.attempt.task for one in response.results if one.attempt is not None]


async def test_an_agent_reports_how_fast_its_tasks_run(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    await agent.about_worker(calls.REGISTER)

    async def reported(**more: Any) -> Pace | None:
        await agent.report(**more)
        (worker,) = await api.store.workers.of_endpoint(endpoint_id)
        return worker.pace

    assert await reported(slots=4) == Pace(4)
    assert await reported(slots=4, mean_run_ms=12.5) == Pace(4, 12.5)
    assert await reported() is None  # an agent of an earlier version


async def test_an_agent_without_a_store_runs_a_task(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    hello = await agent.about_worker(calls.HELLO)
    assert (hello.endpoint, hello.service_mode, hello.lease_seconds) == (endpoint_id, ServiceMode.QUEUE, 30)
    await agent.about_worker(calls.REGISTER)
    assert (await agent.report()).desired is DesiredState.RUNNING
    claiming = agent.claim_later()
    await waiting(api, 1)
    headers = {"Authorization": "Bearer secret"}
    await submitted(api, endpoint_id, "t1", input={"n": "1.0"}, headers=headers)
    response, inputs = await agent.start(*await claiming)
    (result,) = response.results
    assert result.attempt is not None
    attempt = result.attempt
    assert (attempt.task, attempt.attempt, attempt.port, attempt.path) == ("t1", 1, 8000, "/run")
    assert (attempt.headers, inputs) == (headers, [b'{"n": "1.0"}'])
    assert await agent.renew("t1") == ["OK"]
    assert await agent.succeed("t1", b'{"sum": 2.50}') == "OK"
    assert await agent.succeed("t1", b'{"sum": 2.50}') == "ALREADY"
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/t1")
    assert '"output":{"sum": 2.50}' in answer.text
    await agent.append("first", "second")
    page = await api.store.logs.page(endpoint_id, agent.worker, LogQuery(size=10))
    assert page is not None
    assert [line.text for line in page.lines] == ["first", "second"]
    (worker,) = await api.store.workers.of_endpoint(endpoint_id)
    assert (worker.status, worker.address, worker.managed) == (WorkerStatus.RUNNING, ADDRESS, False)
    await agent.about_worker(calls.REMOVE)
    assert await api.store.workers.of_endpoint(endpoint_id) == []


async def test_an_attempt_has_no_secret_of_its_webhook(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    await submitted(api, endpoint_id, "t1", webhook="https://hooks.example/x", webhookAuthKey="very-secret-key")
    starts = (m.Start((await agent.claim())[0], TOKEN, ADDRESS),)
    body = b"".join(calls.START.request.encode(m.StartRequest(agent.worker, starts)))
    answer = await agent.send(calls.START.path, body)
    assert b"t1" in answer.content
    assert not any(word in answer.content for word in (b"very-secret-key", b"hooks.example"))


async def test_ends_of_all_kinds_are_settled_together(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    names = ("ok", "failed", "retried", "released", "large")
    await submitted(api, endpoint_id, *names)
    claims: tuple[str, ...] = ()
    while len(claims) < len(names):
        claims += await agent.claim(limit=len(names))
    await agent.start(*claims)
    large = b'"' + b"x" * 3_000_000 + b'"'
    words = await agent.settle(
        m.SucceededEnd("ok", TOKEN),
        m.FailedEnd("failed", TOKEN, "it broke", "timed_out"),
        m.RetriedEnd("retried", TOKEN, "busy", 60.0, "busy", Cost.BUSY, "busy for too long"),
        m.ReleasedEnd("released", TOKEN, called=False),
        m.SucceededEnd("large", TOKEN),
        m.SucceededEnd("unknown", TOKEN),
        outputs=[b"[1]", large, b"2"],
    )
    assert words == ["OK", "OK", "OK", "OK", "OK", "GONE"]
    states = [await state_of(api, endpoint_id, name) for name in names]
    assert states == [
        TaskState.SUCCEEDED, TaskState.TIMED_OUT, TaskState.SCHEDULED, TaskState.QUEUED, TaskState.SUCCEEDED
    ]  # fmt: skip


async def test_large_inputs_are_started_a_few_at_a_time(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    names = [f"t{number}" for number in range(4)]
    await submitted(api, endpoint_id, *names, input="x" * 700_000)
    claims: tuple[str, ...] = ()
    while len(claims) < len(names):
        claims += await agent.claim(limit=len(names))
    response, inputs = await agent.start(*claims)
    assert [len(input_) for input_ in inputs] == [700_002, 700_002]
    rest, more = await agent.start(*claims[len(response.results) :])
    assert [one.word for one in (*response.results, *rest.results)] == ["OK"] * 4
    assert len(more) == 2


async def test_agents_that_wait_share_one_read_of_the_store(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agents = [await new(f"by-hand-{number}") for number in range(40)]
    claiming = [agent.claim_later() for agent in agents]
    await waiting(api, 40)

    async def blocked() -> int:
        return int((await api.store.redis.info("clients"))["blocked_clients"])

    await wait_until_async(blocked)
    assert await blocked() == 1
    names = [f"t{number}" for number in range(40)]
    await submitted(api, endpoint_id, *names)
    claims = await asyncio.gather(*claiming)
    assert [len(one) for one in claims] == [1] * 40
    assert sorted(one.rpartition(":")[2] for (one,) in claims) == sorted(names)


async def test_a_repeated_claim_returns_the_same_tasks(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    await submitted(api, endpoint_id, "t1")
    claims = await agent.claim(claim_id="c1")
    assert await agent.claim(claim_id="c1") == claims
    assert await agent.claim(claim_id="c1", is_repeated=True) == claims
    await submitted(api, endpoint_id, "t2")
    assert await agent.claim(claim_id="other", is_repeated=True) == ()
    assert await claimed_ids(agent, await agent.claim(claim_id="c2")) == ["t2"]


async def test_a_new_claim_of_a_worker_ends_its_earlier_one(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    earlier = agent.claim_later()
    await waiting(api, 1)
    began = time.monotonic()
    later = agent.claim_later()
    assert await earlier == ()
    assert time.monotonic() - began < 10, "it has ended by time"
    assert await agent.claim(claim_id="other", is_repeated=True) == ()
    assert await later == ()
    later = agent.claim_later()
    await submitted(api, endpoint_id, "t1")
    assert await claimed_ids(agent, await later) == ["t1"]


async def test_a_long_poll_ends_in_time_without_a_task(new: AgentMaker) -> None:
    agent = await new()
    began = time.monotonic()
    assert await agent.claim(wait_ms=200) == ()
    assert (await agent.watch(wait_ms=200)).tasks == ()
    assert time.monotonic() - began >= 0.4


async def test_a_task_of_an_agent_that_has_disconnected_goes_to_another_at_once(
    api: RunningApi, endpoint_id: str, new: AgentMaker
) -> None:
    """Its claim is not given to an agent that no longer waits, and not left until others take it over."""
    dead, living = await new("dead"), await new("living")
    claiming = dead.claim_later()
    await waiting(api, 1)
    began = time.monotonic()
    claiming.cancel()
    await waiting(api, 0)
    await submitted(api, endpoint_id, "t1")
    assert await claimed_ids(living, await living.claim()) == ["t1"]
    assert time.monotonic() - began < 8, "its wait has ended by time, or the task was taken over after its time"


async def test_unstarted_tasks_of_a_killed_api_are_handed_to_other_agents(api: RunningApi, endpoint_id: str) -> None:
    await submitted(api, endpoint_id, "t1")

    def claims_of(name: str) -> EndpointClaims:
        queue = api.store.queue(endpoint_id=endpoint_id, worker_id=name, lease_ms=1000, is_served=True)
        return EndpointClaims(queue, "default", WaitingEndpoints(), lease_seconds=0.4)

    killed, other = claims_of("api-1"), claims_of("api-2")
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    (lost,) = await killed.claim("w1", "c1", 1, never)
    (found,) = await other.claim("w2", "c2", 1, never)
    assert (found.task_id, found.entry_id) == (lost.task_id, lost.entry_id)
    await other.put_back([found])
    await asyncio.gather(killed.aclose(), other.aclose())


async def test_agents_of_a_tenant_do_not_take_all_places_of_waiting_endpoints(
    api: RunningApi, endpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is limited for each tenant. An endpoint counts while an agent of it waits."""
    monkeypatch.setattr(api.engine.agent_work, "_waiting_endpoints", WaitingEndpoints(1))
    second = await api.create_endpoint(name="second")
    async with await new_agent(api, endpoint_id) as agent, await new_agent(api, second) as other:
        claiming = agent.claim_later()
        await waiting(api, 1)
        message = m.ClaimRequest(other.worker, "c1", 1, 1000)
        refused = await other.client.post(calls.CLAIM.path, content=b"".join(calls.CLAIM.request.encode(message)))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["message"].startswith("claim: at most 1 endpoints of a tenant can have agents that wait")
        await submitted(api, endpoint_id, "t1")
        await claiming
        await submitted(api, second, "t2")
        await wait_until_async(lambda: _gets_a_task(other))


async def _gets_a_task(agent: WireAgent) -> bool:
    """Return True if the agent claims a task; False if it must not wait yet, because another read has not ended."""
    try:
        return bool(await agent.claim())
    except Refused:
        return False


async def test_a_put_back_task_is_claimed_again(api: RunningApi, endpoint_id: str, new: AgentMaker) -> None:
    agent = await new()
    await submitted(api, endpoint_id, "t1")
    claims = await agent.claim()
    await agent.call(calls.PUT_BACK, m.PutBackRequest(agent.worker, claims))
    await agent.call(calls.PUT_BACK, m.PutBackRequest(agent.worker, claims))
    again = await agent.claim()
    stale, _ = await agent.start(*claims)
    assert [one.word for one in stale.results] == ["STALE"]
    assert await claimed_ids(agent, again) == ["t1"]


async def test_a_draining_api_ends_long_polls_at_once_and_keeps_their_tasks(
    valkey_url: str, api: RunningApi, endpoint_id: str, new: AgentMaker
) -> None:
    async with running_api(valkey_url) as draining:
        agent = await new(url=draining.url)
        message = m.ClaimRequest(agent.worker, "c1", 1, 20_000)
        sending = asyncio.create_task(agent.send(calls.CLAIM.path, b"".join(calls.CLAIM.request.encode(message))))
        watching = asyncio.create_task(agent.watch())
        await waiting(draining, 1)
        began = time.monotonic()
        draining.stop()
        answer = await sending
        assert time.monotonic() - began < 10, "it has waited for the end of the long poll"
        assert calls.CLAIM.response.decode(answer.content)[0].claims == ()
        assert answer.headers["connection"] == "close"
        assert (await watching).tasks == ()
        await submitted(api, endpoint_id, "t1")  # the read of the draining process may get it
    other = await new("other")
    began = time.monotonic()
    assert await claimed_ids(other, await other.claim()) == ["t1"]
    assert time.monotonic() - began < 5, "it was taken over after its time"


async def test_an_agent_learns_of_a_cancellation_at_once_by_any_api(
    valkey_url: str, api: RunningApi, endpoint_id: str, new: AgentMaker
) -> None:
    async with running_api(valkey_url) as second:
        agent = await new(url=second.url)
        await submitted(api, endpoint_id, "t1")
        await agent.start(*await agent.claim())
        watching = asyncio.create_task(agent.watch())
        partitions = second.engine.agent_work._cancel_watches
        await wait_until_async(lambda: any(one.is_reading for one in partitions.values()))
        answer = await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/t1/cancel")
        assert answer.status_code == 200, answer.text
        cancelled_at = time.monotonic()
        watched = await watching
        assert watched.tasks == ("t1",)
        assert time.monotonic() - cancelled_at < 1, "200 ms on a machine that is not loaded"
        assert await agent.renew("t1") == ["CANCEL"]
        assert (await agent.watch(watched.after, wait_ms=100)).tasks == ()


async def test_a_cancellation_between_two_watches_is_not_missed(
    api: RunningApi, endpoint_id: str, new: AgentMaker
) -> None:
    agent, other = await new(), await new("other")
    before = await agent.watch(wait_ms=100)
    await submitted(api, endpoint_id, "t1")
    await agent.start(*await agent.claim())
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/t1/cancel")
    assert (await agent.watch(before.after)).tasks == ("t1",)
    assert (await other.watch(before.after, wait_ms=100)).tasks == ()


async def test_every_call_may_go_to_any_api(
    valkey_url: str, api: RunningApi, endpoint_id: str, new: AgentMaker
) -> None:
    async with running_api(valkey_url) as second:
        first_agent, second_agent = await new(), await new(url=second.url)
        await submitted(api, endpoint_id, "t1")
        claims = await first_agent.claim()
        assert await claimed_ids(second_agent, claims) == ["t1"]
        assert await claimed_ids(first_agent, claims) == ["t1"], "a repeated start is the same attempt"
        assert await first_agent.renew("t1") == ["OK"]
        assert await second_agent.succeed("t1") == "OK"
        assert await first_agent.succeed("t1") == "ALREADY"


async def test_a_token_that_is_revoked_while_its_agent_waits_gets_no_task(valkey_url: str) -> None:
    now = time.monotonic()
    async with running_api(valkey_url, monotonic=lambda: now) as api:
        endpoint_id = await api.create_endpoint()
        token = await new_token(api, endpoint_id)
        async with WireAgent(api.url, token["token"], "revoked") as revoked:
            claiming = revoked.claim_later()
            await waiting(api, 1)
            answer = await api.client.delete(f"/v2/serverless/{endpoint_id}/agent-tokens/{token['id']}")
            assert answer.status_code == 200, answer.text
            now += REVOCATION_SECONDS
            await submitted(api, endpoint_id, "t1")
            began = time.monotonic()
            with pytest.raises(Refused) as refused:
                await claiming
            assert refused.value.status == 401
        async with await new_agent(api, endpoint_id, "valid") as valid:
            assert await claimed_ids(valid, await valid.claim()) == ["t1"]
        assert time.monotonic() - began < 8, "the task was taken over after its time"


async def test_agents_repeat_their_calls_while_the_store_is_away(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with StoreServer(valkey_binary(), tmp_path, options=options) as server:
        async with running_api(server.url) as api:
            endpoint_id = await api.create_endpoint()
            async with await new_agent(api, endpoint_id) as agent:
                await submitted(api, endpoint_id, "t1")
                await agent.start(*await agent.claim())
                claiming = agent.claim_later()
                await waiting(api, 1)
                server.kill()
                for calling in (claiming, agent.renew("t1"), agent.watch(), agent.report(), agent.append("line")):
                    with pytest.raises(Refused) as refused:
                        await calling
                    assert (refused.value.status, refused.value.code) == (503, 10002)
                assert await said_of(agent) == "UNAVAILABLE"
                server.start()
                await wait_until_async(lambda: is_recorded(agent))
                assert await state_of(api, endpoint_id, "t1") is TaskState.SUCCEEDED


async def said_of(agent: WireAgent) -> str:
    """Return the word for the success of `t1`, which is UNAVAILABLE too when the token cannot be looked up."""
    try:
        return await agent.succeed("t1")
    except Refused as refused:
        if refused.status != 503:
            raise
        return "UNAVAILABLE"


async def is_recorded(agent: WireAgent) -> bool:
    return await said_of(agent) in ("OK", "ALREADY")


async def test_waiting_agents_are_a_metric(api: RunningApi, new: AgentMaker) -> None:
    agent = await new()
    claiming = agent.claim_later()
    await waiting(api, 1)
    page = (await api.client.get("/metrics")).text
    assert "queue_engine_waiting_agents 1.0" in page
    claiming.cancel()


def test_a_call_starts_as_many_attempts_as_the_store_starts_together() -> None:
    assert m.MAX_TOGETHER == MAX_TOGETHER
