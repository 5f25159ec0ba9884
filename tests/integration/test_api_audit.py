"""`/v2/audit`: each change except submissions, and never a secret."""

import logging
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from queue_engine.domain.audit import Action
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import hash_of
from queue_engine.store.audit import AuditStore
from queue_engine.store.deliveries import DeliveryStore
from queue_engine.store.endpoints import EndpointStore, StateChange
from queue_engine.store.recoveries import RecoveryStore
from queue_engine.store.redis.client import NotDurable
from tests.api_server import ENDPOINT, RunningApi
from tests.integration.test_api_deliveries import BROKEN, GONE, Results
from tests.waiting import wait_until_async

CREDENTIAL = {"name": "ours", "type": "GCR", "username": "robot", "password": "canary-password"}


async def audit_of(api: RunningApi, key: str | None = None, **query: str | int) -> dict[str, Any]:
    answer = await api.client.get("/v2/audit", params=query, headers={"X-Api-Key": key or api.key})
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()["data"]
    return page


async def changes(api: RunningApi) -> list[tuple[str, str]]:
    """Return action and target of all records, oldest first."""
    return [(one["action"], one["target"]) for one in reversed((await audit_of(api))["items"])]


async def test_every_change_but_submissions_is_recorded_once(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(environmentVars=[{"key": "A", "value": "canary-variable"}])
    base = f"/v2/serverless/{endpoint_id}"
    credential = (await api.post("/v2/container-registry-auths", CREDENTIAL)).json()["data"]["id"]
    key = (await api.post("/v2/keys", {"name": "dashboard", "role": "read"})).json()["data"]
    rotated = (await api.client.post(f"/v2/keys/{key['id']}/rotate")).json()["data"]
    token = (await api.post(f"{base}/agent-tokens", {"name": "office"})).json()["data"]
    results = Results(api, endpoint_id)
    await results.give_up("b")
    await results.data("POST", "/tasks/b/deliveries/retry")
    await results.deliver()
    await results.data("POST", "/tasks/b/deliveries/redeliver")
    await results.deliver(BROKEN, GONE)
    await results.data("POST", "/deliveries/recover", {"since": 0})
    for _ in range(2):
        await results.data("DELETE", "/deliveries/recover")
    await api.submit(endpoint_id, taskId="a", headers={"X-Secret": "canary-header"})
    orders: list[tuple[str, str, dict[str, Any] | None]] = [
        ("PATCH", base, {"environmentVars": [{"key": "A", "value": "canary-new"}]}),
        ("PUT", f"{base}/workers?count=2", None),
        ("PUT", f"{base}/workers/3", None),
        ("POST", f"{base}/stop", None),
        ("POST", f"{base}/start", None),
        ("POST", f"{base}/pause", None),
        ("POST", f"{base}/resume", None),
        ("POST", f"{base}/webhook-secret/rotate", None),
        ("POST", f"{base}/tasks/a/cancel", None),
        ("POST", f"{base}/tasks/a/retry", None),
        ("POST", f"{base}/tasks/a/cancel", None),
        ("DELETE", f"{base}/tasks/a", None),
        ("PATCH", f"/v2/container-registry-auths/{credential}", {"password": "canary-new"}),
        ("DELETE", f"/v2/container-registry-auths/{credential}", None),
        ("DELETE", f"/v2/keys/{rotated['id']}", None),
        ("DELETE", f"{base}/agent-tokens/{token['id']}", None),
        ("DELETE", base, None),
    ]
    for method, path, body in orders:
        answer = await api.client.request(method, path, json=body)
        assert answer.status_code == 200, (path, answer.text)
    endpoint, task = f"endpoint {endpoint_id}", f"endpoint {endpoint_id}, task a"
    assert await changes(api) == [
        ("create_endpoint", endpoint),
        ("create_credential", f"credential {credential}"),
        ("create_key", f"key {key['id']}"),
        ("rotate_key", f"key {key['id']}, new key {rotated['id']}"),
        ("create_agent_token", f"endpoint {endpoint_id}, agent token {token['id']}"),
        ("retry_delivery", f"endpoint {endpoint_id}, task b"),
        ("redeliver_result", f"endpoint {endpoint_id}, task b"),
        ("recover_deliveries", endpoint),
        ("cancel_recovery", endpoint),
        ("update_endpoint", endpoint),
        ("scale_endpoint", endpoint),
        ("scale_endpoint", endpoint),
        ("stop_endpoint", endpoint),
        ("start_endpoint", endpoint),
        ("pause_endpoint", endpoint),
        ("resume_endpoint", endpoint),
        ("rotate_webhook_secret", endpoint),
        ("cancel_task", task),
        ("retry_task", task),
        ("cancel_task", task),
        ("delete_task", task),
        ("update_credential", f"credential {credential}"),
        ("delete_credential", f"credential {credential}"),
        ("revoke_key", f"key {rotated['id']}"),
        ("revoke_agent_token", f"endpoint {endpoint_id}, agent token {token['id']}"),
        ("delete_endpoint", endpoint),
    ]
    # Changes of tenants need an operator's key; others are in the tests of what they change.
    words = ("tenant", "operation", "destination", "worker", "test_webhook")
    elsewhere = {action.value for action in Action if any(word in action for word in words)}
    assert {action for action, _ in await changes(api)} == {action.value for action in Action} - elsewhere
    stored = str(await api.store.redis.xrange("{qe}:audit:default"))
    assert "canary" not in stored
    assert "whsec_" not in stored
    assert key["key"] not in stored
    assert token["token"] not in stored


async def test_a_record_names_key_address_and_time(api: RunningApi) -> None:
    before = await api.store.now_ms()
    endpoint_id = await api.create_endpoint()
    operating = await api.new_key("default", role=Role.OPERATE)
    await api.client.post(f"/v2/serverless/{endpoint_id}/stop", headers={"X-Api-Key": operating})
    latest = (await audit_of(api))["items"][0]
    assert before <= latest.pop("time") <= await api.store.now_ms()
    assert latest.pop("id")
    assert latest == {
        "action": "stop_endpoint", "target": f"endpoint {endpoint_id}", "keyId": hash_of(operating)[:16],
        "keyName": "test", "address": "127.0.0.1", "certain": True,
    }  # fmt: skip


async def test_what_changes_nothing_is_not_recorded(api: RunningApi) -> None:
    variables = [{"key": "A", "value": "1"}]
    endpoint_id = await api.create_endpoint(environmentVars=variables)
    await api.submit(endpoint_id, taskId="a")
    cancel = f"/v2/serverless/{endpoint_id}/tasks/a/cancel"
    await api.client.post(cancel)
    before = await changes(api)
    await api.client.post(cancel)  # has ended
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/none/cancel")
    await api.client.post("/v2/serverless/987654/stop")
    base = f"/v2/serverless/{endpoint_id}"
    assert (await api.client.post(f"{base}/start")).status_code == 200
    workers = (await api.client.get(base)).json()["data"]["totalWorkers"]
    assert (await api.client.put(f"{base}/workers/{workers}")).status_code == 200
    assert (await api.client.patch(base, json={"name": ENDPOINT["name"]})).status_code == 200
    assert (await api.client.patch(base, json={"environmentVars": variables})).status_code == 200
    await api.post("/v2/serverless", {})
    await api.post("/v2/keys", {"name": "no role"})
    await api.client.get(f"/v2/serverless/{endpoint_id}")
    reader = {"X-Api-Key": await api.new_key("default", role=Role.READ)}
    await api.client.post(f"/v2/serverless/{endpoint_id}/stop", headers=reader)
    assert await changes(api) == before


async def test_the_log_is_read_in_pages_and_is_the_own_tenants(api: RunningApi) -> None:
    stranger = await api.new_key("stranger")
    await api.client.post("/v2/serverless", json=ENDPOINT, headers={"X-Api-Key": stranger})
    ids = [await api.create_endpoint() for _ in range(5)]
    targets, before = [], None
    for has_more in (True, True, False):
        page = await audit_of(api, pageSize=2, **({} if before is None else {"before": before}))
        targets += [one["target"] for one in page["items"]]
        assert page["hasMore"] is has_more
        before = page["nextBefore"]
    assert targets == [f"endpoint {one}" for one in reversed(ids)]
    assert len((await audit_of(api, stranger))["items"]) == 1
    for query in ({"before": "x"}, {"before": "1"}, {"before": "0-0"}, {"pageSize": "0"}, {"pageSize": "1001"}):
        assert (await api.client.get("/v2/audit", params=query)).status_code == 400


async def test_changes_are_found_by_key_action_object_and_time(api: RunningApi) -> None:
    first, second = [await api.create_endpoint() for _ in range(2)]
    operating = await api.new_key("default", role=Role.OPERATE)
    await api.client.post(f"/v2/serverless/{first}/stop", headers={"X-Api-Key": operating})
    await api.submit(second, taskId="a")
    await api.client.post(f"/v2/serverless/{second}/tasks/a/cancel")
    latest = (await audit_of(api))["items"][0]["time"]

    async def found(**query: str | int) -> list[tuple[str, str]]:
        items = (await api.client.get("/v2/audit", params=query)).json()["data"]["items"]
        return [(one["action"], one["target"]) for one in items]

    stop, cancel = ("stop_endpoint", f"endpoint {first}"), ("cancel_task", f"endpoint {second}, task a")
    created = ("create_endpoint", f"endpoint {second}")
    assert await found(key=hash_of(operating)[:16]) == [stop]
    assert await found(key="test", action="STOP_ENDPOINT") == [stop]
    assert await found(action="cancel_task,stop_endpoint") == [cancel, stop]
    assert await found(target=f"endpoint {second}") == [cancel, created]
    assert await found(target=f"endpoint {second}0") == []
    assert await found(**{"from": latest + 1}) == []
    assert (await found(**{"from": latest, "to": latest + 1}))[0] == cancel
    assert (await audit_of(api, target="task a"))["scanned"] >= 4
    for name, value in {"action": "eat", "key": "", "target": "x" * 256, "from": "soon", "to": "1700000000"}.items():
        answer = await api.client.get("/v2/audit", params={name: value})
        assert (answer.status_code, name in answer.text) == (400, True)
    assert (await api.client.get("/v2/audit", params={"from": latest, "to": latest})).status_code == 400


async def test_a_key_for_some_endpoints_does_not_read_the_log(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    key = await api.new_key("default", endpoints=frozenset({endpoint_id}))
    assert (await api.client.get("/v2/audit", headers={"X-Api-Key": key})).status_code == 403


async def test_a_change_whose_outcome_is_unknown_is_recorded_once_and_not_as_certain(
    api: RunningApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store becomes unavailable after the change, so its reply is lost. The client repeats the request."""
    endpoint_id = await api.create_endpoint()
    set_desired_state, append = EndpointStore.set_desired_state, AuditStore.append
    outage = True

    async def lose_reply(self: EndpointStore, *arguments: Any) -> StateChange:
        await set_desired_state(self, *arguments)
        raise NotDurable("it does not respond")

    async def append_later(self: AuditStore, *arguments: Any) -> None:
        if outage:
            raise NotDurable("it does not respond")
        await append(self, *arguments)

    monkeypatch.setattr(EndpointStore, "set_desired_state", lose_reply)
    monkeypatch.setattr(AuditStore, "append", append_later)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert (await api.client.post(f"/v2/serverless/{endpoint_id}/stop")).status_code == 503
    assert sum("audit record" in one.getMessage() for one in caplog.records) == 1
    outage = False

    async def is_written() -> bool:
        return len(await changes(api)) == 2

    await wait_until_async(is_written, message="the record is not written")
    latest = (await audit_of(api))["items"][0]
    assert (latest["action"], latest["target"]) == ("stop_endpoint", f"endpoint {endpoint_id}")
    assert latest["certain"] is False


@pytest.mark.parametrize("refusal", [OutOfMemoryError("used memory"), ReadOnlyError("a replica")])
async def test_a_change_that_the_store_refuses_is_not_recorded(
    api: RunningApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    endpoint_id = await api.create_endpoint()

    async def refuse(*_arguments: Any) -> StateChange:
        raise refusal

    monkeypatch.setattr(EndpointStore, "set_desired_state", refuse)
    before = await changes(api)
    with caplog.at_level(logging.ERROR):
        assert (await api.client.post(f"/v2/serverless/{endpoint_id}/stop")).status_code == 503
    assert not [one for one in caplog.records if "audit record" in one.getMessage()]
    assert await changes(api) == before


@pytest.mark.parametrize(
    ("store", "call", "method", "path", "body", "action"),
    [
        (DeliveryStore, "send_now", "POST", "/tasks/a/deliveries/retry", None, "retry_delivery"),
        (DeliveryStore, "send_now", "POST", "/tasks/a/deliveries/redeliver", None, "redeliver_result"),
        (RecoveryStore, "start", "POST", "/deliveries/recover", {"since": 0}, "recover_deliveries"),
        (RecoveryStore, "cancel", "DELETE", "/deliveries/recover", None, "cancel_recovery"),
    ],
)
async def test_an_order_of_deliveries_whose_reply_is_lost_is_recorded_as_not_certain(
    api: RunningApi,
    monkeypatch: pytest.MonkeyPatch,
    store: type,
    call: str,
    method: str,
    path: str,
    body: dict[str, int] | None,
    action: str,
) -> None:
    endpoint_id = await api.create_endpoint()

    async def lose_reply(*_arguments: Any, **_options: Any) -> None:
        raise NotDurable("it does not respond")

    monkeypatch.setattr(store, call, lose_reply)
    answer = await api.client.request(method, f"/v2/serverless/{endpoint_id}{path}", json=body)
    assert answer.status_code == 503

    async def is_written() -> bool:
        return len(await changes(api)) == 2

    await wait_until_async(is_written, message="the record is not written")
    latest = (await audit_of(api))["items"][0]
    assert (latest["action"], latest["certain"]) == (action, False)


async def test_a_record_that_the_store_refuses_is_logged_and_written_later(
    api: RunningApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change has been made, so the request succeeds, and the record must not be lost."""
    refusals, append = [NotDurable("it does not acknowledge"), NotDurable("still not")], AuditStore.append

    async def refuse(self: AuditStore, *arguments: Any) -> None:
        if refusals:
            raise refusals.pop()
        await append(self, *arguments)

    monkeypatch.setattr(AuditStore, "append", refuse)
    with caplog.at_level(logging.ERROR):
        endpoint_id = await api.create_endpoint()
    (record,) = [one for one in caplog.records if "audit record" in one.getMessage()]
    assert (vars(record)["action"], vars(record)["target"]) == ("create_endpoint", f"endpoint {endpoint_id}")

    async def is_written() -> bool:
        return await changes(api) == [("create_endpoint", f"endpoint {endpoint_id}")]

    await wait_until_async(is_written, message="the record is not written")
