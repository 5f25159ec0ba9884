"""Submit many tasks in one request, as JSON and as JSON lines."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.engine.batches import GROUPS_UNDER_WAY, MAX_GROUP
from queue_engine.store.api_keys import hash_of
from tests.api_server import ENDPOINT, TASK, RunningApi, running_api
from tests.integration.parts import Programs
from tests.ports import free_port
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

LINES = {"Content-Type": "application/x-ndjson"}


def task(**changes: Any) -> dict[str, Any]:
    return TASK | changes


def line(**changes: Any) -> bytes:
    return json.dumps(TASK | changes).encode() + b"\n"


def path_of(endpoint_id: str, query: str = "") -> str:
    return f"/v2/serverless/{endpoint_id}/tasks/batch{query}"


async def send_json(api: RunningApi, endpoint_id: str, tasks: object, query: str = "") -> dict[str, Any]:
    answer = await api.post(path_of(endpoint_id, query), {"tasks": tasks})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def send_lines(api: RunningApi, endpoint_id: str, body: bytes, query: str = "") -> list[dict[str, Any]]:
    answer = await api.client.post(path_of(endpoint_id, query), content=body, headers=LINES)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(one) for one in answer.text.splitlines()]


async def names_in_order(api: RunningApi, endpoint_id: str) -> list[str]:
    """The ids of all tasks, in the order in which they were accepted."""
    page = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks?pageSize=1000")).json()["data"]
    return [one["taskId"] for one in reversed(page["items"])]


# JSON


async def test_each_task_has_a_result_of_its_own_in_order(api: RunningApi, endpoint_id: str) -> None:
    data = await send_json(
        api,
        endpoint_id,
        [task(taskId="a"), 5, task(), task(taskId="a", input=3), task(taskId="a"), task(taskId="b", workerPort=0)],
    )
    made = data["items"][2].pop("taskId")
    assert len(made) == 32
    done = {"code": 10000, "message": "success"}
    used = {"code": 12001, "message": "taskId: is already used by a task with a different body"}
    assert data == {
        "accepted": 2,
        "duplicate": 1,
        "rejected": 3,
        "items": [
            {"index": 0, "taskId": "a", "result": "accepted", **done},
            {"index": 1, "taskId": None, "result": "rejected", "code": 10001, "message": "body: must be a JSON object"},
            {"index": 2, "result": "accepted", **done},
            {"index": 3, "taskId": "a", "result": "rejected", **used},
            {"index": 4, "taskId": "a", "result": "duplicate", **done},
            {
                "index": 5, "taskId": "b", "result": "rejected", "code": 10001,
                "message": "workerPort: must be at least 1",
            },
        ],
    }  # fmt: skip
    assert await names_in_order(api, endpoint_id) == ["a", made]


async def test_a_thousand_tasks_are_queued_in_their_order(api: RunningApi, endpoint_id: str) -> None:
    data = await send_json(api, endpoint_id, [task()] * 1000, "?batchId=b")
    names = [f"b_{number}" for number in range(1, 1001)]
    assert [one["taskId"] for one in data["items"]] == names
    assert await names_in_order(api, endpoint_id) == names
    again = await send_json(api, endpoint_id, [task()] * 1000, "?batchId=b")
    assert (again["accepted"], again["duplicate"], again["rejected"]) == (0, 1000, 0)


async def test_a_task_of_a_batch_is_the_one_that_a_single_submission_makes(api: RunningApi, endpoint_id: str) -> None:
    given = task(taskId="a", tags=["x"], metadata={"k": "v"}, headers={"X-A": "1"}, executionTimeoutSeconds=7)
    await send_json(api, endpoint_id, [given])
    assert (await api.submit(endpoint_id, **given)).json()["data"] == {"taskId": "a"}
    assert (await api.submit(endpoint_id, **given | {"tags": []})).status_code == 409


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: must be a JSON object"),
        (b"[]", "body: must be a JSON object"),
        (b"{", "body: is not valid JSON (character 2)"),
        (b"\xff{}", "body: must be JSON in UTF-8"),
        (b'{"tasks": [' + b"[" * 100_000, "tasks: is nested too deeply"),
        (b"{}", "tasks: is required"),
        (b'{"tasks": null}', "tasks: must be an array"),
        (b'{"tasks": {"a": 1}}', "tasks: must be an array"),
        (b'{"tasks": []}', "tasks: must have 1 items or more"),
        (b'{"tasks": [ ]}', "tasks: must have 1 items or more"),
        (b'{"tasks": [1], "tasks": [1]}', "tasks: is given twice"),
        (b'{"tasks": [' + b"5," * 1000 + b"5]}", "tasks: must have at most 1000 items"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_as_a_whole(
    api: RunningApi, endpoint_id: str, body: bytes, message: str
) -> None:
    before = await api.keys_stored()
    headers = {"Content-Type": "application/json"}
    answer = await api.client.post(path_of(endpoint_id), content=body, headers=headers)
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    assert await api.keys_stored() == before


async def test_a_batch_has_a_limit_of_bytes_and_each_of_its_tasks_has_that_of_a_single_one(valkey_url: str) -> None:
    async with running_api(valkey_url, max_body_bytes=2000, max_batch_bytes=20_000) as api:
        endpoint_id = await api.create_endpoint()
        data = await send_json(api, endpoint_id, [task(input="x" * 3000), task(input="x" * 1000)])
        assert [(one["result"], one["message"]) for one in data["items"]] == [
            ("rejected", "body: must be at most 2000 bytes"), ("accepted", "success"),
        ]  # fmt: skip
        answer = await api.post(path_of(endpoint_id), {"tasks": [task(input="x" * 1500)] * 20})
        assert (answer.status_code, answer.json()["message"]) == (413, "body: must be at most 20000 bytes")


async def test_a_batch_is_not_larger_than_the_bytes_that_a_tenant_may_have_in_progress(valkey_url: str) -> None:
    async with running_api(valkey_url, max_body_bytes=2000, max_body_bytes_per_tenant=5000) as api:
        answer = await api.post(path_of(await api.create_endpoint()), {"tasks": [task(input="x" * 1500)] * 4})
        assert (answer.status_code, answer.json()["message"]) == (413, "body: must be at most 5000 bytes")


async def test_a_long_batch_with_every_spelling_of_values_keeps_the_inputs_as_they_are(
    api: RunningApi, endpoint_id: str
) -> None:
    inputs = [
        b'"a,]}"',
        b'[1, [2, {"x": "]"}]]',
        b"1.000",
        b'"\\ud800\\""',
        b'{"a":1,"a":2}',
        b'"' + b"y" * 900_000 + b'"',
    ]
    tasks = [b'{"taskId":"t%d","workerPort":1,"processUri":"/","input":%b}' % one for one in enumerate(inputs)]
    body = b' {"tasks" :[ ' + b" ,\n".join(tasks * 2) + b" ] } "
    assert len(body) > 1024 * 1024
    headers = {"Content-Type": "application/json"}
    data = (await api.client.post(path_of(endpoint_id), content=body, headers=headers)).json()["data"]
    assert (data["accepted"], data["duplicate"], data["rejected"]) == (6, 6, 0)
    for number, given in enumerate(inputs):
        kept = await api.store.tasks.get(endpoint_id, f"t{number}")
        assert kept is not None
        assert kept.input == given


async def test_a_full_queue_takes_the_first_tasks_and_refuses_the_others(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxQueuedTasks=3)
    data = await send_json(api, endpoint_id, [task(taskId=f"t{number}") for number in range(5)])
    assert [(one["result"], one["code"]) for one in data["items"]] == [("accepted", 10000)] * 3 + [
        ("rejected", 429)
    ] * 2
    assert await names_in_order(api, endpoint_id) == ["t0", "t1", "t2"]


async def test_rate_limits_count_each_task(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:
        endpoint_id = await api.create_endpoint(maxSubmitsPerSecond=1)
        data = await send_json(api, endpoint_id, [task()] * 100)
        assert data["accepted"] < 50
        assert data["accepted"] + data["rejected"] == 100
        assert {one["code"] for one in data["items"] if one["result"] == "rejected"} == {429}


@pytest.mark.parametrize("has_lines", [False, True])
async def test_each_task_counts_as_a_request_of_the_tenant(valkey_url: str, has_lines: bool) -> None:
    now = 100.0
    async with running_api(valkey_url, rate_limit_per_second=10, monotonic=lambda: now) as api:
        endpoint_id = await api.create_endpoint()  # is one of the ten requests
        if has_lines:
            *items, _ = await send_lines(api, endpoint_id, line() * 20, "?batchId=b")
        else:
            items = (await send_json(api, endpoint_id, [task()] * 20))["items"]
        assert [one["code"] for one in items] == [10000] * 9 + [429] * 11
        assert items[-1]["message"] == "at most 10 requests a second are served"
        assert (await api.submit(endpoint_id)).status_code == 429


@pytest.mark.parametrize("headers", [LINES, {"Content-Type": "application/json"}])
async def test_roles_and_tenants_are_those_of_a_single_submission(
    api: RunningApi, endpoint_id: str, headers: dict[str, str]
) -> None:
    viewer, stranger = await api.new_key("default", role=Role.READ), await api.new_key("other")
    body = line(taskId="a") if headers is LINES else json.dumps({"tasks": [task()]}).encode()
    for key, status in ((viewer, 403), (stranger, 404), ("unknown", 401)):
        answer = await api.client.post(path_of(endpoint_id), content=body, headers={**headers, "X-Api-Key": key})
        assert answer.status_code == status
    assert (await api.client.post(path_of("999"), content=body, headers=headers)).status_code == 404
    assert await names_in_order(api, endpoint_id) == []


async def test_a_stopped_endpoint_refuses_each_task(api: RunningApi, endpoint_id: str) -> None:
    await api.client.post(f"/v2/serverless/{endpoint_id}/stop")
    data = await send_json(api, endpoint_id, [task()] * 2)
    assert [one["code"] for one in data["items"]] == [24000, 24000]
    assert {one["message"] for one in data["items"]} == {"the endpoint is stopped and takes no tasks"}


# JSON lines


async def test_lines_are_submitted_in_order_with_a_result_for_each(api: RunningApi, endpoint_id: str) -> None:
    *items, last = await send_lines(api, endpoint_id, line() * 1000, "?batchId=b")
    names = [f"b_{number}" for number in range(1, 1001)]
    assert [(one["index"], one["taskId"], one["result"]) for one in items] == [
        (index, name, "accepted") for index, name in enumerate(names)
    ]
    assert last == {"done": True, "accepted": 1000, "duplicate": 0, "rejected": 0}
    assert await names_in_order(api, endpoint_id) == names


async def test_lines_stay_in_order_while_a_check_of_the_first_one_waits(api: RunningApi, endpoint_id: str) -> None:
    """Workers' versions are read from the store for a task with a priority, and for no other task."""
    lines = line(priority="normal") + line() * 511
    assert (await send_lines(api, endpoint_id, lines, "?batchId=b"))[-1]["accepted"] == 512
    assert await names_in_order(api, endpoint_id) == [f"b_{number}" for number in range(1, 513)]


