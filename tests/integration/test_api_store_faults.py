"""What clients see while the store is away, and afterwards."""

import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from queue_engine.engine.patience import STORE_SECONDS
from queue_engine.observability import outages
from tests.api_server import RunningApi, running_api
from tests.integration.test_api_batches import Stream, line, path_of, send_lines
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until_async


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[StoreServer]:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with StoreServer(valkey_binary(), tmp_path, options=options) as server:
        yield server


@pytest.fixture
async def api(own_server: StoreServer) -> AsyncIterator[RunningApi]:
    async with running_api(own_server.url) as running:
        yield running


async def _all_calls(api: RunningApi, endpoint_id: str) -> list[httpx.Response]:
    base = f"/v2/serverless/{endpoint_id}"
    paths = ("/readyz", "/v2/serverless", base, f"{base}/workers", f"{base}/tasks", f"{base}/tasks/count")
    answers = [await api.client.get(path) for path in (*paths, f"{base}/tasks/a", f"{base}/tasks/a/deliveries")]
    return [*answers, await api.submit(endpoint_id, taskId="b")]


def _is_unavailable(answer: httpx.Response) -> bool:
    told = answer.json()
    assert (answer.status_code, told["code"], told["data"]) == (503, 10002, None), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    return True


async def test_a_batch_of_lines_ends_in_words_when_the_store_is_down_and_can_be_sent_again(
    api: RunningApi, own_server: StoreServer
) -> None:
    endpoint_id = await api.create_endpoint()
    path = path_of(endpoint_id, "?batchId=b")
    stream = await Stream.begun(api.port, api.key, path)
    await stream.send(line() * 10)
    assert await stream.status() == 200
    found = await stream.lines()
    while len(found) < 10:
        found += await stream.lines()
    own_server.kill()
    await stream.send(line() * 300)
    *rejected, last = await stream.rest()
    stream.close()
    assert {(one["result"], one["code"]) for one in rejected} == {("rejected", 10002)}
    assert (last["done"], last["accepted"], last["code"]) == (False, 10, 10002)
    own_server.start()

    async def serves() -> bool:
        return (await api.client.get("/readyz")).status_code == 200

    await wait_until_async(serves)
    *_, last = await send_lines(api, endpoint_id, line() * 310, "?batchId=b")
    assert last == {"done": True, "accepted": 300, "duplicate": 10, "rejected": 0}


async def test_an_export_ends_in_words_while_the_store_is_down_and_continues_later(
    api: RunningApi, own_server: StoreServer
) -> None:
    endpoint_id = await api.create_endpoint()
    names = [f"t{number}" for number in range(120)]
    for name in names:
        await api.submit(endpoint_id, taskId=name, input="x" * 200_000)
    url, query = f"/v2/serverless/{endpoint_id}/tasks/export", {"include": "input"}
    seen: list[str] = []
    async with api.client.stream("GET", url, params=query) as response:
        async for line in response.aiter_lines():
            if not seen:
                own_server.kill()
            seen.append(line)
    last = json.loads(seen[-1])
    found = [json.loads(line)["taskId"] for line in seen[:-1] if line.endswith("}")]
    assert last["end"] is False
    assert "store" in last["reason"]
    assert found == names[: len(found)]
    assert len(found) < len(names)
    own_server.start()

    async def serves() -> bool:
        return (await api.client.get(url, params={"cursor": last["nextCursor"], "state": "failed"})).status_code == 400

    await wait_until_async(serves)
    answer = await api.client.get(url, params={**query, "cursor": last["nextCursor"]})
    *rest, end = [json.loads(line) for line in answer.text.splitlines()]
    assert found + [task["taskId"] for task in rest] == names
    assert end == {"end": True, "nextCursor": None}


async def test_while_the_store_is_down_every_call_says_when_to_come_back(
    api: RunningApi, own_server: StoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="a")
    own_server.kill()
    began = time.monotonic()
    assert all(_is_unavailable(answer) for answer in await _all_calls(api, endpoint_id))
    assert time.monotonic() - began < 5
    assert caplog.text.count("the store is away: it cannot be reached") == 1
    assert (await api.client.get("/healthz")).status_code == 200
    own_server.start()

    async def serves() -> bool:
        return (await api.submit(endpoint_id, taskId="b")).status_code == 200

    await wait_until_async(serves, message="the API does not serve again")
    await wait_until_async(partial(_is_ready, api, True))
    assert all(answer.status_code == 200 for answer in await _all_calls(api, endpoint_id))


