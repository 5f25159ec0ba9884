"""Submissions that are wrong on purpose: refused as documented, with nothing stored and nothing connected to."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from queue_engine.observability import metrics
from tests.api_server import ENDPOINT, TASK, RunningApi, ScriptedLookup, running_api

INSIDE = ScriptedLookup(
    {
        "inside.example": ["10.0.0.5"],
        "mixed.example": ["93.184.216.34", "127.0.0.1"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "localhost": ["127.0.0.1", "::1"],
    }
)


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url, lookup=INSIDE) as running:
        yield running


BAD_VALUES: dict[str, list[Any]] = {
    "taskId": [
        *("", "abc\n", "a:b", "{x}", "*", "../", "a" * 256, "a b", "é", "a-b", "\ud800", "a\x00", 5, 1.0, True, [], {}),
    ],
    "input": [None],
    "workerPort": [True, False, 1.0, 8000.0, "8000", 0, -1, 65536, 1e4, 10**30, -(10**30), None, [], {}, 1.5],
    "processUri": [
        *("", "//evil.example/x", "/../admin", "/a/./b", "/..;/x", "/%2e%2e/admin", "/a\\b", "/a\n", "/a b", "/a?x"),
        *("http://evil/x", "/a#b", "/a//b", "/a//", "/é", "/\x00", "a" * 256, "\ud800", "/.", "..", 5, None, [], True),
    ],
    "webhook": [
        *("http://127.0.0.1:6379/", "http://localhost./", "http://localhost/", "http://[::1]/", "http://10.0.0.5/"),
        *("http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/", "http://intranet/"),
        *("http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://[::ffff:127.0.0.1]/"),
        *("http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://127.0.0.1./", "http://①②⑦.0.0.1/", "http://٣.1.1.1/"),
        *("http://inside.example/", "http://mixed.example/", "http://mapped.example/", "http://INSIDE.example./"),
        *("http://a@b@127.0.0.1/", "http://example.com\\@127.0.0.1/", "http://u:p@example.com/", "http://exa%6dple.com/"),
        *("http://exa\tmple.com/", "http://example.com/\n", " http://example.com/", "http://example.com/ x", "http://é/"),
        *("file:///etc/passwd", "http:127.0.0.1", "http:///x", "//example.com/", "ftp://example.com/", "data:,x"),
        *("http://example.com:0/", "http://example.com:99999/", "http://example.com:6379x/", "http://example.com:/"),
        *("http://example.com/#x", "http://", "", "x", "http://example.com/" + "a" * 494, "\ud800"),
        *(None, 5, {}, [], True),
    ],
    "webhookAuthKey": [
        *("", " a", "a ", "a\r\nb", "a\nb", "a\x00", "é", "a\tb", "a" * 256, 5, [], {}, "\ud800", "\x7f"),
        *("whsec_", "whsec_QUJD", "whsec_!", "whsec_" + "A" * 92),
    ],
    "headers": [
        *([], "A: b", 5, [["A", "b"]], {"A": 5}, {"A": None}, {"A": ["b"]}, {"A": {}}),
        *({"Transfer-Encoding": "x"}, {"content-length": "1"}, {"HOST": "x"}, {"Connection": "x"}, {"Upgrade": "x"}),
        *({"Expect": "x"}, {"TE": "x"}, {"Trailer": "x"}, {"X-Forwarded-For": "x"}, {"X-Task-Id": "x"}),
        *({"a b": "x"}, {"a:": "x"}, {"": "x"}, {"é": "x"}, {"A": "1", "a": "2"}, {"A\n": "x"}),
        *({"A": "x\r\ny"}, {"A": "\x00"}, {"A": "é"}, {"A": " x"}, {"A": "x "}, {"A": "\ud800"}, {"\ud800": "x"}),
        *({f"h{index}": "x" for index in range(51)}, {"A": "x" * 17 * 1024}),
    ],
    "metadata": [
        *([], "a=b", 5, True, {"a": 5}, {"a": None}, {"a": ["b"]}, {"a": {}}, {"": "x"}, {"a" * 41: "x"}),
        {"a": "x" * 257},
        *({f"a{index}": "x" for index in range(17)}, {"a": "\ud800"}, {"\ud800": "x"}, {"a": "x" * 1_000_000}),
        {f"a{index}": 5 for index in range(10_000)},
    ],
    "tags": [
        *({}, "a", 5, True, [5], [None], [["a"]], [""], ["a b"], ["é"], ["a\n"], ["\x00"], ["a" * 65], ["\ud800"]),
        ["a,b"],
        *(["a", "b", "c", "d", "e", "f"], ["a"] * 6, ["a", "*"], [" a"], [5] * 10_000),
    ],
    "executionTimeoutSeconds": [0, -1, 1.5, 60.0, True, "60", 2_592_001, 10**30, [], {}],
    "queueTtlSeconds": [0, -1, 0.0001, True, "60", 31_536_001, 10**399, -(10**399), 1e300, [], {}],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VALUES)
async def test_a_bad_field_is_named_and_nothing_is_stored(api: RunningApi, endpoint_id: str, name: str) -> None:
    before, rejected = await api.keys_stored(), _rejected()
    for value in BAD_VALUES[name]:
        answer = await api.submit(endpoint_id, **{name: value})
        told = answer.json()
        assert (answer.status_code, told["code"], told["data"]) == (400, 10001, None), (value, answer.text)
        assert told["message"].startswith(name), (value, answer.text)
        assert "Traceback" not in answer.text
    assert await api.keys_stored() == before
    assert _rejected() == rejected + len(BAD_VALUES[name])


@pytest.mark.parametrize("name", ["input", "workerPort", "processUri"])
async def test_a_required_field_is_missed_by_name(api: RunningApi, endpoint_id: str, name: str) -> None:
    body = {key: value for key, value in TASK.items() if key != name}
    answer = await api.post(f"/v2/serverless/{endpoint_id}/tasks", body)
    assert (answer.status_code, answer.json()["message"]) == (400, f"{name}: is required")


BAD_BODIES = [
    b"",
    b"[" * 100_000,
    b"{" * 100_000,
    b'{"input":' * 100_000,
    b'{"input": ' + b"[" * 100_000,
    b'{"input": {}, "headers": ' + b'{"a":' * 100_000,
    b"null",
    b"5",
    b'"text"',
    b"[]",
    b"NaN",
    b"\xef\xbb\xbf{}",
    '{"input": 1}'.encode("utf-16"),
    '{"input": 1}'.encode("utf-32"),
    b"\xff",
    b'{"input": "\xff"}',
    b'{"input": "\xed\xa0\x80"}',
    b'{"input": NaN, "workerPort": 1, "processUri": "/"}',
    b'{"input": [Infinity], "workerPort": 1, "processUri": "/"}',
    b'{"input": 1, "workerPort": Infinity, "processUri": "/"}',
    b'{"input": 1, "input": 2, "workerPort": 1, "processUri": "/"}',
    b'{"taskId": "a", "taskId": "b", "input": 1, "workerPort": 1, "processUri": "/"}',
    b'{"input": 1, "workerPort": 1, "processUri": "/", "headers": {"A": "1", "A": "2"}}',
    b'{"input": 1, "workerPort": ' + b"9" * 5000 + b', "processUri": "/"}',
    b'{"input": 1, "workerPort": 1e999, "processUri": "/"}',
    b'{"input": 1, "workerPort": 1, "processUri": "/"} x',
    b'{"input": 1, "workerPort": 1, "processUri": "/",}',
    b"{'input': 1}",
    b'{"input": 1, "workerPort": 0x10, "processUri": "/"}',
    b"input=1&workerPort=1",
]


async def test_a_bad_body_is_refused_and_nothing_is_stored(api: RunningApi, endpoint_id: str) -> None:
    before = await api.keys_stored()
    for path in ("/v2/serverless", f"/v2/serverless/{endpoint_id}/tasks"):
        for body in BAD_BODIES:
            answer = await api.client.post(path, content=body, headers={"Content-Type": "application/json"})
            told = answer.json()
            assert (answer.status_code, told["code"], told["data"]) == (400, 10001, None), (body[:60], answer.text)
            assert len(told["message"]) < 300
    assert await api.keys_stored() == before


async def test_all_bad_fields_of_a_body_are_named(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.submit(endpoint_id, workerPort="x", processUri="a b", headers={"a b": "1"}, webhook=None)
    message = answer.json()["message"]
    assert answer.status_code == 400
    assert [part.split(": ")[0] for part in message.split("; ")] == ["webhook", "workerPort", "processUri", "headers"]


async def test_the_message_on_bad_fields_is_bounded(api: RunningApi) -> None:
    resources = [{"region": 1, "gpuType": 1, "gpuCount": "x"}] * 100
    message = (await api.post("/v2/serverless", ENDPOINT | {"name": 1, "resources": resources})).json()["message"]
    assert message.startswith("name: must be a string; resources[0].region: must be a string; ")
    assert re.search(r"; and [0-9]+ more$", message)
    assert len(message) < 2100


async def test_too_many_headers_are_not_looked_at_one_by_one(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.submit(endpoint_id, headers={f"a{number}": 1 for number in range(51)})
    assert answer.json()["message"] == "headers: must have at most 50 headers"


async def test_fields_that_look_like_ours_change_nothing(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.submit(
        endpoint_id,
        taskId="a",
        status="SUCCESS",
        state="succeeded",
        deliveryStatus="SUCCESS",
        tenantId="other",
        endpointId=99,
        output={"canary": 1},
        attempts=7,
        error="canary",
    )
    assert answer.status_code == 200
    read = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")
    task = read.json()["data"]
    assert (task["status"], task["state"], task["attempts"], task["output"]) == ("PROCESSING", "queued", 0, None)
    assert "canary" not in read.text


CONTENT_TYPES = {
    "application/json": 200,
    "application/json; charset=utf-8": 200,
    'Application/JSON;charset="UTF-8"': 200,
    "application/json ; charset=utf8 ; x=y": 200,
    "application/json; charset=utf-16": 415,
    "application/json; charset=latin-1": 415,
    "text/plain": 415,
    "application/x-www-form-urlencoded": 415,
    "multipart/form-data; boundary=x": 415,
    "application/jsonp": 415,
    "application/problem+json": 415,
    "application/json, text/plain": 415,
    "": 415,
    ";": 415,
}


async def test_only_json_in_utf8_is_taken(api: RunningApi, endpoint_id: str) -> None:
    body = b'{"input": 1, "workerPort": 1, "processUri": "/"}'
    path = f"/v2/serverless/{endpoint_id}/tasks"
    for content_type, status in CONTENT_TYPES.items():
        answer = await api.client.post(path, content=body, headers={"Content-Type": content_type})
        assert answer.status_code == status, (content_type, answer.text)
        assert status == 200 or answer.json()["code"] == 10001
    assert (await api.client.post(path, content=body)).status_code == 415
    for twice in (["application/json"] * 2, ["application/json", "text/plain"]):
        headers = [("Content-Type", one) for one in twice]
        assert (await api.client.post(path, content=body, headers=headers)).status_code == 415
    compressed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await api.client.post(path, content=body, headers=compressed)).status_code == 415


ENDPOINT_NOT_FOUND = {"message": "endpoint not found", "code": 14000, "data": None}
ODD_IDS = [
    "0", "01", "-1", "+1", "1.0", "1e3", "abc", "%31%00", "9007199254740992", "18446744073709551617", "9" * 400, "%0A1",
    "1%0A", "٣", "%D9%A1", "{id}", "*", "1 ", "0x1", "None", "1_0",
]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["", "/workers", "/tasks", "/tasks/count", "/tasks/a", "/tasks/a/deliveries", "/tasks/a/attempts"]
)
async def test_an_id_that_cannot_be_is_not_found(api: RunningApi, endpoint_id: str, path: str) -> None:
    for odd_id in ODD_IDS:
        answer = await api.client.get(f"/v2/serverless/{odd_id}{path}")
        assert (answer.status_code, answer.json()) == (404, ENDPOINT_NOT_FOUND), odd_id


async def test_a_task_for_an_id_that_cannot_be_is_not_taken(api: RunningApi, endpoint_id: str) -> None:
    for odd_id in ODD_IDS:
        answer = await api.post(f"/v2/serverless/{odd_id}/tasks", TASK)
        assert (answer.status_code, answer.json()) == (404, ENDPOINT_NOT_FOUND), odd_id


async def test_no_address_is_connected_to_when_a_webhook_is_given(api: RunningApi, endpoint_id: str) -> None:
    hits = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hits
        hits += 1
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", 0) as canary:
        port = canary.sockets[0].getsockname()[1]
        for host in ("127.0.0.1", "localhost", "[::1]", "127.1", "mixed.example", "unknown.example"):
            await api.submit(endpoint_id, webhook=f"http://{host}:{port}/")
    assert hits == 0


def _rejected() -> float:
    return float(metrics.tasks_submitted.labels(result="rejected")._value.get())