async def test_lines_stay_in_order_at_an_endpoint_with_a_default_priority(api: RunningApi) -> None:
    """The server learns of the default by the first task, which the store accepts by a second call."""
    endpoint_id = await api.create_endpoint(defaultPriority="low")
    assert (await send_lines(api, endpoint_id, line() * 512, "?batchId=b"))[-1]["accepted"] == 512
    assert await names_in_order(api, endpoint_id) == [f"b_{number}" for number in range(1, 513)]


async def test_tasks_with_and_without_tags_stay_in_order_at_an_endpoint_with_a_default_priority(
    api: RunningApi,
) -> None:
    endpoint_id = await api.create_endpoint(defaultPriority="low")
    data = await send_json(api, endpoint_id, [task(), task(tags=["a"])] * 50, "?batchId=b")
    assert {one["result"] for one in data["items"]} == {"accepted"}
    assert await names_in_order(api, endpoint_id) == [f"b_{number}" for number in range(1, 101)]


HOSTILE = [
    (b"", None),
    (b" \r", None),
    (b"\t", None),
    (line(taskId="a")[:-1] + b" \r", "success"),
    (b"\r" + line(taskId="b")[:-1], "success"),
    (line(taskId="c")[:-1] + b"\r" + line(taskId="d")[:-1], "body: must end after the object (character 78)"),
    (b"{", "body: is not valid JSON (character 2)"),
    (b"5", "body: must be a JSON object"),
    (b"[]", "body: must be a JSON object"),
    (b"\xef\xbb\xbf" + line(taskId="e")[:-1], "body: must not begin with a byte order mark"),
    (b'{"input": "\xff"}', "body: must be JSON in UTF-8"),
    (b'{"input": ' + b"[" * 100_000, "input: is nested too deeply"),
    (line(taskId="f", input="x" * 2_000_000)[:-1], "body: must be at most 1048576 bytes"),
    (b" " * 2_000_000, "body: must be at most 1048576 bytes"),
    (line(input=1)[:-1], "taskId: is required without batchId"),
    (line(taskId="a/b")[:-1], "taskId: must be 1–255 of letters, digits and _"),
    (line(taskId="a", input=2)[:-1], "taskId: is already used by a task with a different body"),
    (line(taskId="a")[:-1], "success"),
]


