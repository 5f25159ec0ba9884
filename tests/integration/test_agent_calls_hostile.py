"""A hostile agent: what its token does not reach, and what the API does with messages that break the protocol."""

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.frames import MAX_HEAD_BYTES, framed
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.tasks import Cost, TaskState
from queue_engine.domain.workers import WorkerStatus, managed_worker_id
from tests.api_server import RunningApi, running_api
from tests.integration.raw_http import Connection
from tests.wire_agent import TOKEN, Refused, WireAgent, new_agent

OTHERS_TOKEN = "f" * 32
"""The token of the attempt of another endpoint, which the hostile agent knows here."""


@dataclass
class Scene:
    """A hostile agent of one endpoint, and a task that runs at another endpoint."""

    api: RunningApi
    own: str
    other: str
    hostile: WireAgent
    claim: str
    """The text of the claim of the other endpoint's task."""

    async def others_task(self) -> tuple[TaskState, str | None, str | None]:
        task = await self.api.store.tasks.get(self.other, "t1")
        assert task is not None
        return task.state, task.worker_id, task.error

    async def lease_ends(self) -> float | None:
        keys = self.api.store.partitions.of(self.other)
        found: float | None = await self.api.store.redis.zscore(keys.partition.leases, f"{self.other}:t1")
        return found


@pytest.fixture
async def scene(api: RunningApi) -> AsyncIterator[Scene]:
    own, other = await api.create_endpoint(name="own"), await api.create_endpoint(name="other")
    async with await new_agent(api, other, "victim") as victim, await new_agent(api, own, "hostile") as hostile:
        await api.submit(other, taskId="t1")
        (claim,) = await victim.claim()
        await victim.start(claim, token=OTHERS_TOKEN)
        yield Scene(api, own, other, hostile, claim)


async def refusal_of(awaited: Any) -> tuple[int, int, str]:
    with pytest.raises(Refused) as refused:
        await awaited
    return refused.value.status, refused.value.code, str(refused.value)


async def test_a_lease_of_another_endpoint_is_not_reached_even_with_its_token(scene: Scene) -> None:
    before, lease = await scene.others_task(), await scene.lease_ends()
    assert await scene.hostile.renew("t1", token=OTHERS_TOKEN) == ["GONE"]
    assert await scene.hostile.succeed("t1", b'"forged"', token=OTHERS_TOKEN) == "GONE"
    ends = (
        m.FailedEnd("t1", OTHERS_TOKEN, "forged", "failed"),
        m.RetriedEnd("t1", OTHERS_TOKEN, "forged", 0, "error", Cost.ATTEMPT),
        m.ReleasedEnd("t1", OTHERS_TOKEN, called=False),
    )
    assert await scene.hostile.settle(*ends) == ["GONE", "GONE", "GONE"]
    response, inputs = await scene.hostile.start(scene.claim)
    assert ([one.word for one in response.results], inputs) == (["STALE"], [])
    await scene.hostile.call(calls.PUT_BACK, m.PutBackRequest("hostile", (scene.claim,)))
    assert (await scene.others_task(), await scene.lease_ends()) == (before, lease)


async def test_a_result_without_the_token_of_its_attempt_is_fenced(scene: Scene) -> None:
    async with await new_agent(scene.api, scene.other, "second") as second:
        assert await second.renew("t1") == ["FENCED"]
        assert await second.succeed("t1", b'"forged"') == "FENCED"
    assert (await scene.others_task())[0] is TaskState.RUNNING


@pytest.mark.parametrize(
    "claim", ["", "new:1-1", "new:1-1:a}b", "other:1-1:t1", "retry:x-1:t1", "new:1-1:t1\n", "{p00}:q:1:1-1:t1"]
)
async def test_a_claim_that_no_claim_returned_is_refused(scene: Scene, claim: str) -> None:
    status, code, _ = await refusal_of(scene.hostile.start(claim))
    assert (status, code) == (400, 10001)
    assert (await scene.others_task())[0] is TaskState.RUNNING


