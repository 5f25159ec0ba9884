"""A copy of a task has all of the original, and its secrets reach no receiver that they were not submitted for."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from queue_engine.crypto.sealing import new_secret_key
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Task, TaskSpec
from tests.api_server import RunningApi, running_api

WEBHOOK = "http://a.example/x"
SECRETS = {"webhook": WEBHOOK, "webhookAuthKey": "a long random word", "headers": {"Authorization": "Bearer secret"}}
EVERYTHING: dict[str, Any] = {
    **SECRETS,
    "workerPort": 8001,
    "processUri": "/summarize",
    "metadata": {"order": "4711"},
    "tags": ["night"],
    "executionTimeoutSeconds": 77,
    "queueTtlSeconds": 3600,
    "priority": "high",
    "fairnessKey": "customer-7",
}


async def clone(api: RunningApi, endpoint_id: str, changes: dict[str, Any], task_id: str = "a") -> httpx.Response:
    return await api.post(f"/v2/serverless/{endpoint_id}/tasks/{task_id}/clone", changes)


async def copy(api: RunningApi, endpoint_id: str, **changes: Any) -> Task:
    """Return the copy of the task `a`, with its secrets."""
    answer = await clone(api, endpoint_id, changes)
    assert answer.status_code == 200, answer.text
    return await read(api, endpoint_id, answer.json()["data"]["taskId"])


async def read(api: RunningApi, endpoint_id: str, task_id: str) -> Task:
    task = await api.store.tasks.original(endpoint_id, task_id)
    assert task is not None
    return task


async def input_of(api: RunningApi, task: Task) -> bytes:
    return bytes(await api.engine.clones.input_of(task))


def given(spec: TaskSpec) -> dict[str, Any]:
    return spec.__dict__ | {"traceparent": None}


async def test_a_copy_has_all_of_the_original_and_an_id_of_its_own(api: RunningApi, endpoint_id: str) -> None:
    body = '{"taskId": "a", "workerPort": 8001, "processUri": "/run", "input": {"n": 18446744073709551615,  "x": 1.50}}'
    path = f"/v2/serverless/{endpoint_id}/tasks"
    await api.client.post(path, content=body, headers={"Content-Type": "application/json"})
    plain = await copy(api, endpoint_id)
    assert await input_of(api, plain) == b'{"n": 18446744073709551615,  "x": 1.50}'
    assert plain.task_id != "a"
    await api.store.tasks.cancel(endpoint_id, "a")
    await api.store.tasks.delete(endpoint_id, "a")
    await api.submit(endpoint_id, taskId="a", **EVERYTHING)
    first, second = await read(api, endpoint_id, "a"), await copy(api, endpoint_id)
    assert given(second.spec) == given(first.spec)
    assert second.spec.headers == SECRETS["headers"]
    assert second.spec.webhook_auth_key == SECRETS["webhookAuthKey"]
    for name in ("timeout_seconds", "queue_ttl_seconds", "priority", "fairness_key"):
        assert getattr(second, name) == getattr(first, name)
    assert (await read(api, endpoint_id, "a")).state == first.state


async def test_given_fields_replace_those_of_the_original_and_null_leaves_them_out(
    api: RunningApi, endpoint_id: str
) -> None:
    await api.submit(endpoint_id, taskId="a", **EVERYTHING)
    changed = await copy(api, endpoint_id, input=[1], tags=["day"], metadata=None, priority=None, fairnessKey=None)
    assert await input_of(api, changed) == b"[1]"
    assert (changed.spec.tags, changed.spec.metadata, changed.fairness_key) == (["day"], {}, None)
    assert changed.priority == "normal"
    silent = await copy(api, endpoint_id, webhook=None)
    assert (silent.spec.webhook, silent.spec.webhook_auth_key, silent.spec.webhook_destination) == (None, None, None)
    assert silent.spec.headers == SECRETS["headers"]


@pytest.mark.parametrize("webhook", ["http://a.example/y", "http://a.example:81/x", "http://b.example/x", None])
async def test_the_key_of_a_webhook_goes_to_no_other_webhook(
    api: RunningApi, endpoint_id: str, webhook: str | None
) -> None:
    await api.submit(endpoint_id, taskId="a", **SECRETS)
    assert (await copy(api, endpoint_id, webhook=webhook)).spec.webhook_auth_key is None
    assert (await copy(api, endpoint_id, webhook=webhook, webhookAuthKey="mine")).spec.webhook_auth_key == "mine"
    assert (await copy(api, endpoint_id, webhook=WEBHOOK)).spec.webhook_auth_key == SECRETS["webhookAuthKey"]


@pytest.mark.parametrize("other", [{"workerPort": 9}, {"processUri": "/echo"}])
async def test_headers_go_to_no_other_path_and_port(api: RunningApi, endpoint_id: str, other: dict[str, Any]) -> None:
    await api.submit(endpoint_id, taskId="a", **SECRETS)
    moved = await copy(api, endpoint_id, **other)
    assert moved.spec.headers == {}
    assert moved.spec.webhook_auth_key == SECRETS["webhookAuthKey"]
    assert (await copy(api, endpoint_id, **other, headers={"X-Own": "1"})).spec.headers == {"X-Own": "1"}


async def test_a_secret_that_cannot_be_opened_is_told_and_nothing_is_copied(
    api: RunningApi, endpoint_id: str, valkey_url: str
) -> None:
    await api.submit(endpoint_id, taskId="a", **SECRETS)
    async with running_api(valkey_url, secret_key=SecretStr(new_secret_key())) as other:
        answer = await clone(other, endpoint_id, {})
        assert (answer.status_code, answer.json()["code"]) == (409, 12001)
        assert "the headers or the webhook key of the task are not copied" in answer.json()["message"]
        assert "secret" not in answer.json()["message"].replace("a stored secret", "")
        assert (await clone(other, endpoint_id, {}, "none")).status_code == 404
    assert (await api.store.tasks.page(endpoint_id, None, page=1, size=9)).total == 1


async def test_a_submit_key_copies_only_its_own_tasks(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", **SECRETS)
    key = await api.new_key("default", role=Role.SUBMIT)
    api.client.headers["X-Api-Key"] = key
    assert (await clone(api, endpoint_id, {})).status_code == 404
    await api.submit(endpoint_id, taskId="own")
    answer = await clone(api, endpoint_id, {"taskId": "copy"}, "own")
    assert answer.status_code == 200
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/copy")).status_code == 200
    api.client.headers["X-Api-Key"] = await api.new_key("default", role=Role.READ)
    assert (await clone(api, endpoint_id, {})).status_code == 403
    api.client.headers["X-Api-Key"] = await api.new_key("others")
    assert (await clone(api, endpoint_id, {})).status_code == 404


async def test_a_repeated_request_copies_once(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", **EVERYTHING)
    answers = [await clone(api, endpoint_id, {"taskId": "b", "input": 1}) for _ in range(3)]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].json()["data"] == {"taskId": "b"}
    assert (await clone(api, endpoint_id, {"taskId": "b", "input": 2})).json()["code"] == 12001
    assert (await api.store.tasks.page(endpoint_id, None, page=1, size=9)).total == 2


@pytest.mark.parametrize("changes", [{}, {"input": 2}])
async def test_a_copy_cannot_have_the_id_of_its_original(
    api: RunningApi, endpoint_id: str, changes: dict[str, Any]
) -> None:
    await api.submit(endpoint_id, taskId="a")
    answer = await clone(api, endpoint_id, {"taskId": "a", **changes})
    assert (answer.status_code, answer.json()["message"]) == (400, "taskId: must not be that of the original")
    assert (await api.store.tasks.page(endpoint_id, None, page=1, size=9)).total == 1


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("webhok", "webhook"),
        ("Webhook", "webhook"),
        ("inputt", "input"),
        ("web", "webhook"),
        ("task_id", "taskId"),
        ("webhookAuth", "webhookAuthKey"),
    ],
)
async def test_a_mistyped_change_is_refused_because_the_result_would_go_to_the_webhook_of_the_original(
    api: RunningApi, endpoint_id: str, mistyped: str, meant: str
) -> None:
    await api.submit(endpoint_id, taskId="a", **SECRETS)
    answer = await clone(api, endpoint_id, {mistyped: None})
    message = f"{mistyped}: is not a field of this request; did you mean {meant}?"
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    assert (await api.store.tasks.page(endpoint_id, None, page=1, size=9)).total == 1
    assert (await clone(api, endpoint_id, {"other": None})).status_code == 200


async def test_a_long_input_is_copied_byte_for_byte(api: RunningApi, endpoint_id: str) -> None:
    text = "x" * 1_040_000
    await api.submit(endpoint_id, taskId="a", input=text, **SECRETS)
    long = await copy(api, endpoint_id)
    assert await input_of(api, long) == b'"%b"' % text.encode()


async def test_the_limits_of_submissions_apply(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxQueuedTasks=2)
    await api.submit(endpoint_id, taskId="a")
    assert (await clone(api, endpoint_id, {})).status_code == 200
    assert (await clone(api, endpoint_id, {})).status_code == 429
    await api.store.endpoints.set_desired_state(endpoint_id, "default", DesiredState.STOPPED)
    assert (await clone(api, endpoint_id, {})).status_code == 409


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workerPort": None}, "workerPort: must be an integer"),
        ({"input": None}, "input: must not be null"),
        ({"taskId": "a b"}, "taskId: must be 1–255 of letters, digits and _"),
        ({"webhook": "ftp://x"}, "webhook: must be an absolute http or https URL"),
        ({"webhook": "http://127.0.0.1/x"}, "webhook: "),
        ({"delaySeconds": 1, "runAt": 0}, "runAt: must not be given together with delaySeconds"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_copied(
    api: RunningApi, endpoint_id: str, changes: dict[str, Any], message: str
) -> None:
    await api.submit(endpoint_id, taskId="a")
    answer = await clone(api, endpoint_id, changes)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["message"]
    assert (await api.store.tasks.page(endpoint_id, None, page=1, size=9)).total == 1