async def test_a_hostile_line_is_rejected_and_changes_no_other(api: RunningApi, endpoint_id: str) -> None:
    body = line(taskId="first") + b"\n".join(text for text, _ in HOSTILE) + b"\n" + line(taskId="last")[:-1]
    *items, last = await send_lines(api, endpoint_id, body)
    messages = ["success", *(message for _, message in HOSTILE if message is not None), "success"]
    assert [one["message"] for one in items] == messages
    assert [one["index"] for one in items] == list(range(len(messages)))
    assert last == {"done": True, "accepted": 4, "duplicate": 1, "rejected": len(messages) - 5}
    assert await names_in_order(api, endpoint_id) == ["first", "a", "b", "last"]


async def test_no_lines_are_an_empty_batch(api: RunningApi, endpoint_id: str) -> None:
    for body in (b"", b"\n", b"\r\n \n"):
        assert await send_lines(api, endpoint_id, body) == [
            {"done": True, "accepted": 0, "duplicate": 0, "rejected": 0}
        ]


@pytest.mark.parametrize("query", ["?batchId=", "?batchId=a-b", "?batchId=" + "a" * 65, "?batchId=a&batchId=b"])
async def test_a_wrong_batch_id_is_refused(api: RunningApi, endpoint_id: str, query: str) -> None:
    answer = await api.client.post(path_of(endpoint_id, query), content=line(), headers=LINES)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("batchId: ")


