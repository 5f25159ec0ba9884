"""A client submits a task that begins later."""

from typing import Any

import pytest

from tests.api_server import RunningApi

HOUR_MS = 3_600_000
MUST_BE_A_TIME = "runAt: must be epoch milliseconds, or a time with its offset such as 2026-01-31T12:00:00Z"


async def task_of(api: RunningApi, endpoint_id: str, task_id: str = "t1") -> dict[str, Any]:
    data: dict[str, Any] = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")).json()["data"]
    return data


async def test_a_task_with_a_delay_is_scheduled(api: RunningApi, endpoint_id: str) -> None:
    answer = await api.submit(endpoint_id, taskId="t1", delaySeconds=3600.5)
    assert answer.status_code == 200, answer.text
    task = await task_of(api, endpoint_id)
    assert (task["status"], task["state"]) == ("PROCESSING", "scheduled")
    assert task["runAt"] == task["createdAt"] + HOUR_MS + 500
    counts = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count")).json()["data"]
    assert (counts["scheduled"], counts["queued"]) == (1, 0)
    listed = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks")).json()["data"]["items"]
    assert [one["runAt"] for one in listed] == [task["runAt"]]


@pytest.mark.parametrize("spelling", ["2030-01-31T12:00:00.0071Z", "2030-01-31t13:00:00.0071+01:00"])
async def test_a_time_is_a_text_with_an_offset(api: RunningApi, endpoint_id: str, spelling: str) -> None:
    answer = await api.submit(endpoint_id, taskId="t1", runAt=spelling)
    assert (answer.status_code, answer.json()["message"]) == (400, "runAt: must be at most 30 days ahead")
    assert await api.store.tasks.brief(endpoint_id, "t1") is None


async def test_a_time_is_a_number_of_milliseconds(api: RunningApi, endpoint_id: str) -> None:
    run_at = await api.store.now_ms() + HOUR_MS
    assert (await api.submit(endpoint_id, taskId="t1", runAt=run_at)).status_code == 200
    assert (await task_of(api, endpoint_id))["runAt"] == run_at


@pytest.mark.parametrize("field", [{"delaySeconds": 0}, {"runAt": 1}, {"runAt": "2020-01-31T12:00:00Z"}])
async def test_a_time_in_the_past_is_now(api: RunningApi, endpoint_id: str, field: dict[str, Any]) -> None:
    assert (await api.submit(endpoint_id, taskId="t1", **field)).status_code == 200
    task = await task_of(api, endpoint_id)
    assert (task["state"], task["runAt"]) == ("queued", None)


async def test_a_time_is_part_of_the_request_only_when_given(api: RunningApi, endpoint_id: str) -> None:
    run_at = await api.store.now_ms() + HOUR_MS
    assert (await api.submit(endpoint_id, taskId="plain")).status_code == 200
    assert (await api.submit(endpoint_id, taskId="plain", delaySeconds=None, runAt=None)).status_code == 200
    assert (await api.submit(endpoint_id, taskId="plain", delaySeconds=5)).status_code == 409
    for _ in range(2):
        assert (await api.submit(endpoint_id, taskId="later", delaySeconds=60)).status_code == 200
        assert (await api.submit(endpoint_id, taskId="at", runAt=run_at)).status_code == 200
    assert (await api.submit(endpoint_id, taskId="later", delaySeconds=61)).status_code == 409
    assert (await api.submit(endpoint_id, taskId="at", runAt=run_at + 1)).status_code == 409


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delaySeconds": -1}, "delaySeconds: must be at least 0"),
        ({"delaySeconds": 2_592_001}, "delaySeconds: must be at most 2592000"),
        ({"delaySeconds": "60"}, "delaySeconds: must be a number"),
        ({"delaySeconds": True}, "delaySeconds: must be a number"),
        ({"delaySeconds": 1, "runAt": 1}, "runAt: must not be given together with delaySeconds"),
        ({"delaySeconds": 0, "runAt": 1}, "runAt: must not be given together with delaySeconds"),
        ({"runAt": -1}, "runAt: must be at least 0"),
        ({"runAt": 2**53}, f"runAt: must be at most {2**53 - 1}"),
        ({"runAt": 2**53 - 1}, "runAt: must be at most 30 days ahead"),
        ({"runAt": 1_800_000_000}, "runAt: must be in milliseconds; it looks like seconds"),
        ({"runAt": 1.5}, MUST_BE_A_TIME),
        ({"runAt": True}, MUST_BE_A_TIME),
        ({"runAt": []}, MUST_BE_A_TIME),
        ({"runAt": ""}, MUST_BE_A_TIME),
        ({"runAt": "tomorrow"}, MUST_BE_A_TIME),
        ({"runAt": "2030-01-31T12:00:00"}, MUST_BE_A_TIME),
        ({"runAt": "2030-01-31"}, MUST_BE_A_TIME),
        ({"runAt": "2030-02-31T12:00:00Z"}, MUST_BE_A_TIME),
        ({"runAt": "2030-01-31T12:00:00+25:00"}, MUST_BE_A_TIME),
        ({"runAt": "0001-01-01T00:00:00+14:00"}, "runAt: must be at least 0"),
        ({"runAt": "2030-01-31T12:00:00Z" + "0" * 1000}, MUST_BE_A_TIME),
    ],
)
async def test_a_wrong_time_is_refused_and_changes_nothing(
    api: RunningApi, endpoint_id: str, fields: dict[str, Any], message: str
) -> None:
    before = await api.keys_stored()
    answer = await api.submit(endpoint_id, taskId="t1", **fields)
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    assert await api.keys_stored() == before
