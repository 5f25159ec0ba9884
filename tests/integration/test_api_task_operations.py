"""The routes of bulk operations: begin, read, list and cancel them; wrong requests; and the audit log."""

from typing import Any

import httpx
import pytest

from queue_engine.controller.operations import Operations
from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Failed
from queue_engine.domain.tenants import Limit
from queue_engine.store.constants import MAX_RUNNING_OPERATIONS
from tests.api_server import RunningApi
from tests.waiting import wait_until_async

NOT_FOUND = {"message": "operation not found", "code": 10007, "data": None}


class Bulk:
    """The operations of an endpoint, with a controller that is called by hand."""

    def __init__(self, api: RunningApi, endpoint_id: str) -> None:
        self.api = api
        self.endpoint_id = endpoint_id
        self.path = f"/v2/serverless/{endpoint_id}/operations"
        self.controller = Operations(api.store)

    async def submit(self, *task_ids: str) -> None:
        for task_id in task_ids:
            assert (await self.api.submit(self.endpoint_id, taskId=task_id)).status_code == 200

    async def fail(self, *task_ids: str, error: str = "no") -> None:
        await self.submit(*task_ids)
        agent = self.api.store.queue(endpoint_id=self.endpoint_id, worker_id="w1", lease_ms=30_000)
        for _ in task_ids:
            (entry,) = await agent.claim(1, block_ms=1000)
            started = await agent.start(entry, address="127.0.0.1:8000")
            assert started is not None
            await agent.settle(started.lease, Failed(error))

    async def ask(self, method: str, rest: str = "", body: object = None) -> httpx.Response:
        return await self.api.client.request(method, self.path + rest, json=body)

    async def data(self, method: str, rest: str = "", body: object = None) -> Any:
        answer = await self.ask(method, rest, body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def run(self) -> None:
        """Advance all operations to their end."""
        while await self.controller.step():
            pass

    async def states(self) -> dict[str, str]:
        answer = await self.api.client.get(f"/v2/serverless/{self.endpoint_id}/tasks?pageSize=1000")
        return {task["taskId"]: task["state"] for task in answer.json()["data"]["items"]}


@pytest.fixture
async def bulk(api: RunningApi, endpoint_id: str) -> Bulk:
    return Bulk(api, endpoint_id)


async def test_tasks_that_match_are_changed_in_the_background(bulk: Bulk) -> None:
    await bulk.fail("a", "b", error="CUDA out of memory")
    await bulk.fail("c", error="bad input")
    body = {"action": "retry", "filter": {"state": "failed", "errorContains": "memory"}, "operationId": "op_1"}
    began = await bulk.data("POST", body=body)
    assert began == {
        "operationId": "op_1", "endpointId": int(bulk.endpoint_id), "action": "retry", "dryRun": False,
        "filter": {"state": ["failed"], "errorContains": "memory"}, "status": "running", "progress": 0.0, "total": 3,
        "scanned": 0, "givenTasks": None,
        "unknownTasks": [], "matched": 0, "done": 0, "skipped": 0, "skipReasons": {}, "failed": 0, "error": None,
        "startedAt": began["startedAt"], "updatedAt": began["startedAt"], "endedAt": None,
    }  # fmt: skip
    await bulk.run()
    ended = await bulk.data("GET", "/op_1")
    assert (ended["status"], ended["progress"], ended["matched"], ended["done"]) == ("done", 1.0, 2, 2)
    assert ended["endedAt"] >= ended["startedAt"]
    assert await bulk.states() == {"a": "queued", "b": "queued", "c": "failed"}
    assert await bulk.data("POST", body=body) == ended


async def test_given_tasks_are_deleted_and_others_are_skipped_with_a_reason(bulk: Bulk) -> None:
    await bulk.fail("a", "b")
    await bulk.submit("waits")
    began = await bulk.data("POST", body={"action": "delete", "taskIds": ["a", "waits", "none", "a"]})
    assert (began["filter"], began["total"], began["givenTasks"], began["unknownTasks"]) == (None, 3, 3, [])
    await bulk.run()
    ended = await bulk.data("GET", f"/{began['operationId']}")
    assert (ended["matched"], ended["done"], ended["skipped"], ended["failed"]) == (2, 1, 2, 0)
    assert (ended["givenTasks"], ended["unknownTasks"]) == (3, ["none"])
    assert ended["skipReasons"] == {"notFound": 1, "notEnded": 1}
    assert await bulk.states() == {"b": "failed", "waits": "queued"}


async def test_a_dry_run_counts_and_is_not_in_the_audit_log(bulk: Bulk) -> None:
    await bulk.submit("a", "b")
    began = await bulk.data("POST", body={"action": "cancel", "filter": {"state": "queued"}, "dryRun": True})
    await bulk.run()
    ended = await bulk.data("GET", f"/{began['operationId']}")
    assert (ended["dryRun"], ended["matched"], ended["done"]) == (True, 2, 2)
    assert await bulk.states() == {"a": "queued", "b": "queued"}
    assert await _records(bulk) == []


async def test_a_cancelled_operation_changes_nothing_further(bulk: Bulk) -> None:
    await bulk.submit("a")
    await bulk.data("POST", body={"action": "cancel", "filter": {"state": "queued"}, "operationId": "op"})
    cancelled = await bulk.data("POST", "/op/cancel")
    assert (cancelled["status"], cancelled["done"]) == ("cancelled", 0)
    await bulk.run()
    assert await bulk.states() == {"a": "queued"}
    assert await bulk.data("POST", "/op/cancel") == cancelled


async def _records(bulk: Bulk) -> list[tuple[str, str]]:
    items = (await bulk.api.client.get("/v2/audit")).json()["data"]["items"]
    return [(one["action"], one["target"]) for one in items if "operation" in one["action"]]


async def test_the_audit_log_has_filter_and_count(bulk: Bulk) -> None:
    await bulk.submit("a", "b")
    body = {"action": "cancel", "filter": {"state": "queued"}, "operationId": "op"}
    for _ in range(2):  # a repeated request is recorded once
        await bulk.data("POST", body=body)
    await bulk.run()
    await bulk.data("POST", body=body | {"operationId": "op2"})
    await bulk.data("POST", "/op2/cancel")
    where = f"endpoint {bulk.endpoint_id}, operation"
    order = 'cancel tasks by {"state": ["queued"]}'
    assert await _records(bulk) == [
        ("cancel_operation", f"{where} op2: cancel cancelled: 0 of 0 tasks changed"),
        ("start_operation", f"{where} op2: {order}"),
        ("end_operation", f"{where} op: cancel done: 2 of 2 tasks changed"),
        ("start_operation", f"{where} op: {order}"),
    ]


async def test_operations_are_listed_by_endpoint_and_by_tenant(bulk: Bulk) -> None:
    for number in range(3):
        body = {"action": "cancel", "taskIds": ["a"], "operationId": f"op{number}"}
        await bulk.data("POST", body=body)
    listed = await bulk.data("GET", "?pageSize=2")
    assert (listed["total"], listed["pages"], len(listed["items"])) == (3, 2, 2)
    everywhere = (await bulk.api.client.get("/v2/operations?pageSize=10")).json()["data"]
    assert {one["operationId"] for one in everywhere["items"]} == {"op0", "op1", "op2"}
    assert {one["endpointId"] for one in everywhere["items"]} == {int(bulk.endpoint_id)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "stop"}, "action: must be 'cancel', 'retry', 'delete' or 'redeliver'"),
        ({"action": None}, "action: is required"),
        ({"filter": None}, "filter: is required without taskIds"),
        ({"filter": {}}, "filter: must have at least one filter"),
        ({"filter": []}, "filter: must be an object"),
        ({"filter": {"colour": "red"}}, "filter.colour: is not a filter"),
        ({"filter": {"state": "red"}}, "filter.state: must be one or more of"),
        ({"filter": {"createdAfter": True}}, "filter.createdAfter: must be"),
        (
            {"action": "retry", "filter": {"state": ["queued", "running"], "tag": "a"}},
            "filter.state: retry can only change tasks in the states succeeded, failed, cancelled, expired, timed_out, "
            "dead",
        ),
        ({"action": "delete", "filter": {"status": "PROCESSING"}}, "filter.status: delete can only change tasks in"),
        (
            {"filter": {"state": "dead"}, "dryRun": True},
            "filter.state: cancel can only change tasks in the states scheduled, queued, running",
        ),
        ({"filter": {"errorContains": "x"}}, "filter.errorContains: cancel can only change tasks in the states"),
        (
            {"action": "retry", "filter": {"state": "failed", "status": "SUCCESS"}},
            "filter: no task can match all of these filters",
        ),
        ({"taskIds": ["a"]}, "taskIds: must not be given together with filter"),
        ({"filter": None, "taskIds": []}, "taskIds: must have 1 items or more"),
        ({"filter": None, "taskIds": ["a-b"]}, "taskIds[0]: must be 1–255 of letters, digits and _"),
        ({"filter": None, "taskIds": ["a"] * 10_001}, "taskIds: must have 10000 items or fewer"),
        ({"filter": None, "taskIds": [[]] * 10_001}, "taskIds: must have at most 20000 values"),
        ({"filter": None, "taskIds": "a"}, "taskIds: must be an array"),
        (
            {"dryrun": True},
            "dryrun: is not a member of this request; it has action, dryRun, filter, operationId, taskIds",
        ),
        ({"\n" + "x" * 99: None}, "\\n" + "x" * 63 + ": is not a member of this request; it has"),
        ({"dryRun": "yes"}, "dryRun: must be true or false"),
        ({"operationId": "a-b"}, "operationId: must be 1 to 64 characters of A-Z, a-z, 0-9 and _"),
        ({"operationId": "a" * 65}, "operationId: must be 1 to 64 characters of A-Z, a-z, 0-9 and _"),
    ],
)
async def test_a_wrong_request_names_the_field_and_begins_nothing(
    bulk: Bulk, changes: dict[str, Any], message: str
) -> None:
    answer = await bulk.ask("POST", body={"action": "cancel", "filter": {"state": "queued"}} | changes)
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(message)
    assert (await bulk.data("GET"))["total"] == 0


