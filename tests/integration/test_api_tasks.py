"""Tasks over HTTP: submit, read, list, count."""

import asyncio
import json
from typing import Any

import pytest

from queue_engine.domain.deliveries import DeliverAgain, Delivered, Verdict, WebhookResponse
from queue_engine.domain.tasks import Failed, Outcome, Succeeded, TaskState, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.engine.submissions import MAX_COMPARED_BYTES
from tests.api_server import RunningApi, ScriptedLookup, running_api

RAW_INPUTS = [
    b"12345678901234567890123456789",
    b"9" * 5000,
    b"1e999",
    b"-0.0",
    b'{"a":1,"a":2,"b":{"x":1,"x":1}}',
    b'{ "a" :\t[ 1 ,\n2 ] }',
    rb'"\ud800 \u0000 \/ \u00e9"',
    '"é𝄞"'.encode(),
    b"true",
    b"0",
    b'""',
    b"{}",
    b"[]",
    b"[" * 500 + b"]" * 500,
]


# Submit


async def test_a_task_is_accepted_and_read_back(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.submit(endpoint_id, taskId="a_1", headers={"X-A": "1", "Authorization": "Bearer canary"})
    assert (answer.status_code, answer.json()["data"]) == (200, {"taskId": "a_1"})
    task = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a_1")).json()["data"]
    assert task.pop("waiting")["code"] == "NO_WORKERS"
    created = task.pop("createdAt")
    assert created == task.pop("updatedAt") > 1_700_000_000_000
    nothing_yet = (
        "workerUrl", "webhook", "deliveryError", "nextDeliveryAt", "error", "startedAt", "finishedAt", "durationMs",
        "deliveredAt", "output", "runAt", "fairnessKey", "workerId", "nextAttemptAt", "expiresAt", "purgeAt",
        "outputBytes", "traceId",
    )  # fmt: skip
    assert task == {
        "taskId": "a_1",
        "endpointId": int(endpoint_id),
        "endpointName": "echo",
        "status": "PROCESSING",
        "state": "queued",
        "deliveryStatus": "INIT",
        "deliveryAttempts": 0,
        "deliveryParked": False,
        "cancelRequested": False,
        "attempts": 0,
        "executionTimeoutSeconds": 3600,
        "queueTtlSeconds": None,
        "workerPort": 8000,
        "processUri": "/run",
        "lost": 0,
        "connectionsLost": 0,
        "suspect": False,
        "runs": 1,
        "input": {"n": 1},
        "inputBytes": len('{"n": 1}'),
        "headers": {"X-A": "1", "Authorization": "***"},
        "metadata": {},
        "tags": [],
        "priority": "normal",
        **dict.fromkeys(nothing_yet),
    }


async def test_metadata_and_tags_are_shown_in_the_list_and_the_detail(api: RunningApi, endpoint_id: str) -> None:
    given = {"metadata": {"order": "é 7", "x" * 40: "y" * 256}, "tags": ["b", "a:1/2@x.-_=", "b"]}
    await api.submit(endpoint_id, taskId="a", **given)
    shown = {"metadata": given["metadata"], "tags": ["a:1/2@x.-_=", "b"]}
    detail = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")).json()["data"]
    (listed,) = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks")).json()["data"]["items"]
    assert detail.items() >= shown.items()
    assert listed.items() >= shown.items()


async def test_the_order_of_tags_and_metadata_does_not_make_another_request(api: RunningApi, endpoint_id: str) -> None:
    for metadata in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}):
        answer = await api.submit(endpoint_id, taskId="a", metadata=metadata, tags=[*metadata])
        assert answer.status_code == 200
    others: list[dict[str, Any]] = [{"metadata": {"a": "1"}}, {"tags": ["a"]}, {"tags": []}, {"metadata": {}}]
    for changed in others:
        given = {"metadata": {"a": "1", "b": "2"}, "tags": ["a", "b"]} | changed
        assert (await api.submit(endpoint_id, taskId="a", **given)).status_code == 409


