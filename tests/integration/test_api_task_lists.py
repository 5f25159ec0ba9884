"""Lists of tasks by cursor and filters, and their export, over HTTP."""

import json
from typing import Any

import pytest

from queue_engine.domain.tasks import Failed, Outcome, Succeeded
from queue_engine.engine.task_lists import MAX_EXPORTS
from tests.api_server import RunningApi, running_api
from tests.waiting import wait_until_async


def path_of(endpoint_id: str) -> str:
    return f"/v2/serverless/{endpoint_id}/tasks"


async def data_of(api: RunningApi, endpoint_id: str, **query: Any) -> Any:
    answer = await api.client.get(path_of(endpoint_id), params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def refusal_of(api: RunningApi, path: str, **query: Any) -> str:
    answer = await api.client.get(path, params=query or None)
    assert (answer.status_code, answer.json()["code"]) == (400, 10001), answer.text
    message: str = answer.json()["message"]
    return message


async def submit_many(api: RunningApi, endpoint_id: str, count: int, **changes: Any) -> list[str]:
    names = [f"t{number}" for number in range(count)]
    for name in names:
        assert (await api.submit(endpoint_id, taskId=name, **changes)).status_code == 200
    return names


async def end_next(api: RunningApi, endpoint_id: str, outcome: Outcome, worker_id: str = "w1") -> str:
    queue = api.store.queue(endpoint_id=endpoint_id, worker_id=worker_id, lease_ms=60_000)
    (entry,) = await queue.claim(1, block_ms=100)
    started = await queue.start(entry, address="127.0.0.1:9000")
    assert started is not None
    await queue.settle(started.lease, outcome)
    return started.lease.task_id


async def walked(api: RunningApi, endpoint_id: str, **query: Any) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        page = await data_of(api, endpoint_id, **query, cursor=cursor)
        assert set(page) == {"items", "nextCursor", "scanned"}
        found += [item["taskId"] for item in page["items"]]
        if page["nextCursor"] is None:
            return found
        cursor = page["nextCursor"]


async def lines_of(api: RunningApi, endpoint_id: str, **query: Any) -> list[dict[str, Any]]:
    async with api.client.stream("GET", f"{path_of(endpoint_id)}/export", params=query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in response.aiter_lines() if line]


# Pages by cursor


async def test_pages_by_cursor_are_the_whole_list_while_tasks_are_added(api: RunningApi, endpoint_id: str) -> None:
    names = await submit_many(api, endpoint_id, 7)
    page = await data_of(api, endpoint_id, cursor="", pageSize=3)
    assert [item["taskId"] for item in page["items"]] == ["t6", "t5", "t4"]
    await api.submit(endpoint_id, taskId="later")
    rest = await data_of(api, endpoint_id, cursor=page["nextCursor"], pageSize=10)
    assert [item["taskId"] for item in rest["items"]] == ["t3", "t2", "t1", "t0"]
    assert (rest["nextCursor"], rest["scanned"]) == (None, 4)
    assert await walked(api, endpoint_id, pageSize=2) == ["later", *reversed(names)]


async def test_an_item_is_that_of_a_page_by_number(api: RunningApi, endpoint_id: str) -> None:
    await submit_many(api, endpoint_id, 2)
    by_number = await data_of(api, endpoint_id, pageSize=5)
    assert set(by_number) == {"items", "page", "size", "total", "pages"}
    assert (await data_of(api, endpoint_id, cursor="", pageSize=5))["items"] == by_number["items"]


async def test_every_filter_selects(api: RunningApi, endpoint_id: str) -> None:
    await submit_many(api, endpoint_id, 3, webhook="https://hooks.example/done")
    await api.submit(endpoint_id, taskId="other", input={"prompt": "a cat"}, tags=["team:a"])
    assert await end_next(api, endpoint_id, Failed("HTTP 500: no model")) == "t0"
    assert await end_next(api, endpoint_id, Succeeded(b"1"), worker_id="w2") == "t1"
    t0, t1 = [(await api.client.get(f"{path_of(endpoint_id)}/{name}")).json()["data"] for name in ("t0", "t1")]
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({"state": "queued"}, ["other", "t2"]),
        ({"state": " Failed, succeeded "}, ["t1", "t0"]),
        ({"status": "success"}, ["t1"]),
        ({"status": "FAILED", "state": "queued"}, []),
        ({"createdAfter": t1["createdAt"], "idPrefix": "t1"}, ["t1"]),
        ({"createdAfter": t1["createdAt"] + 1, "idPrefix": "t1"}, []),
        ({"createdBefore": t1["createdAt"], "idPrefix": "t1"}, []),
        ({"createdAfter": "2001-01-01T00:00:00Z", "createdBefore": t0["createdAt"]}, []),
        ({"finishedAfter": t0["finishedAt"], "finishedBefore": t1["finishedAt"] + 1}, ["t1", "t0"]),
        ({"tag": "team:a"}, ["other"]),
        ({"tag": "team:"}, []),
        ({"workerId": "w2"}, ["t1"]),
        ({"errorContains": "500: no"}, ["t0"]),
        ({"deliveryStatus": "init", "state": "succeeded"}, ["t1"]),
        ({"destination": "https://hooks.example"}, ["t2", "t1", "t0"]),
        ({"destination": "http://hooks.example"}, []),
        ({"idPrefix": "o"}, ["other"]),
        ({"input": "a cat"}, ["other"]),
    ]
    for query, names in expected:
        assert await walked(api, endpoint_id, **query) == names, query