async def test_an_id_with_a_lone_surrogate_is_refused(bulk: Bulk) -> None:
    body = {"action": "cancel", "taskIds": ["\ud800"]}
    answer = await bulk.api.post(f"/v2/serverless/{bulk.endpoint_id}/operations", body)
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"] == "taskIds[0]: must be 1–255 of letters, digits and _"


async def test_another_request_with_the_same_id_is_a_conflict(bulk: Bulk) -> None:
    body = {"action": "cancel", "filter": {"idPrefix": "a"}, "operationId": "op"}
    await bulk.data("POST", body=body)
    answer = await bulk.ask("POST", body=body | {"action": "delete"})
    assert (answer.status_code, answer.json()["message"]) == (409, "operationId: another operation has this id")


async def test_too_many_operations_are_a_conflict(bulk: Bulk) -> None:
    body = {"action": "cancel", "filter": {"state": "queued"}}
    for _ in range(MAX_RUNNING_OPERATIONS):
        await bulk.data("POST", body=body)
    answer = await bulk.ask("POST", body=body)
    assert (answer.status_code, answer.json()["code"]) == (409, 12001)
    assert answer.json()["message"].startswith("action: 4 operations of the endpoint run")


async def test_a_retry_of_a_stopped_endpoint_is_refused(bulk: Bulk) -> None:
    await bulk.fail("a")
    assert (await bulk.api.client.post(f"/v2/serverless/{bulk.endpoint_id}/stop")).status_code == 200
    answer = await bulk.ask("POST", body={"action": "retry", "filter": {"state": "failed"}})
    assert (answer.status_code, answer.json()["code"]) == (409, 24000)
    assert answer.json()["message"] == "the endpoint is stopped and takes no tasks"