async def test_a_task_without_an_id_gets_a_uuid_without_hyphens(api: RunningApi, endpoint_id: str) -> None:
    first, second = [(await api.submit(endpoint_id)).json()["data"]["taskId"] for _ in range(2)]
    assert first != second
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


async def test_the_input_stays_the_bytes_that_came_in(api: RunningApi, endpoint_id: str) -> None:
    path = f"/v2/serverless/{endpoint_id}/tasks"
    for index, raw in enumerate(RAW_INPUTS):
        body = b'{"taskId":"t%d", "input" : %b ,"workerPort":8000,"processUri":"x"}' % (index, raw)
        answer = await api.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, raw[:40]
        stored = await api.store.tasks.get(endpoint_id, f"t{index}")
        assert stored is not None
        assert stored.input == raw
        read = (await api.client.get(f"{path}/t{index}")).content
        assert b'"input":' + raw + b',"output":null' in read


async def test_the_same_request_again_gets_the_same_response_and_runs_once(api: RunningApi, endpoint_id: str) -> None:
    answers = [await api.submit(endpoint_id, taskId="a", webhook="http://a.example/") for _ in range(3)]
    assert [one.status_code for one in answers] == [200] * 3
    assert len({one.text for one in answers}) == 1
    assert (await _counts(api, endpoint_id))["total"] == 1


RESPELLED = (
    b'{"taskId": "a", "input": {"text": "caf\\u00e9", "n": [1, 2.50]}, "workerPort": 8000, "processUri": "/x"}',
    b'{"processUri":"x","input" : {"n":[ 1,2.50 ],"text":"caf\xc3\xa9"},"workerPort":8000,"taskId":"a","headers":{}}',
    b'{"processUri":"x","input":{"n":[1,2.50],"te\\u0078t":"caf\xc3\xa9"},"workerPort":8000,"taskId":"a",'
    b'"webhookAuthKey":null}',
)


async def _post(api: RunningApi, endpoint_id: str, body: bytes) -> int:
    path = f"/v2/serverless/{endpoint_id}/tasks"
    return (await api.client.post(path, content=body, headers={"Content-Type": "application/json"})).status_code


async def test_the_same_json_value_in_another_spelling_is_the_same_request(api: RunningApi, endpoint_id: str) -> None:
    assert [await _post(api, endpoint_id, body) for body in RESPELLED] == [200, 200, 200]
    for change in ((b"2.50", b"2.5"), (b"[ 1,", b"[ 1.0,"), (b"caf", b"Caf"), (b"8000", b"8001")):
        assert await _post(api, endpoint_id, RESPELLED[1].replace(*change)) == 409
    assert (await _counts(api, endpoint_id))["total"] == 1


async def test_a_request_is_known_by_its_value_after_its_task_has_ended(api: RunningApi, endpoint_id: str) -> None:
    assert await _post(api, endpoint_id, RESPELLED[0]) == 200
    await _end(api, endpoint_id, Succeeded(b'"a small result that is kept with the body"'))
    assert [await _post(api, endpoint_id, body) for body in RESPELLED] == [200, 200, 200]


async def test_only_bytes_count_in_what_is_large_or_repeats_a_name(api: RunningApi, endpoint_id: str) -> None:
    large = json.dumps(["x" * MAX_COMPARED_BYTES]).encode()
    body = b'{"taskId":"t%d","input":%b,"workerPort":80,"processUri":"/"}'
    for index, (first, second) in enumerate([(large, b"[ " + large[1:]), (b'{"a":1,"a":2}', b'{"a":1, "a":2}')]):
        assert await _post(api, endpoint_id, body % (index, first)) == 200
        assert await _post(api, endpoint_id, body % (index, first)) == 200
        assert await _post(api, endpoint_id, body % (index, second)) == 409