async def test_a_filter_that_breaks_its_rule_is_refused(api: RunningApi, endpoint_id: str) -> None:
    path = path_of(endpoint_id)
    cases = {
        "state": ["", "busy", "queued,", "QUEUED running"],
        "createdAfter": ["", "yesterday", "1764000000", "2026-13-01"],
        "createdBefore": ["-1"],
        "finishedAfter": ["now"],
        "finishedBefore": ["now"],
        "tag": ["", "a b", "ü", "x" * 65],
        "workerId": ["", "-w", "a:b"],
        "errorContains": ["", "x" * 257, "\x00"],
        "deliveryStatus": ["LATE"],
        "destination": ["", "hooks.example", "https://user@hooks.example"],
        "idPrefix": ["", "a-b", "x" * 256],
        "input": ["", "x" * 257],
    }
    for name, values in cases.items():
        for value in values:
            assert (await refusal_of(api, path, **{name: value})).startswith(f"{name}: "), (name, value)
    assert (await refusal_of(api, path, cursor="", pageSize=0)).startswith("pageSize: ")
    assert (await refusal_of(api, f"{path}?state=queued&state=running")).startswith("state: ")


async def test_a_list_by_cursor_refuses_unknown_names_and_page_numbers(api: RunningApi, endpoint_id: str) -> None:
    path = path_of(endpoint_id)
    assert (await refusal_of(api, path, state="queued", stat="x")).startswith("stat: is not a parameter")
    assert (await refusal_of(api, path, cursor="", **{"é" * 100: "x"})).startswith("\\xe9\\xe9")
    assert (await refusal_of(api, path, cursor="", pageNumber=2)).startswith("pageNumber: ")
    assert (await refusal_of(api, path, idPrefix="a", pageNumber=1)).startswith("pageNumber: ")
    assert "pages" in await data_of(api, endpoint_id, unknown="x", pageNumber=1, status="FAILED")


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("sate", "state"),
        ("stat", "state"),
        ("createdafter", "createdAfter"),
        ("created_before", "createdBefore"),
        ("tags", "tag"),
        ("Cursor", "cursor"),
        ("pagesize", "pageSize"),
    ],
)
async def test_a_mistyped_filter_alone_is_refused_because_it_would_match_all_tasks(
    api: RunningApi, endpoint_id: str, mistyped: str, meant: str
) -> None:
    refusal = await refusal_of(api, path_of(endpoint_id), **{mistyped: "failed"})
    assert refusal == f"{mistyped}: is not a parameter of this request; did you mean {meant}?"


@pytest.mark.parametrize("name", ["priority", "taskId", "deliveryError", "headers"])
async def test_a_field_of_tasks_that_is_no_filter_is_refused_with_the_list_of_filters(
    api: RunningApi, endpoint_id: str, name: str
) -> None:
    refusal = await refusal_of(api, path_of(endpoint_id), **{name: "high"})
    assert refusal.startswith(f"{name}: is a field of tasks and not a filter; the filters are status, state, ")
    assert refusal == await refusal_of(api, path_of(endpoint_id), pageNumber=1, **{name: "high"})


async def test_a_cursor_is_only_for_its_list(api: RunningApi, endpoint_id: str) -> None:
    await submit_many(api, endpoint_id, 3)
    other = await api.create_endpoint(name="other")
    page = await data_of(api, endpoint_id, state="queued", pageSize=1)
    cursor = page["nextCursor"]
    path = path_of(endpoint_id)
    rest = await data_of(api, endpoint_id, state="queued", pageSize=9, cursor=cursor)
    assert [item["taskId"] for item in rest["items"]] == ["t1", "t0"]
    for elsewhere, query in (
        (path, {"cursor": cursor}),
        (path, {"cursor": cursor, "state": "running"}),
        (path_of(other), {"cursor": cursor, "state": "queued"}),
        (f"{path}/export", {"cursor": cursor, "state": "queued"}),
    ):
        assert (await refusal_of(api, elsewhere, **query)).startswith("cursor: is not one of this list")
    flipped = ("B" if cursor[5] != "B" else "C").join([cursor[:5], cursor[6:]])
    for forged in (flipped, cursor[:-1], cursor + "A", "x", "é", "A" * 1000, cursor.lower(), f" {cursor}"):
        assert (await refusal_of(api, path, state="queued", cursor=forged)).startswith("cursor: "), forged