async def test_a_claim_that_pairs_two_tasks_changes_nothing(scene: Scene) -> None:
    """Otherwise the entry of the first task would be deleted, and no agent would ever run it."""
    for task_id in ("mine", "yours"):
        await scene.api.submit(scene.own, taskId=task_id)
    mine, yours = await scene.hostile.claim(2)
    pair = f"{mine.rpartition(':')[0]}:yours"
    response, _ = await scene.hostile.start(pair)
    assert [one.word for one in response.results] == ["STALE"]
    await scene.hostile.call(calls.PUT_BACK, m.PutBackRequest("hostile", (pair,)))
    response, _ = await scene.hostile.start(mine)
    assert [one.word for one in response.results] == ["OK"]
    response, _ = await scene.hostile.start(yours, token=OTHERS_TOKEN)
    assert [one.word for one in response.results] == ["OK"]


@pytest.mark.parametrize("task_id", ["", "a:b", "a}b", "t1\n", "x" * 256, "ä"])
async def test_a_task_id_that_no_task_has_is_refused(scene: Scene, task_id: str) -> None:
    for sending in (scene.hostile.renew(task_id), scene.hostile.succeed(task_id)):
        assert (await refusal_of(sending))[:2] == (400, 10001)


async def test_a_token_acts_for_its_own_worker_only(scene: Scene) -> None:
    """That of a managed worker for that worker, and that of agents that were started by hand for no managed one."""
    store, own = scene.api.store, scene.own
    mine, others = managed_worker_id(own, "aa"), managed_worker_id(own, "bb")
    elsewhere = managed_worker_id(scene.other, "cc")
    for worker in (mine, others):
        await store.workers.put(own, worker, managed=True)
    token = new_agent_token(mine)
    run = await store.workers.begin_start(own, mine, agent_token=token)
    await store.workers.begin_start(own, others)
    assert run is not None
    async with WireAgent(scene.api.url, token, mine) as managed:
        assert (await managed.report(run=run)).desired is not None
        for call in (calls.REGISTER, calls.REMOVE):
            assert (await refusal_of(managed.about_worker(call)))[0] == 403
        for agent, worker in (
            (managed, others),
            (managed, "hostile"),
            (scene.hostile, mine),
            (scene.hostile, others),
            (scene.hostile, elsewhere),
        ):
            agent.worker = worker
            sent = [
                agent.report(run=run), agent.append("forged"), agent.claim(), agent.watch(), agent.renew("t1"),
                agent.succeed("t1"), agent.start(scene.claim), agent.about_worker(calls.REMOVE),
                agent.about_worker(calls.REGISTER), agent.about_worker(calls.HELLO),
                agent.call(calls.PUT_BACK, m.PutBackRequest(worker, (scene.claim,))),
                agent.claim(is_repeated=True),
            ]  # fmt: skip
            for one in sent:
                status, code, text = await refusal_of(one)
                assert (status, code, text.partition(":")[0]) == (403, 40301, "worker")
    statuses = {one.worker_id: one.status for one in await store.workers.of_endpoint(own)}
    assert statuses == {mine: WorkerStatus.RUNNING, others: WorkerStatus.INITIALIZING}


async def test_only_an_agent_token_is_accepted(scene: Scene) -> None:
    unknown = new_agent_token(scene.own)
    for token in (scene.api.key, unknown, "x"):
        async with WireAgent(scene.api.url, token) as agent:
            assert (await refusal_of(agent.about_worker(calls.HELLO)))[:2] == (401, 40101)
    headers = {"X-Api-Key": scene.api.key}
    body = b"".join(calls.HELLO.request.encode(m.WorkerRequest("hostile")))
    answer = await scene.api.client.post(calls.HELLO.path, content=body, headers=headers)
    assert answer.status_code == 401


def _head(size: int) -> bytes:
    return struct.pack(">4sII", b"qea1", size, 0)