async def test_many_deeply_nested_respellings_at_once_are_compared(api: RunningApi, endpoint_id: str) -> None:
    nested = b"[" * 500 + b"]" * 500
    first = b"[" + b",".join([nested] * 5) + b"]"
    body = b'{"taskId":"a","input":%b,"workerPort":80,"processUri":"/"}'
    assert await _post(api, endpoint_id, body % first) == 200
    statuses = await asyncio.gather(*(_post(api, endpoint_id, body % (b"[ " + first[1:])) for _ in range(4)))
    assert set(statuses) == {200}


async def test_an_id_that_is_taken_by_another_body_is_refused(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    for change in ({"input": 2}, {"workerPort": 1}, {"processUri": "/b"}, {"headers": {"A": "b"}}):
        answer = await api.submit(endpoint_id, taskId="a", **change)
        assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (409, 12001, None)
    assert (await _counts(api, endpoint_id))["total"] == 1


async def test_one_id_can_be_used_on_two_endpoints(api: RunningApi, endpoint_id: str) -> None:
    other = await api.create_endpoint(name="other")
    assert (await api.submit(endpoint_id, taskId="a")).status_code == 200
    assert (await api.submit(other, taskId="a", input=2)).status_code == 200


async def test_a_hundred_submits_of_one_id_at_once_make_one_task(api: RunningApi, endpoint_id: str) -> None:
    answers = await asyncio.gather(*(api.submit(endpoint_id, taskId="a") for _ in range(100)))
    assert [one.status_code for one in answers] == [200] * 100
    counts = await _counts(api, endpoint_id)
    assert (counts["queued"], counts["total"]) == (1, 1)


async def test_of_a_hundred_different_bodies_for_one_id_one_wins(api: RunningApi, endpoint_id: str) -> None:
    answers = await asyncio.gather(*(api.submit(endpoint_id, taskId="a", input=index) for index in range(100)))
    statuses = [one.status_code for one in answers]
    assert (statuses.count(200), statuses.count(409)) == (1, 99)
    assert (await _counts(api, endpoint_id))["total"] == 1


@pytest.mark.parametrize("mode", ["ALB", "CUSTOM"])
async def test_only_queue_endpoints_take_tasks(api: RunningApi, mode: str) -> None:
    answer = await api.submit(await api.create_endpoint(serviceMode=mode))
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)


async def test_an_endpoint_that_failed_takes_no_tasks_but_knows_those_it_has(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await api.store.endpoints.set_failed(endpoint_id, True)
    answer = await api.submit(endpoint_id, taskId="b")
    assert (answer.status_code, answer.json()["code"]) == (409, 24000)
    assert answer.json()["message"].startswith("the endpoint has failed and takes no tasks: all its workers crash")
    assert (await api.submit(endpoint_id, taskId="a")).status_code == 200


async def test_a_stopped_endpoint_says_whether_its_workers_still_end(api: RunningApi, endpoint_id: str) -> None:
    workers = api.store.workers
    await workers.put(endpoint_id, "w1", managed=True)
    await api.client.post(f"/v2/serverless/{endpoint_id}/stop")
    answer = await api.submit(endpoint_id)
    assert (answer.status_code, answer.json()["message"]) == (409, "the endpoint is stopping and takes no tasks")
    await workers.mark(endpoint_id, "w1", WorkerStatus.STOPPED, reason="ended")
    answer = await api.submit(endpoint_id)
    assert (answer.status_code, answer.json()["message"]) == (409, "the endpoint is stopped and takes no tasks")


async def test_a_full_queue_refuses_with_a_time_to_come_back(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxQueuedTasks=2)
    assert [(await api.submit(endpoint_id, taskId=name)).status_code for name in "ab"] == [200, 200]
    answer = await api.submit(endpoint_id, taskId="c")
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await api.submit(endpoint_id, taskId="a")).status_code == 200