@pytest.mark.parametrize("name", ["batchid", "batch_id", "BatchId", "bachId"])
async def test_a_mistyped_name_of_the_batch_id_is_refused(api: RunningApi, endpoint_id: str, name: str) -> None:
    answer = await api.post(path_of(endpoint_id, f"?{name}=monday"), {"tasks": [task()]})
    meant = f"{name}: is not a parameter of this request; did you mean batchId?"
    assert (answer.status_code, answer.json()["message"]) == (400, meant)
    assert await names_in_order(api, endpoint_id) == []


async def test_an_unknown_parameter_of_a_batch_is_ignored(api: RunningApi, endpoint_id: str) -> None:
    assert (await send_json(api, endpoint_id, [task()], "?trace=1"))["accepted"] == 1


async def test_lines_without_any_id_are_refused_before_the_first(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.client.post(path_of(endpoint_id), content=line() + line(taskId="a"), headers=LINES)
    assert (answer.status_code, answer.json()["message"]) == (400, "taskId: is required without batchId")
    assert await names_in_order(api, endpoint_id) == []


class Stream:
    """A batch of lines whose client sends and reads when it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begun(cls, port: int, key: str, path: str, *, narrow: bool = False) -> "Stream":
        """Send the head of a batch. The buffers of a `narrow` connection hold kilobytes and not megabytes."""
        connection = socket.socket()
        connection.setblocking(False)
        if narrow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # The send buffer of the server is some segments long, and loopback has segments of 64 KiB.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        stream = cls(*await asyncio.open_connection(sock=connection))
        head = (
            f"POST {path} HTTP/1.1", "Host: x", f"X-Api-Key: {key}", "Content-Type: application/x-ndjson",
            "Transfer-Encoding: chunked", "", "",
        )  # fmt: skip
        stream.writer.write("\r\n".join(head).encode())
        return stream

    async def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def status(self) -> int:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1])

    async def lines(self) -> list[dict[str, Any]]:
        """The lines of the next chunk; none at the end of the response."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            chunk = (await self.reader.readexactly(size + 2))[:-2]
        return [json.loads(one) for one in chunk.splitlines()]

    async def rest(self) -> list[dict[str, Any]]:
        """All lines until the end of the response."""
        found: list[dict[str, Any]] = []
        while lines := await self.lines():
            found += lines
        return found

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def stream(api: RunningApi, endpoint_id: str) -> AsyncIterator[Stream]:
    begun = await Stream.begun(api.port, api.key, path_of(endpoint_id, "?batchId=b"))
    yield begun
    begun.close()


async def test_a_result_is_sent_before_the_next_line_is(stream: Stream) -> None:
    await stream.send(line())
    assert await stream.status() == 200
    assert [one["taskId"] for one in await stream.lines()] == ["b_1"]
    await stream.send(line()[:20])
    await stream.send(line()[20:] + line())
    found = await stream.lines()
    if len(found) == 1:
        found += await stream.lines()
    assert [one["taskId"] for one in found] == ["b_2", "b_3"]
    await stream.end()
    assert await stream.rest() == [{"done": True, "accepted": 3, "duplicate": 0, "rejected": 0}]


async def test_what_a_client_sent_before_it_was_cut_stays_and_is_no_second_task_when_sent_again(
    api: RunningApi, endpoint_id: str, stream: Stream
) -> None:
    await stream.send(line() * 300 + line()[:-2])
    assert await stream.status() == 200
    found: list[dict[str, Any]] = []
    while len(found) < 300:
        found += await stream.lines()
    stream.close()
    # The line that was not complete is no task.
    assert len(await names_in_order(api, endpoint_id)) == 300
    *_, last = await send_lines(api, endpoint_id, line() * 500, "?batchId=b")
    assert last == {"done": True, "accepted": 200, "duplicate": 300, "rejected": 0}


async def test_a_stopping_api_ends_a_stream_in_words(api: RunningApi, stream: Stream) -> None:
    await stream.send(line())
    assert await stream.status() == 200
    assert len(await stream.lines()) == 1
    api.stop()
    (last,) = await stream.rest()
    assert last == {
        "done": False, "accepted": 1, "duplicate": 0, "rejected": 0, "code": 10002,
        "message": "the store is unavailable: the API is stopping",
    }  # fmt: skip


async def test_a_line_that_does_not_arrive_in_time_ends_the_stream(valkey_url: str) -> None:
    async with running_api(valkey_url, read_timeout_seconds=0.5) as api:
        endpoint_id = await api.create_endpoint()
        stream = await Stream.begun(api.port, api.key, path_of(endpoint_id, "?batchId=b"))
        await stream.send(line() + b'{"input": ')
        assert await stream.status() == 200
        *items, last = await stream.rest()
        assert [one["result"] for one in items] == ["accepted"]
        assert (last["done"], last["code"], last["message"]) == (False, 10001, "body: did not arrive in time")
        stream.close()


async def test_a_key_that_is_revoked_in_a_stream_submits_nothing_more(valkey_url: str) -> None:
    now = 1000.0
    async with running_api(valkey_url, monotonic=lambda: now) as api:
        endpoint_id = await api.create_endpoint()
        key = await api.new_key("default")
        stream = await Stream.begun(api.port, key, path_of(endpoint_id, "?batchId=b"))
        await stream.send(line())
        assert await stream.status() == 200
        assert len(await stream.lines()) == 1
        await api.store.api_keys.revoke(hash_of(key))
        now += 60
        await stream.send(line())
        (last,) = await stream.rest()
        assert (last["done"], last["accepted"], last["code"]) == (False, 1, 40101)
        stream.close()


async def test_a_client_that_reads_nothing_holds_few_tasks_and_is_disconnected(valkey_url: str) -> None:
    async with running_api(valkey_url, read_timeout_seconds=2) as api:
        endpoint_id = await api.create_endpoint(maxQueuedTasks=1_000_000)
        # Wide buffers take the results of a hundred thousand tasks, and a minute of a busy machine.
        stream = await Stream.begun(api.port, api.key, path_of(endpoint_id, "?batchId=b"), narrow=True)
        sending = asyncio.create_task(_send_forever(stream))
        # The writes of the server no longer fit into the buffers, so it reads no further, and then gives up.
        await asyncio.wait({sending}, timeout=GIVE_UP_SECONDS)
        assert isinstance(sending.exception(), ConnectionError)
        await wait_until_async(lambda: _nothing_held(api))
        stream.close()


async def _send_forever(stream: Stream) -> None:
    stream.reader._limit = 1  # type: ignore[attr-defined]  # so that asyncio stops reading the socket
    body = line() * 500
    while True:
        await stream.send(body)


async def _nothing_held(api: RunningApi) -> bool:
    return not api.engine.batches.streams


async def test_a_file_sent_again_after_the_api_was_killed_in_the_middle_is_submitted_once(
    programs: Programs, store: Any
) -> None:
    port, key = free_port(), "a-key-of-the-test-" + os.urandom(8).hex()
    arguments = ("queue_engine", "api", "--port", str(port))
    environment = {"QUEUE_ENGINE_API_KEY": key}
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, headers={"X-Api-Key": key}, timeout=GIVE_UP_SECONDS) as client:

        async def is_ready() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        program = programs.start("api", *arguments, **environment)
        await wait_until_async(is_ready)
        endpoint_id = (await client.post("/v2/serverless", json=ENDPOINT)).json()["data"]["id"]
        stream = await Stream.begun(port, key, path_of(endpoint_id, "?batchId=b"))
        await stream.send(line() * (MAX_GROUP * GROUPS_UNDER_WAY + 1))
        assert await stream.status() == 200
        assert (await stream.lines())[0]["result"] == "accepted"
        program.signal(signal.SIGKILL)
        program.wait()
        stream.close()
        programs.start("api", *arguments, **environment)
        await wait_until_async(is_ready)
        answer = await client.post(path_of(endpoint_id, "?batchId=b"), content=line() * 1000, headers=LINES)
        *items, last = [json.loads(one) for one in answer.text.splitlines()]
        assert last["done"]
        assert last["duplicate"] >= MAX_GROUP
        assert last["accepted"] + last["duplicate"] == 1000
        # What was accepted before the kill is the beginning of the file.
        results = [one["result"] for one in items]
        assert results == sorted(results, reverse=True)
        assert (await store.tasks.counts(endpoint_id)).queued == 1000