BROKEN = {
    "empty": b"",
    "not a frame": b"<html>" * 10,
    "JSON alone": b'{"worker":"hostile"}',
    "cut off": b"".join(calls.RENEW.request.encode(m.RenewRequest("w", (m.LeaseName("t", TOKEN),))))[:-1],
    "too long": b"".join(framed(b"{}")) + b"x",
    "head too long": _head(MAX_HEAD_BYTES + 1),
    "blobs that are not there": struct.pack(">4sIII", b"qea1", 2, 1, 2**32 - 1) + b"{}",
    "too many blobs": struct.pack(">4sII", b"qea1", 2, 2**32 - 1) + b"{}",
    "not JSON": b"".join(framed(b"{")),
    "not an object": b"".join(framed(b"[]")),
    "not UTF-8": b"".join(framed(b'{"worker":"\xff","leases":[["t","' + TOKEN.encode() + b'"]]}')),
    "nested": b"".join(framed(b'{"worker":"w","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}")),
    "huge number": b"".join(framed(b'{"worker":"w","begun":1e999,"leases":[["t","' + TOKEN.encode() + b'"]]}')),
    "no leases": b"".join(framed(b'{"worker":"w","leases":[]}')),
    "too many leases": b"".join(
        framed(b'{"worker":"w","leases":[' + b",".join([b'["t","' + TOKEN.encode() + b'"]'] * 501) + b"]}")
    ),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_a_message_that_breaks_the_protocol_is_refused(scene: Scene, body: bytes) -> None:
    status, code, text = await refusal_of(scene.hostile.send(calls.RENEW.path, body))
    assert (status, code, text.partition(":")[0]) == (400, 10001, "body")


async def test_a_success_has_an_output_that_is_json(scene: Scene) -> None:
    """Clients get it as it is inside a JSON response, which a hostile agent would otherwise end early."""
    end = m.SucceededEnd("t1", TOKEN)
    for output in (b"", b"x", b'1},"code":1', b"NaN", b'"\xff"'):
        assert (await refusal_of(scene.hostile.succeed("t1", output)))[:2] == (400, 10001)
    for ends, outputs in (((end, end), [b"1"]), ((end,), [b"1", b"2"]), ((end,), [])):
        assert (await refusal_of(scene.hostile.settle(*ends, outputs=outputs)))[:2] == (400, 10001)


async def test_a_large_output_is_checked_only_with_a_valid_lease(scene: Scene) -> None:
    """The check of an output of 64 MiB takes a second, and a token can send any number with invented leases."""
    bad = b'"' + b"x" * 2_000_000
    assert await scene.hostile.succeed("t1", bad) == "GONE"
    await scene.api.submit(scene.own, taskId="t1")
    (claim,) = await scene.hostile.claim()
    await scene.hostile.start(claim)
    assert await scene.hostile.succeed("t1", bad, token=OTHERS_TOKEN) == "FENCED"
    assert (await refusal_of(scene.hostile.succeed("t1", bad)))[:2] == (400, 10001)
    assert await scene.hostile.succeed("t1", bad + b'"') == "OK"
    assert await scene.hostile.succeed("t1", bad) == "ALREADY"
    task = await scene.api.store.tasks.get(scene.own, "t1")
    assert task is not None
    assert task.state is TaskState.SUCCEEDED


async def test_a_request_has_the_content_type_and_the_method_of_the_protocol(scene: Scene) -> None:
    body = b"".join(calls.HELLO.request.encode(m.WorkerRequest("hostile")))
    sending = scene.hostile.client.post(calls.HELLO.path, content=body, headers={"Content-Type": "application/json"})
    assert (await sending).status_code == 415
    assert (await scene.hostile.client.get(calls.HELLO.path)).status_code == 405
    assert (await scene.hostile.client.post("/agent/v1/other", content=body)).status_code == 404


async def test_a_request_above_the_limit_is_refused_before_it_is_read(valkey_url: str) -> None:
    async with running_api(valkey_url, agent_max_body_bytes=1024 * 1024) as api:
        endpoint_id = await api.create_endpoint()
        async with await new_agent(api, endpoint_id) as agent:
            hello = await agent.about_worker(calls.HELLO)
            assert hello.max_request_bytes == 1024 * 1024
            status, code, _ = await refusal_of(agent.succeed("t1", b'"' + b"x" * 1024 * 1024 + b'"'))
            assert (status, code) == (413, 10001)


async def test_large_requests_count_for_a_limit_of_the_tenant(valkey_url: str) -> None:
    limit = 1024 * 1024
    async with running_api(valkey_url, agent_max_body_bytes=limit, max_body_bytes_per_tenant=limit) as api:
        endpoint_id = await api.create_endpoint()
        async with await new_agent(api, endpoint_id) as agent:
            connection, large = await Connection.to(api), b"".join(framed(b"{}")) + b"x" * 700_000
            head = (
                f"POST {calls.SETTLE.path} HTTP/1.1", "Host: x", f"Content-Length: {len(large) + 1}",
                *(f"{name}: {agent.client.headers[name]}" for name in ("Authorization", "Content-Type")), "", "",
            )  # fmt: skip
            await connection.send("\r\n".join(head).encode() + large)
            response = asyncio.create_task(connection.answer())
            status = 0
            while status != 429 and not response.done():  # until the API holds most of both bodies
                status, _, _ = await refusal_of(agent.send(calls.SETTLE.path, b"x" * 700_000))
                assert status in (400, 429)
            if status != 429:  # it had the whole second body before the end of the first, which it then refused
                assert (await response).status == 429
            response.cancel()
            connection.close()
            submitted = await api.submit(endpoint_id, input="x" * 700_000)
            assert submitted.status_code == 200, "submissions have a limit of their own"


async def test_registrations_have_the_limit_of_requests_per_second_and_reports_have_not(valkey_url: str) -> None:
    """Each registration and removal makes events; refused reports and renewals would cost the worker its tasks."""
    async with running_api(valkey_url, rate_limit_per_second=4) as api:
        endpoint_id = await api.create_endpoint()
        async with await new_agent(api, endpoint_id) as agent:
            sent = [agent.about_worker(one) for _ in range(10) for one in (calls.REGISTER, calls.REMOVE)]
            results = await asyncio.gather(*sent, return_exceptions=True)
            assert {one.status for one in results if isinstance(one, Refused)} == {429}
            for _ in range(10):
                await agent.report()


async def test_an_alb_worker_is_at_the_address_of_its_agent(valkey_url: str) -> None:
    """The API sends requests to it, so a token would otherwise reach what only the API can reach."""
    async with running_api(valkey_url, alb_local_agents=True) as api:
        await _check_addresses(api)


async def _check_addresses(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(serviceMode="ALB", expose={"port": 9000, "protocol": "http"})
    async with await new_agent(api, endpoint_id) as agent:
        await agent.about_worker(calls.REGISTER)
        for address in ("10.0.0.5:6379", "localhost:9000", "metadata:80", "127.0.0.2:80", "", "[::1]:9000"):
            status, code, text = await refusal_of(agent.report(address=address))
            assert (status, code) == (400, 10001)
            assert text.startswith("address: must be the address 127.0.0.1")
        assert (await agent.report(address="127.0.0.1:9000")).desired is not None
    (worker,) = await api.store.workers.of_endpoint(endpoint_id)
    assert worker.address == "127.0.0.1:9000"


async def test_an_alb_worker_that_was_started_by_hand_is_not_on_the_machine_of_the_api(api: RunningApi) -> None:
    """The client may be a reverse proxy there that adds no headers, and its agent anywhere. A backend has chosen the
    networks of its own agents."""
    endpoint_id = await api.create_endpoint(serviceMode="ALB", expose={"port": 9000, "protocol": "http"})
    async with await new_agent(api, endpoint_id) as agent:
        await agent.about_worker(calls.REGISTER)
        status, code, text = await refusal_of(agent.report(address="127.0.0.1:2375"))
        assert (status, code) == (400, 10001)
        assert text.startswith("address: must not be on the API's machine, unless the API's QUEUE_ENGINE_ALB_LOCAL")
    worker = managed_worker_id(endpoint_id, "aa")
    await api.store.workers.put(endpoint_id, worker, managed=True)
    token = new_agent_token(worker)
    run = await api.store.workers.begin_start(endpoint_id, worker, agent_token=token)
    assert run is not None
    async with WireAgent(api.url, token, worker) as managed:
        assert (await managed.report(address="127.0.0.1:9000", run=run)).desired is not None


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_the_address_of_a_proxy_that_is_not_trusted_is_not_that_of_an_alb_worker(
    api: RunningApi, header: str
) -> None:
    """The proxy may be on the API's own host, whose other ports a token must not reach."""
    endpoint_id = await api.create_endpoint(serviceMode="ALB", expose={"port": 9000, "protocol": "http"})
    async with await new_agent(api, endpoint_id) as agent:
        await agent.about_worker(calls.REGISTER)
        agent.client.headers[header] = "203.0.113.9"
        status, code, text = await refusal_of(agent.report(address="127.0.0.1:2375"))
        assert (status, code) == (400, 10001)
        assert "QUEUE_ENGINE_TRUSTED_PROXIES" in text