async def test_a_traceparent_travels_with_the_task(api: RunningApi, endpoint_id: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    path = f"/v2/serverless/{endpoint_id}/tasks"
    body = {"taskId": "a", "input": 1, "workerPort": 1, "processUri": "/"}
    await api.client.post(path, json=body, headers={"traceparent": trace})
    await api.client.post(path, json=body | {"taskId": "b"}, headers={"traceparent": "nonsense"})
    tasks = [await api.store.tasks.get(endpoint_id, name) for name in "ab"]
    assert [task.spec.traceparent for task in tasks if task] == [trace, None]


async def test_without_a_secret_key_secrets_are_refused_by_name(valkey_url: str) -> None:
    async with running_api(valkey_url, with_secret_key=False) as api:
        endpoint_id = await api.create_endpoint()
        for name, value in (("headers", {"A": "b"}), ("webhookAuthKey", "canary")):
            answer = await api.submit(endpoint_id, **{name: value})
            assert answer.status_code == 400
            assert answer.json()["message"].startswith(f"{name}: the server has no QUEUE_ENGINE_SECRET_KEY")
        assert (await api.submit(endpoint_id, headers={})).status_code == 200


async def test_the_webhooks_key_is_shown_by_nothing(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", webhook="http://a.example/", webhookAuthKey="canary-91b2")
    base = f"/v2/serverless/{endpoint_id}"
    for path in (base, f"{base}/tasks", f"{base}/tasks/a", f"{base}/tasks/a/deliveries", "/metrics"):
        assert "canary-91b2" not in (await api.client.get(path)).text
    for key in await api.store.redis.keys("*"):
        assert b"canary-91b2" not in (await api.store.redis.dump(key) or b"")


async def test_a_webhook_may_be_allowed_by_the_operator_but_never_point_back(valkey_url: str) -> None:
    lookup = ScriptedLookup(
        {"localhost": ["127.0.0.1", "::1"], "me.example": ["127.0.0.1"], "mixed.example": ["127.0.0.1", "10.0.0.1"]}
    )
    async with running_api(valkey_url, lookup=lookup, webhook_allow="127.0.0.0/8,::1/128") as api:
        endpoint_id = await api.create_endpoint()
        allowed = ("http://127.0.0.1:9/", "http://localhost:9/", "http://[::1]:9/", "http://me.example:9/x?y=%20")
        refused = (
            *(f"http://{host}:{api.port}/" for host in ("127.0.0.1", "127.9.9.9", "localhost", "[::1]", "me.example")),
            "http://10.0.0.1:9/",
            "http://mixed.example:9/",
            f"http://0.0.0.0:{api.port}/",
        )
        for url in allowed:
            answer = await api.submit(endpoint_id, webhook=url)
            assert answer.status_code == 200, (url, answer.text)
        for url in refused:
            answer = await api.submit(endpoint_id, webhook=url)
            assert (answer.status_code, answer.json()["message"][:9]) == (400, "webhook: "), (url, answer.text)


# Read


async def test_a_task_that_succeeded_shows_its_output(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", processUri="/run")
    await _end(api, endpoint_id, Succeeded(b'{"big":12345678901234567890123,"a":1,"a":2}'))
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")
    assert b'"output":{"big":12345678901234567890123,"a":1,"a":2}' in answer.content
    task = answer.json()["data"]
    assert (task["status"], task["state"], task["attempts"], task["error"]) == ("SUCCESS", "succeeded", 1, None)
    assert task["workerUrl"] == "http://127.0.0.1:8000/run"
    assert task["durationMs"] == task["finishedAt"] - task["startedAt"]


async def test_a_task_that_failed_says_why(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await _end(api, endpoint_id, Failed("no answer: \x1b[31m<b>\ud800", TaskState.TIMED_OUT))
    task = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")).json()["data"]
    assert (task["status"], task["state"], task["output"]) == ("FAILED", "timed_out", None)
    assert task["error"].startswith("no answer: \x1b[31m<b>")


async def test_a_task_that_waits_for_another_attempt_is_processing(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await _end(api, endpoint_id, TryAgain("busy", 60))
    task = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")).json()["data"]
    assert (task["status"], task["state"], task["attempts"]) == ("PROCESSING", "scheduled", 1)


async def test_a_delivery_is_followed_attempt_by_attempt(api: RunningApi, endpoint_id: str) -> None:
    path = f"/v2/serverless/{endpoint_id}/tasks/a"
    await api.submit(endpoint_id, taskId="a", webhook="http://a.example/x")
    assert (await api.client.get(f"{path}/deliveries")).json()["data"] == []
    await _end(api, endpoint_id, Succeeded(b"1"))
    await _deliver(api, WebhookResponse(500, "http_5xx", "<b>sorry</b>", None, 0.25), DeliverAgain(0, "http_5xx"))
    task = (await api.client.get(path)).json()["data"]
    assert (task["status"], task["deliveryStatus"], task["deliveryAttempts"]) == ("SUCCESS", "FAILED", 1)
    assert task["nextDeliveryAt"] >= task["finishedAt"]
    await api.store.outbox().promote()
    await _deliver(api, WebhookResponse(204, None, "", None, 0.5), Delivered())
    task = (await api.client.get(path)).json()["data"]
    assert (task["status"], task["deliveryStatus"], task["deliveryAttempts"]) == ("DELIVERED", "SUCCESS", 2)
    assert task["deliveredAt"] >= task["finishedAt"]
    first, second = (await api.client.get(f"{path}/deliveries")).json()["data"]
    assert first.pop("nextAttemptAt") >= task["finishedAt"]
    assert second.pop("nextAttemptAt") is None
    unmeasured = {"connectMs": None, "tlsMs": None, "sendMs": None, "waitMs": None}
    common = {"at": 5, "trigger": "result", "phases": unmeasured}
    failed = {"status": 500, "error": "http_5xx", "durationMs": 250, "response": "<b>sorry</b>"}
    assert first == {**common, **failed}
    assert second == {**common, "status": 204, "error": None, "durationMs": 500, "response": ""}


async def test_headers_are_hidden_from_a_process_with_another_key(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", headers={"X-A": "1"})
    async with running_api(api.store.url, with_secret_key=False) as other:
        answer = await other.client.get(f"/v2/serverless/{endpoint_id}/tasks/a")
        assert (answer.status_code, answer.json()["data"]["headers"]) == (200, {})


NO_TASKS = ["none", "abc%0A", "a:b", "%7Bx%7D", "*", "a" * 256, "%00", "%ED%A0%80", "a%20b", "-", "%C3%A9", "count%20"]


@pytest.mark.parametrize("rest", ["", "/deliveries"])
async def test_a_task_that_is_not_there_is_not_found(api: RunningApi, endpoint_id: str, rest: str) -> None:
    for name in NO_TASKS:
        answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{name}{rest}")
        told = {"message": "task not found", "code": 24011, "data": None}
        assert (answer.status_code, answer.json()) == (404, told), name


# List and count


async def test_tasks_are_listed_newest_first_in_pages(api: RunningApi, endpoint_id: str) -> None:
    for index in range(5):
        await api.submit(endpoint_id, taskId=f"t{index}", webhook="http://a.example/", headers={"A": "b"})
    page = await _page(api, endpoint_id, "?pageSize=2&pageNumber=2")
    assert [one["taskId"] for one in page["items"]] == ["t2", "t1"]
    assert {name: page[name] for name in ("page", "size", "total", "pages")} == {
        "page": 2, "size": 2, "total": 5, "pages": 3,
    }  # fmt: skip
    assert not {"input", "output", "headers"} & page["items"][0].keys()
    assert page["items"][0]["webhook"] == "http://a.example/"
    assert [one["taskId"] for one in (await _page(api, endpoint_id))["items"]] == ["t4", "t3", "t2", "t1", "t0"]
    beyond = await _page(api, endpoint_id, "?pageNumber=1000000000&pageSize=1000")
    assert (beyond["items"], beyond["total"], beyond["pages"]) == ([], 5, 1)


async def test_an_empty_list_has_no_pages(api: RunningApi, endpoint_id: str) -> None:
    assert await _page(api, endpoint_id) == {"items": [], "page": 1, "size": 10, "total": 0, "pages": 0}


async def test_tasks_are_listed_and_counted_by_status(api: RunningApi, endpoint_id: str) -> None:
    for name in ("ok", "bad", "waiting"):
        await api.submit(endpoint_id, taskId=name)
    await _end(api, endpoint_id, Succeeded(b"1"))
    await _end(api, endpoint_id, Failed("no"))
    for query, names in (("SUCCESS", ["ok"]), ("failed", ["bad"]), ("Processing", ["waiting"]), ("delivered", [])):
        page = await _page(api, endpoint_id, f"?status={query}")
        assert ([one["taskId"] for one in page["items"]], page["total"]) == (names, len(names))
    assert await _counts(api, endpoint_id) == {
        "processing": 1, "queued": 1, "running": 0, "scheduled": 0, "delivered": 0, "success": 1, "failed": 1,
        "total": 3, "queuedByPriority": {"high": 0, "normal": 1, "low": 0}, "waitingDeliveries": 0,
    }  # fmt: skip
    endpoint = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]
    assert (endpoint["queuedTasks"], endpoint["runningTasks"]) == (1, 0)


BAD_QUERIES = [
    *(f"pageSize={one}" for one in ("0", "-1", "1001", "1e9", "1.0", "", "x", "%D9%A3", "1_0", "+1", "%201", "1" * 30)),
    *(f"pageNumber={one}" for one in ("0", "-1", "1e3", "1.0", "", "x", "1000000001", "9" * 30, "0x1", "1%00")),
    *(f"status={one}" for one in ("XYZ", "", "SUCCESS,FAILED", "queued", "%00", "SUCCESS%0A")),
    "status=SUCCESS&status=SUCCESS",
    "pageSize=1&pageSize=2",
    "pageNumber=1&pageNumber=1",
    "&".join(f"a{index}=1" for index in range(101)),
]


async def test_a_bad_query_is_refused_by_name(api: RunningApi, endpoint_id: str) -> None:
    for query in BAD_QUERIES:
        answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, 10001), (query, answer.text)
        assert answer.json()["message"].startswith(query.partition("=")[0]) or "parameters" in answer.text


async def test_unknown_query_parameters_are_ignored(api: RunningApi, endpoint_id: str) -> None:
    assert (await _page(api, endpoint_id, "?other=1&other=2&nocache=7&%ff=%ff"))["page"] == 1


@pytest.mark.parametrize("name", ["state", "sate", "created", "fairnessKey"])
async def test_counts_refuse_the_filters_of_lists(api: RunningApi, endpoint_id: str, name: str) -> None:
    path = f"/v2/serverless/{endpoint_id}/tasks/count"
    answer = await api.client.get(path, params={name: "failed"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"].startswith(f"{name}: is not a parameter of this request, which counts all tasks; ")
    assert (await api.client.get(path, params={"other": "1"})).status_code == 200


# Helpers


async def _page(api: RunningApi, endpoint_id: str, query: str = "") -> dict[str, Any]:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks{query}")
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def _counts(api: RunningApi, endpoint_id: str) -> dict[str, int]:
    data: dict[str, int] = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count")).json()["data"]
    return data


async def _end(api: RunningApi, endpoint_id: str, outcome: Outcome) -> None:
    """Run the next task as an agent would."""
    claims = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=30_000)
    (entry,) = await claims.claim(1, block_ms=1000)
    started = await claims.start(entry, address="127.0.0.1:8000")
    assert started is not None
    settled = await claims.settle(started.lease, outcome)
    assert settled.word == "OK"


async def _deliver(api: RunningApi, answer: WebhookResponse, verdict: Verdict) -> None:
    """Send the next delivery as a delivery process would."""
    outbox = api.store.outbox()
    await outbox.make_groups()
    (entry,) = await outbox.read(1, block_ms=1000)
    assert await outbox.open(entry) is not None
    assert (await outbox.settle(entry, answer, verdict, at_ms=5)).accepted
