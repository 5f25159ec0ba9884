"""Inputs and outputs of tasks as files."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from queue_engine.api.http.turns import Turns
from queue_engine.api.v2.raw_values import _Raw
from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Failed, LongText, Outcome, Succeeded
from queue_engine.rules.outputs import output_of
from queue_engine.rules.raw_outputs import raw_form
from queue_engine.store.tasks import PART_BYTES
from tests.api_server import RunningApi

PNG = bytes(range(256)) * 5
LONG = 8 * 1024 * 1024


async def end(api: RunningApi, endpoint_id: str, outcome: Outcome) -> None:
    """Run the next task as an agent would."""
    queue = api.store.queue(endpoint_id=endpoint_id, worker_id="w-1", lease_ms=30_000)
    (entry,) = await queue.claim(1, block_ms=1000)
    started = await queue.start(entry, address="127.0.0.1:8000")
    assert started is not None
    assert (await queue.settle(started.lease, outcome)).word == "OK"


async def file_of(
    api: RunningApi, endpoint_id: str, part: str, task_id: str = "a", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}/{part}", headers=headers)


async def _rest_of(parts: AsyncIterator[bytes]) -> None:
    async for _ in parts:
        pass


def refusal(answer: httpx.Response) -> tuple[int, int, str]:
    found: dict[str, Any] = answer.json()
    return answer.status_code, found["code"], found["message"]


async def test_the_input_is_the_text_that_was_submitted(api: RunningApi, endpoint_id: str) -> None:
    text = '{"n": 18446744073709551615.0,  "é": [1,\t2]}'
    body = f'{{"taskId": "a", "workerPort": 8000, "processUri": "/", "input": {text}}}'
    path = f"/v2/serverless/{endpoint_id}/tasks"
    await api.client.post(path, content=body.encode(), headers={"content-type": "application/json"})
    answer = await file_of(api, endpoint_id, "input")
    assert (answer.status_code, answer.content) == (200, text.encode())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="a-input.json"'


@pytest.mark.parametrize("input_bytes", [10, 5000], ids=["beside a small input", "alone"])
@pytest.mark.parametrize(
    ("declared", "body", "media_type", "suffix"),
    [
        ("application/json", b'{"a":  1.0}', "application/json", "json"),
        ("application/json", b"", "application/json", "json"),
        ("text/html", "<b>\n€</b>".encode(), "text/plain; charset=utf-8", "txt"),
        ("image/png", PNG, "image/png", "png"),
        ("image/png", PNG[:20], "image/png", "png"),
        ("image/svg+xml", b"\xff<svg>", "application/octet-stream", "bin"),
    ],
)
async def test_the_output_is_what_the_container_returned(
    api: RunningApi, endpoint_id: str, declared: str, body: bytes, media_type: str, suffix: str, input_bytes: int
) -> None:
    await api.submit(endpoint_id, taskId="a", input="x" * input_bytes)
    await end(api, endpoint_id, Succeeded(bytes(output_of(declared, body))))
    answer = await file_of(api, endpoint_id, "output")
    assert (answer.status_code, answer.content) == (200, body or b"null")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"] == f'attachment; filename="a-output.{suffix}"'
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert len((await file_of(api, endpoint_id, "input")).content) == input_bytes + 2


@pytest.mark.parametrize("declared", ["application/json", "text/plain", "image/png"])
async def test_a_long_output_is_whole(api: RunningApi, endpoint_id: str, declared: str) -> None:
    size = LONG if declared == "text/plain" else 3 * PART_BYTES + 5
    body = (b'["a\\n\\u00e9", 1],' * (size // 17 + 1))[:size]
    body = b"[%b1]" % body[: body.rindex(b",") + 1] if declared == "application/json" else body + b"\xff\x00"
    if declared == "text/plain":
        body = ('é\n"\\€😀x' * (size // 16)).encode()
    await api.submit(endpoint_id, taskId="a")
    await end(api, endpoint_id, Succeeded(bytes(output_of(declared, body))))
    answer = await file_of(api, endpoint_id, "output")
    assert answer.content == body


async def test_long_json_that_is_like_bytes_at_both_ends_stays_json(api: RunningApi, endpoint_id: str) -> None:
    """The place of the last member changes with the length, so that no count of bytes shows it."""
    for more in range(4):
        output = b'{"contentType": "image/png", "base64": "%b", "name": "abcd"}' % (b"A" * (PART_BYTES + 100 + more))
        await api.submit(endpoint_id, taskId=f"a{more}")
        await end(api, endpoint_id, Succeeded(output))
        answer = await file_of(api, endpoint_id, "output", f"a{more}")
        assert (answer.content, answer.headers["content-type"]) == (output, "application/json")


async def test_downloads_are_decoded_in_turns_with_other_work() -> None:
    """Between two pieces of any download, the event loop does what else there is."""
    output = b'"%b"' % (rb"\ud83d" * (2 * PART_BYTES // 6))

    async def read(place: int) -> bytes:
        return output[place : place + PART_BYTES]

    found = raw_form(output, output, len(output))
    turns, decoded, seen = Turns(), 0, [0]

    async def download() -> None:
        nonlocal decoded
        async for _ in _Raw(LongText(len(output), read), output[:PART_BYTES], found, turns).pieces():
            decoded += 1

    async def other_work() -> None:
        while True:
            seen.append(decoded)
            await asyncio.sleep(0)

    other = asyncio.create_task(other_work())
    await asyncio.gather(*(download() for _ in range(5)))
    other.cancel()
    assert decoded == 5 * 8
    assert max(after - before for before, after in itertools.pairwise(seen)) == 1


async def test_an_output_that_is_removed_meanwhile_is_cut_off(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await end(api, endpoint_id, Succeeded(b'"%b"' % (b"x" * LONG)))
    path = f"/v2/serverless/{endpoint_id}/tasks/a"
    async with api.client.stream("GET", f"{path}/output") as answer:
        parts = answer.aiter_bytes()
        await anext(parts)
        assert (await api.client.delete(path)).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await _rest_of(parts)


async def test_a_task_without_an_output_says_why(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    waits = refusal(await file_of(api, endpoint_id, "output"))
    assert waits == (404, 24011, "the task has no output: it has not ended (queued)")
    await end(api, endpoint_id, Failed("out of order"))
    failed = refusal(await file_of(api, endpoint_id, "output"))
    assert failed == (404, 24011, "the task has no output: it ended as failed")
    assert (await file_of(api, endpoint_id, "input")).status_code == 200


@pytest.mark.parametrize("part", ["input", "output"])
async def test_what_another_key_must_not_see_is_not_found(api: RunningApi, endpoint_id: str, part: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await end(api, endpoint_id, Succeeded(b"1"))
    unknown = refusal(await file_of(api, endpoint_id, part, "b"))
    assert unknown == (404, 24011, "task not found")
    stranger = {"X-Api-Key": await api.new_key("another")}
    assert (await file_of(api, endpoint_id, part, headers=stranger)).status_code == 404
    assert (await file_of(api, endpoint_id, part, headers={"X-Api-Key": "wrong"})).status_code == 401
    await api.client.delete(f"/v2/serverless/{endpoint_id}/tasks/a")
    assert refusal(await file_of(api, endpoint_id, part)) == unknown


@pytest.mark.parametrize("part", ["input", "output"])
async def test_a_key_that_submits_reads_those_of_its_own_tasks_only(
    api: RunningApi, endpoint_id: str, part: str
) -> None:
    tenant = (await api.client.get("/v2/me")).json()["data"]["tenant"]
    own = {"X-Api-Key": await api.new_key(tenant, role=Role.SUBMIT)}
    path = f"/v2/serverless/{endpoint_id}/tasks"
    for name, headers in (("a", {}), ("b", own)):
        task = {"taskId": name, "workerPort": 8000, "processUri": "/", "input": 1}
        assert (await api.client.post(path, json=task, headers=headers)).status_code == 200
        await end(api, endpoint_id, Succeeded(b"1"))
    assert (await file_of(api, endpoint_id, part, "a", own)).status_code == 404
    assert (await file_of(api, endpoint_id, part, "b", own)).content == b"1"


async def test_the_name_of_a_file_is_not_longer_than_file_systems_allow(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a" * 255)
    answer = await file_of(api, endpoint_id, "input", "a" * 255)
    assert answer.headers["content-disposition"] == f'attachment; filename="{"a" * 200}-input.json"'


async def test_the_head_of_a_long_task_is_cut_between_characters(api: RunningApi, endpoint_id: str) -> None:
    text, path = "é" * 3000, f"/v2/serverless/{endpoint_id}/tasks"
    body = f'{{"taskId": "a", "workerPort": 8000, "processUri": "/", "input": "{text}"}}'.encode()
    await api.client.post(path, content=body, headers={"content-type": "application/json"})
    await end(api, endpoint_id, Succeeded(b'"%b"' % (b"y" * LONG)))
    for query in ("payload=head", "payload=head&wait=5"):
        answer = await api.client.get(f"{path}/a?{query}")
        task = answer.json()["data"]
        assert task["inputHead"] == {"text": '"' + "é" * 1023, "bytes": 2047, "isCut": True}
        assert task["outputHead"] == {"text": '"' + "y" * 2047, "bytes": 2048, "isCut": True}
        assert len(answer.content) < 10_000
        assert {"input", "output"}.isdisjoint(task)


@pytest.mark.parametrize("size", [10, 2046], ids=["small", "as long as a head"])
async def test_the_head_of_a_short_task_is_all_of_it(api: RunningApi, endpoint_id: str, size: int) -> None:
    await api.submit(endpoint_id, taskId="a", input="x" * size)
    path = f"/v2/serverless/{endpoint_id}/tasks/a"
    task = (await api.client.get(path, params={"payload": "head"})).json()["data"]
    assert (json.loads(task["inputHead"]["text"]), task["outputHead"]) == ("x" * size, None)
    output = b'"%b"' % (b"y" * size)
    await end(api, endpoint_id, Succeeded(output))
    task = (await api.client.get(path, params={"payload": "head"})).json()["data"]
    assert task["inputHead"] == {"text": '"' + "x" * size + '"', "bytes": size + 2, "isCut": False}
    assert task["outputHead"] == {"text": output.decode(), "bytes": size + 2, "isCut": False}


async def test_a_failed_task_has_its_error_and_no_head_of_an_output(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await end(api, endpoint_id, Failed("out of order"))
    path = f"/v2/serverless/{endpoint_id}/tasks/a"
    task = (await api.client.get(path, params={"payload": "head"})).json()["data"]
    assert (task["error"], task["outputHead"]) == ("out of order", None)
