"""Groups of errors over HTTP."""

from typing import Any

import pytest

from queue_engine.domain.tasks import Failed
from tests.api_server import RunningApi
from tests.integration.test_api_task_lists import end_next, submit_many


async def groups_of(api: RunningApi, endpoint_id: str, **query: Any) -> Any:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/errors", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_failures_are_grouped_and_their_tasks_are_found(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await submit_many(api, endpoint_id, 4)
    for error in ("HTTP 500: no model 1", "HTTP 500: no model 22", "out of memory"):
        await end_next(api, endpoint_id, Failed(error))
    found = await groups_of(api, endpoint_id)
    assert [(one["signature"], one["count"], one["taskIds"]) for one in found["groups"]] == [
        ("HTTP 500: no model #", 2, ["t1", "t0"]),
        ("out of memory", 1, ["t2"]),
    ]
    assert (found["lookedAt"], found["failures"], found["complete"], found["others"]) == (3, 3, True, 0)
    group = found["groups"][0]
    assert (group["error"], group["states"], sum(group["overTime"])) == ("HTTP 500: no model 22", {"failed": 2}, 2)
    listed = await api.client.get(
        f"/v2/serverless/{endpoint_id}/tasks", params={"errorSignature": group["signature"], "cursor": ""}
    )
    assert {one["taskId"] for one in listed.json()["data"]["items"]} == {"t0", "t1"}
    assert (await groups_of(api, endpoint_id, to=group["firstAt"]))["groups"] == []
    assert (await groups_of(api, endpoint_id, **{"from": group["lastAt"] + 60_000}))["groups"] == []


async def test_an_endpoint_without_failures_has_no_groups(api: RunningApi) -> None:
    found = await groups_of(api, await api.create_endpoint())
    assert (found["groups"], found["lookedAt"], found["complete"]) == ([], 0, True)


async def test_groups_of_an_endpoint_of_others_are_not_found(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await groups_of(api, endpoint_id)  # kept for some seconds
    other = {"X-Api-Key": await api.new_key("other")}
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/errors", headers=other)).status_code == 404


@pytest.mark.parametrize(("query", "name"), [("from=x", "from"), ("to=x", "to"), ("from=7&to=7", "from")])
async def test_a_wrong_period_is_refused(api: RunningApi, query: str, name: str) -> None:
    answer = await api.client.get(f"/v2/serverless/{await api.create_endpoint()}/errors?{query}")
    assert (answer.status_code, answer.json()["message"].partition(":")[0]) == (400, name)