async def test_given_ids_count_as_stored_bytes_while_the_operation_runs(bulk: Bulk) -> None:
    await bulk.submit("a")
    tenants, usage = bulk.api.store.tenants, bulk.api.store.usage

    async def is_full() -> bool:
        return (await bulk.api.submit(bulk.endpoint_id)).status_code == 429

    before = (await usage.of("default")).stored_bytes
    body = {"action": "cancel", "taskIds": [f"{number:0>200}" for number in range(1000)], "operationId": "op"}
    await bulk.data("POST", body=body)
    assert (await usage.of("default")).stored_bytes - before > 200_000
    assert await tenants.set_limits("default", {Limit.STORED_BYTES: 100_000})
    await wait_until_async(is_full, message="a tenant over its quota may submit")
    answer = await bulk.ask("POST", body=body | {"operationId": "more"})
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert "storedBytes" in answer.json()["message"]
    assert (await bulk.data("POST", body=body))["operationId"] == "op"
    assert (await bulk.data("POST", body={"action": "cancel", "filter": {"idPrefix": "b"}}))["status"] == "running"
    await bulk.run()
    assert (await usage.of("default")).stored_bytes - before < 100_000


async def test_only_an_admin_deletes_tasks(bulk: Bulk) -> None:
    key = await bulk.api.new_key("default", role=Role.OPERATE)
    headers = {"X-Api-Key": key}
    for action, status in (("delete", 403), ("cancel", 200)):
        body = {"action": action, "taskIds": ["a"], "operationId": action}
        async with httpx.AsyncClient(base_url=bulk.api.url, headers=headers) as client:
            assert (await client.post(bulk.path, json=body)).status_code == status
    await bulk.data("POST", body={"action": "delete", "taskIds": ["a"], "operationId": "delete"})
    async with httpx.AsyncClient(base_url=bulk.api.url, headers=headers) as client:
        assert (await client.post(f"{bulk.path}/delete/cancel")).status_code == 403
        assert (await client.post(f"{bulk.path}/cancel/cancel")).status_code == 200


async def test_a_limited_key_sees_the_operations_of_its_endpoints(bulk: Bulk) -> None:
    other = Bulk(bulk.api, await bulk.api.create_endpoint())
    for one in (bulk, other):
        await one.data("POST", body={"action": "cancel", "taskIds": ["a"], "operationId": "op"})
    key = await bulk.api.new_key("default", role=Role.READ, endpoints=frozenset({other.endpoint_id}))
    async with httpx.AsyncClient(base_url=bulk.api.url, headers={"X-Api-Key": key}) as client:
        found = (await client.get("/v2/operations")).json()["data"]
    assert [str(one["endpointId"]) for one in found["items"]] == [other.endpoint_id]
    assert found["total"] == 1


@pytest.mark.parametrize("name", ["none", "a-b", "a" * 65])
async def test_an_unknown_operation_is_not_found(bulk: Bulk, name: str) -> None:
    for method, rest in (("GET", f"/{name}"), ("POST", f"/{name}/cancel")):
        answer = await bulk.ask(method, rest)
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