async def test_a_store_that_hangs_is_not_waited_for_long(api: RunningApi, own_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint()
    own_server.pause()
    began = time.monotonic()
    _is_unavailable(await api.submit(endpoint_id, taskId="a"))
    assert time.monotonic() - began < STORE_SECONDS + 1
    own_server.resume()
    assert (await api.submit(endpoint_id, taskId="a")).status_code == 200
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count")).json()["data"]["total"] == 1


async def test_a_store_that_refuses_writes_is_still_read(api: RunningApi, own_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="a")
    # The reason of waiting includes whether the store takes a write, which leaves a mark in the partition.
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")).status_code == 200
    before = await api.keys_stored()
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    _is_unavailable(await api.submit(endpoint_id, taskId="b"))
    _is_unavailable(await api.client.get("/readyz"))
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")).status_code == 200
    assert await api.keys_stored() == before
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    assert (await api.submit(endpoint_id, taskId="b")).status_code == 200


async def test_a_read_only_replica_is_not_written_to(api: RunningApi, own_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint()
    own_server.command("CONFIG", "SET", "replica-serve-stale-data", "yes")
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    _is_unavailable(await api.submit(endpoint_id))
    _is_unavailable(await api.client.get("/readyz"))
    own_server.command("REPLICAOF", "NO", "ONE")
    assert (await api.submit(endpoint_id)).status_code == 200


async def test_a_store_that_comes_back_empty_makes_no_error_of_ours(api: RunningApi, own_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint()
    own_server.command("FLUSHALL")
    await api.store.api_keys.put(api.key, tenant="default", name="again")
    assert (await api.submit(endpoint_id)).status_code == 404
    assert (await api.client.get("/v2/serverless")).json()["data"] == []
    again = await api.create_endpoint()
    assert (await api.submit(again)).status_code == 200


async def test_an_internal_error_is_logged_under_the_id_of_its_response(
    api: RunningApi, own_server: StoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint_id = await api.create_endpoint()
    (key,) = [key for key in await api.store.redis.keys("*:e:*") if key.endswith(f":e:{endpoint_id}".encode())]
    await api.store.redis.hset(key, "config", "canary garbage")  # type: ignore[misc]
    with caplog.at_level(logging.ERROR):
        answer = await api.client.get(f"/v2/serverless/{endpoint_id}")
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (500, 10002, None)
    told = answer.json()["message"]
    assert told.startswith("internal error, id ")
    assert "canary" not in answer.text
    assert "Traceback" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["error_id"] == told.removeprefix("internal error, id ")
    assert record.exc_info


async def test_readiness_ends_while_the_store_may_evict_keys(api: RunningApi, own_server: StoreServer) -> None:
    assert (await api.client.get("/readyz")).status_code == 200
    for policy in ("allkeys-lru", "volatile-ttl"):
        own_server.command("CONFIG", "SET", "maxmemory-policy", policy)
        await wait_until_async(partial(_is_ready, api, False))
        refused = await api.client.get("/readyz")
        assert f"evicts keys (maxmemory-policy {policy})" in refused.json()["message"]
        own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await wait_until_async(partial(_is_ready, api, True))


async def test_an_evicting_store_is_logged_once_however_often_readiness_is_asked(
    api: RunningApi, own_server: StoreServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "SETTLE_SECONDS", 0.05)
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused = 0

    async def is_refused_for_long() -> bool:
        nonlocal refused
        assert (await api.client.get("/readyz")).status_code == 503
        refused += 1
        return refused >= 50

    await wait_until_async(is_refused_for_long, message="readiness is not refused")
    assert outages.STORE.goes_on
    own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await wait_until_async(lambda: not outages.STORE.goes_on, message="the outage does not end")
    assert caplog.text.count("the store is away: it evicts keys") == 1
    assert caplog.text.count("the store is back") == 1
    await wait_until_async(partial(_is_ready, api, True))


async def _is_ready(api: RunningApi, expected: bool) -> bool:
    return ((await api.client.get("/readyz")).status_code == 200) is expected
