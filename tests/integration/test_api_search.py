"""Find endpoints by name, and tasks by id over all endpoints."""

from typing import Any

import pytest

from queue_engine.domain.principals import Role
from tests.api_server import TASK, RunningApi


async def found(api: RunningApi, text: str, key: str | None = None) -> Any:
    headers = {} if key is None else {"X-Api-Key": key}
    answer = await api.client.get("/v2/search", params={"q": text}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def ids_of(data: Any) -> tuple[list[str], list[tuple[int, str]]]:
    return [one["id"] for one in data["endpoints"]], [(one["endpointId"], one["taskId"]) for one in data["tasks"]]


async def test_a_task_is_found_in_every_endpoint_that_has_it(api: RunningApi) -> None:
    one, two, other = [await api.create_endpoint(name=name) for name in ("Whisper-Large", "whisper-small", "echo")]
    for endpoint_id in (one, two):
        await api.submit(endpoint_id, taskId="call_1")
    data = await found(api, "call_1")
    assert ids_of(data) == ([], [(int(two), "call_1"), (int(one), "call_1")])
    assert (data["searched"], data["complete"]) == (3, True)
    assert ids_of(await found(api, "whisper")) == ([two, one], [])
    assert ids_of(await found(api, other)) == ([other], [])
    assert ids_of(await found(api, "call-1")) == ([], [])


async def test_a_key_finds_only_what_it_sees(api: RunningApi) -> None:
    one, two = await api.create_endpoint(name="one"), await api.create_endpoint(name="two")
    for endpoint_id in (one, two):
        await api.submit(endpoint_id, taskId="call_1")
    limited = await api.new_key("default", endpoints=frozenset({two}))
    assert ids_of(await found(api, "call_1", limited)) == ([], [(int(two), "call_1")])
    assert ids_of(await found(api, "one", limited)) == ([], [])
    assert ids_of(await found(api, "call_1", await api.new_key("other"))) == ([], [])
    submitter = await api.new_key("default", role=Role.SUBMIT)
    own = {**TASK, "taskId": "own"}
    await api.client.post(f"/v2/serverless/{one}/tasks", json=own, headers={"X-Api-Key": submitter})
    assert ids_of(await found(api, "own", submitter)) == ([], [(int(one), "own")])
    assert ids_of(await found(api, "call_1", submitter)) == ([], [])
    assert ids_of(await found(api, "one", submitter)) == ([], [])


@pytest.mark.parametrize("query", ["", "q=", f"q={'x' * 256}", "q=a&q=b"])
async def test_a_wrong_text_is_refused(api: RunningApi, query: str) -> None:
    answer = await api.client.get(f"/v2/search?{query}")
    assert (answer.status_code, answer.json()["message"].partition(":")[0]) == (400, "q")