async def test_a_cursor_of_another_server_key_is_refused(api: RunningApi, endpoint_id: str, valkey_url: str) -> None:
    await submit_many(api, endpoint_id, 2)
    cursor = (await data_of(api, endpoint_id, cursor="", pageSize=1))["nextCursor"]
    async with running_api(valkey_url, with_secret_key=False) as other:
        answer = await other.client.get(path_of(endpoint_id), params={"cursor": cursor})
        assert answer.json()["message"].startswith("cursor: is not one of this list")


async def test_another_tenant_sees_no_list_and_no_export(api: RunningApi, endpoint_id: str) -> None:
    headers = {"X-Api-Key": await api.new_key("other")}
    for path in (path_of(endpoint_id) + "?cursor=", path_of(endpoint_id) + "/export"):
        assert (await api.client.get(path, headers=headers)).status_code == 404


# Export


async def test_an_export_has_every_task_oldest_first_and_ends_in_words(api: RunningApi, endpoint_id: str) -> None:
    names = await submit_many(api, endpoint_id, 120)
    *tasks, last = await lines_of(api, endpoint_id)
    assert [task["taskId"] for task in tasks] == names
    assert last == {"end": True, "nextCursor": None}
    item = (await data_of(api, endpoint_id, idPrefix="t119"))["items"][0]
    assert {name: value for name, value in tasks[-1].items() if name != "cursor"} == item
    *some, _ = await lines_of(api, endpoint_id, state="queued", idPrefix="t11")
    assert [task["taskId"] for task in some] == ["t11", *(f"t11{digit}" for digit in range(10))]


async def test_an_export_has_inputs_and_outputs_on_request_each_on_one_line(api: RunningApi, endpoint_id: str) -> None:
    path = path_of(endpoint_id)
    body = b'{"taskId":"short","input":{ "a" :\t[ 1 ,\r\n2 ] },"workerPort":8000,"processUri":"x"}'
    answer = await api.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    await end_next(api, endpoint_id, Succeeded(b'{"b":\n1e999}'))
    async with api.client.stream("GET", f"{path}/export", params={"include": "input,OUTPUT"}) as response:
        short, last = [line async for line in response.aiter_lines()]
    assert '"input":{ "a" :\t[ 1 ,  2 ] },"output":{"b": 1e999},"cursor":' in short
    assert json.loads(last)["end"] is True
    (only_output, _) = await lines_of(api, endpoint_id, include="output")
    assert "output" in only_output
    assert "input" not in only_output
    assert (await refusal_of(api, f"{path}/export", include="headers")).startswith("include: ")
    assert (await refusal_of(api, f"{path}/export", pageSize=3)).startswith("pageSize: ")


async def test_a_lost_export_continues_after_any_line_without_a_gap(api: RunningApi, endpoint_id: str) -> None:
    names = await submit_many(api, endpoint_id, 60)
    *tasks, _ = await lines_of(api, endpoint_id)
    await api.submit(endpoint_id, taskId="later")
    for seen in (1, 49, 50, 51, 59, 60):
        *rest, last = await lines_of(api, endpoint_id, cursor=tasks[seen - 1]["cursor"])
        assert [task["taskId"] for task in rest] == names[seen:]
        assert last["end"] is True


async def test_an_export_ends_in_words_when_the_api_stops(api: RunningApi, endpoint_id: str) -> None:
    await submit_many(api, endpoint_id, 120, input="x" * 200_000)
    seen: list[dict[str, Any]] = []
    async with api.client.stream("GET", f"{path_of(endpoint_id)}/export", params={"include": "input"}) as response:
        async for line in response.aiter_lines():
            if not seen:
                api.stop()
            seen.append(json.loads(line))
    *tasks, last = seen
    assert last == {"end": False, "nextCursor": tasks[-1]["cursor"], "reason": "the server is shutting down"}
    assert len(tasks) < 120


async def test_an_export_of_a_client_that_is_gone_ends(api: RunningApi, endpoint_id: str) -> None:
    await submit_many(api, endpoint_id, 120, input="x" * 200_000)
    url = f"{path_of(endpoint_id)}/export"
    for _ in range(2 * MAX_EXPORTS):
        async with api.client.stream("GET", url, params={"include": "input"}) as response:
            assert response.status_code == 200

    async def all_ended() -> bool:
        return not api.engine.task_lists.exports

    await wait_until_async(all_ended)
    assert (await api.client.head(url)).status_code == 200


async def test_a_tenant_has_few_exports_at_a_time_and_they_follow_their_clients(
    api: RunningApi, endpoint_id: str
) -> None:
    await submit_many(api, endpoint_id, 150, input="x" * 200_000)
    url = f"{path_of(endpoint_id)}/export"
    reading = [api.client.stream("GET", url, params={"include": "input"}) for _ in range(MAX_EXPORTS)]
    responses = [await one.__aenter__() for one in reading]
    refused = await api.client.get(url)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    other = {"X-Api-Key": await api.new_key("other")}
    assert (await api.client.get(url, headers=other)).status_code == 404
    for response in responses:
        *tasks, last = [json.loads(line) async for line in response.aiter_lines()]
        assert (len(tasks), last["end"]) == (150, True)
    for one in reading:
        await one.__aexit__(None, None, None)
