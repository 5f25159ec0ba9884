"""Inputs and outputs of megabytes over HTTP."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from queue_engine.domain.tasks import Succeeded
from queue_engine.engine.queries import MAX_WHOLE_BYTES
from queue_engine.store.tasks import Deletion
from tests.api_server import RunningApi, running_api

LIMIT_BYTES = 32 * 1024 * 1024
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url, max_body_bytes=LIMIT_BYTES) as running:
        yield running


async def finished_task(api: RunningApi, endpoint_id: str, input_: bytes, output: bytes) -> str:
    """Submit a task, run it to its end, and return its path."""
    path = f"/v2/serverless/{endpoint_id}/tasks"
    body = b'{"taskId": "long", "input": %b, "workerPort": 8000, "processUri": "/run"}' % input_
    answers = [await api.client.post(path, content=body, headers=HEADERS) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    queue = api.store.queue(endpoint_id=endpoint_id, worker_id="w", lease_ms=60_000)
    (entry,) = await queue.claim(1, block_ms=100)
    started = await queue.start(entry, address="127.0.0.1:9000")
    assert started is not None
    await queue.settle(started.lease, Succeeded(output))
    return f"{path}/long"


@pytest.mark.parametrize(
    "input_",
    [
        b'{"prompt": "' + b"x" * MAX_WHOLE_BYTES + b'"}',
        json.dumps(["é\n"] * 100_000).encode(),
        "ü".encode().join([b'"'] * 2),
    ],
    ids=["long", "long with escapes", "short"],
)
@pytest.mark.parametrize("output", [b"[1]", b'"' + b"y" * (MAX_WHOLE_BYTES + 1) + b'"'], ids=["short", "long"])
async def test_a_task_has_the_bytes_of_its_input_and_output(
    api: RunningApi, endpoint_id: str, input_: bytes, output: bytes
) -> None:
    path = await finished_task(api, endpoint_id, input_, output)
    answer = await api.client.get(path)
    assert answer.json()["data"]["taskId"] == "long"
    assert b'"input":' + input_ + b',"output":' + output + b"}" in answer.content
    head = await api.client.head(path)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))


async def test_the_response_is_cut_off_when_the_task_is_deleted_while_it_is_read(
    api: RunningApi, endpoint_id: str
) -> None:
    # Longer than the buffers of both sides of a connection.
    path = await finished_task(api, endpoint_id, b'"' + b"x" * (LIMIT_BYTES - 1000) + b'"', b"1")

    async def read() -> None:
        async with api.client.stream("GET", path) as response:
            async for _ in response.aiter_raw():
                assert await api.store.tasks.delete(endpoint_id, "long") in (Deletion.DELETED, Deletion.NOT_FOUND)

    with pytest.raises(httpx.RemoteProtocolError):
        await read()
    assert (await api.client.get(path)).status_code == 404
