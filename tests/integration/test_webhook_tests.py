"""`POST …/webhook-test`: one signed event, sent by a real delivery process."""

import asyncio
import json
import threading
from functools import partial
from typing import Any

import pytest
from standardwebhooks import Webhook

from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.domain.principals import Role
from queue_engine.engine import webhook_tests
from queue_engine.store.keys import PROCESSES, WEBHOOK_TESTS, process_facts
from queue_engine.store.processes import LEASE_MS
from tests.api_server import ENDPOINT, SECRET_KEY, RunningApi, running_api
from tests.integration.parts import HttpServer, Programs, Reply, Request, replies
from tests.integration.test_api_audit import changes
from tests.waiting import wait_until, wait_until_async

KEY = "the key of the receiver"
ACCEPTED = WebhookResponse(200, None, "")
HANGING = 12
"""Tenants with a receiver that does not respond."""


@pytest.fixture
async def allowing(valkey_url: str) -> Any:
    async with running_api(valkey_url, webhook_allow=("127.0.0.0/8",)) as running:
        await running.store.prepare()
        yield running


@pytest.fixture
def delivery(programs: Programs, allowing: RunningApi) -> None:
    run_delivery(programs, QUEUE_ENGINE_WEBHOOK_ALLOW="127.0.0.0/8")


def run_delivery(programs: Programs, **environment: Any) -> None:
    """Run a delivery process, and return when it takes tests, because a test waits for a limited time."""
    process = programs.delivery(QUEUE_ENGINE_SECRET_KEY=SECRET_KEY, **environment)
    wait_until(lambda: '"started"' in process.output() or not process.running, message="no delivery process started")
    assert process.running, process.output()


async def answer_to(api: RunningApi, endpoint_id: str, body: Any, key: str | None = None) -> Any:
    headers = {"X-Api-Key": key or api.key}
    return await api.client.post(f"/v2/serverless/{endpoint_id}/webhook-test", json=body, headers=headers)


async def result_of(api: RunningApi, endpoint_id: str, body: Any) -> dict[str, Any]:
    answer = await answer_to(api, endpoint_id, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


@pytest.mark.usefixtures("delivery")
async def test_a_signed_event_is_sent_once_and_its_result_is_told(allowing: RunningApi, receiver: HttpServer) -> None:
    endpoint_id = await allowing.create_endpoint()
    receiver.answer = replies(Reply(200, f'{{"seen": "{KEY}"}}'.encode()))
    found = await result_of(allowing, endpoint_id, {"webhook": f"{receiver.url}/hook?a=b", "webhookAuthKey": KEY})
    (request,) = receiver.requests
    assert (found["delivered"], found["status"], found["error"]) == (True, 200, None)
    assert found["destination"] == receiver.url
    assert found["message"].startswith("the receiver accepted it with status 200 after ")
    assert found["response"] == '{"seen": "***"}'
    assert KEY not in json.dumps(found)
    assert request.path == "/hook?a=b"
    assert request.headers["x-api-key"] == KEY
    body = json.loads(request.body)
    assert (body["type"], body["endpointId"]) == ("webhook.test", endpoint_id)
    secret = (await allowing.client.get(f"/v2/serverless/{endpoint_id}/webhook-secret")).json()["data"]["secret"]
    Webhook(secret).verify(request.body, request.headers)
    assert (await changes(allowing))[-1] == ("test_webhook", f"endpoint {endpoint_id}, destination {receiver.url}")
    keys = [key async for key in allowing.store.redis.scan_iter("*webhook-test*")]
    for key in keys:
        assert 0 < await allowing.store.redis.pttl(key) <= 60_000


@pytest.mark.usefixtures("delivery")
async def test_receivers_that_do_not_respond_delay_no_test_of_another_tenant(
    allowing: RunningApi, receiver: HttpServer
) -> None:
    """A delivery process has a slot for each of many tenants, so that a test takes as long as its own receiver."""
    arrived, responds = threading.Semaphore(0), threading.Event()

    def hang(request: Request) -> Reply:
        arrived.release()
        responds.wait(60)
        return Reply(200)

    async def test_of(tenant: str, url: str) -> Any:
        key = await allowing.new_key(tenant)
        created = await allowing.client.post("/v2/serverless", json=ENDPOINT, headers={"X-Api-Key": key})
        return await answer_to(allowing, created.json()["data"]["id"], {"webhook": url}, key)

    with HttpServer() as hanging:
        hanging.answer = hang
        waiting = [asyncio.create_task(test_of(f"hanging-{number}", hanging.url)) for number in range(HANGING)]
        try:
            for _ in range(HANGING):
                assert await asyncio.to_thread(arrived.acquire, timeout=60)
            found = (await test_of("another", receiver.url)).json()["data"]
            assert (found["delivered"], found["status"]) == (True, 200)
        finally:
            responds.set()
        assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * HANGING


@pytest.mark.usefixtures("delivery")
async def test_after_a_rotation_both_secrets_sign(allowing: RunningApi, receiver: HttpServer) -> None:
    endpoint_id = await allowing.create_endpoint(webhook=f"{receiver.url}/own")
    path = f"/v2/serverless/{endpoint_id}/webhook-secret"
    old = (await allowing.client.get(path)).json()["data"]["secret"]
    new = (await allowing.client.post(f"{path}/rotate")).json()["data"]["secret"]
    assert (await result_of(allowing, endpoint_id, {}))["delivered"]
    (request,) = receiver.requests
    assert request.path == "/own"
    for secret in (old, new):
        Webhook(secret).verify(request.body, request.headers)


@pytest.mark.usefixtures("delivery")
async def test_a_key_that_signs_is_not_sent(allowing: RunningApi, receiver: HttpServer) -> None:
    endpoint_id = await allowing.create_endpoint()
    secret = "whsec_" + "A" * 43 + "="
    await result_of(allowing, endpoint_id, {"webhook": receiver.url, "webhookAuthKey": secret})
    (request,) = receiver.requests
    assert "x-api-key" not in request.headers
    Webhook(secret).verify(request.body, request.headers)


@pytest.mark.usefixtures("delivery")
async def test_a_receiver_that_refuses_or_is_away_is_told_in_words(allowing: RunningApi, receiver: HttpServer) -> None:
    endpoint_id = await allowing.create_endpoint()
    receiver.answer = replies(Reply(404, b"no such hook"), Reply(302, b"", {"Location": "/x"}))
    found = await result_of(allowing, endpoint_id, {"webhook": receiver.url})
    assert (found["delivered"], found["status"], found["error"]) == (False, 404, "http_4xx")
    assert found["message"].startswith("the receiver responded with status 404")
    assert found["response"] == "no such hook"
    found = await result_of(allowing, endpoint_id, {"webhook": receiver.url})
    assert "redirects are not followed" in found["message"]
    found = await result_of(allowing, endpoint_id, {"webhook": "http://127.0.0.1:9/x"})
    assert (found["status"], found["error"]) == (None, "connect_refused")
    assert found["message"] == "the connection was refused or there is no route to the host"
    assert len(receiver.requests) == 2  # one attempt each


async def test_a_destination_that_deliveries_may_not_have_is_refused(api: RunningApi, programs: Programs) -> None:
    """The API refuses it first. The delivery process checks each connection again, as for results."""
    await api.store.prepare()
    endpoint_id = await api.create_endpoint()
    for webhook in ("http://127.0.0.1:9/", "http://169.254.169.254/", "http://[::1]/", f"http://127.0.0.1:{api.port}/"):
        answer = await answer_to(api, endpoint_id, {"webhook": webhook})
        assert answer.status_code == 400, webhook
        assert answer.json()["message"].startswith("webhook: "), answer.text
    api.lookup.by_host["inside.example"] = ("93.184.216.34",)
    run_delivery(programs)
    found = await result_of(api, endpoint_id, {"webhook": "http://inside.example:9/"})
    assert (found["delivered"], found["status"]) == (False, None)


async def test_wrong_fields_are_named(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    for body, message in (
        ({}, "webhook: is required, because the endpoint has none of its own"),
        ({"webhook": None}, "webhook: "),
        ({"webhook": "ftp://x/"}, "webhook: must be an absolute http or https URL"),
        (
            {"webhook": "https://h.example/", "webhookAuthKey": "whsec_short"},
            "webhookAuthKey: must be a signing secret",
        ),
        ({"webhook": "https://h.example/", "webhookAuthKey": "a\nb"}, "webhookAuthKey: "),
    ):
        answer = await answer_to(api, endpoint_id, body)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(message), answer.text
    assert not await api.store.redis.exists(WEBHOOK_TESTS)


async def test_keys_of_others_and_lower_roles_send_nothing(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    body = {"webhook": "https://h.example/"}
    assert (await answer_to(api, endpoint_id, body, await api.new_key("other"))).status_code == 404
    for role in (Role.READ, Role.SUBMIT):
        assert (await answer_to(api, endpoint_id, body, await api.new_key("default", role=role))).status_code == 403
    assert not await api.store.redis.exists(WEBHOOK_TESTS)


async def test_without_a_delivery_process_nothing_is_sent_and_nothing_stays(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_tests, "TAKEN_WITHIN_SECONDS", 0.2)
    endpoint_id = await api.create_endpoint()
    found = await result_of(api, endpoint_id, {"webhook": "https://h.example/"})
    assert (found["delivered"], found["error"], found["status"]) == (False, "not_sent", None)
    assert found["message"] == (
        "the test was not sent, because no delivery process runs: none has reported to the store for 30 s"
    )
    assert not await api.store.redis.exists(WEBHOOK_TESTS)


@pytest.mark.parametrize(
    ("started_ago_ms", "noted_ago_ms", "why"),
    [
        (60_000, 0, "all slots for tests of the delivery processes were busy"),
        (60_000, 22_000, "no delivery process has reported to the store for 20 s"),
        (60_000, 31_000, "no delivery process runs"),
        (0, 0, "the delivery process has just started"),
    ],
)
async def test_the_reports_of_delivery_processes_say_why_none_has_taken_a_test(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, started_ago_ms: int, noted_ago_ms: int, why: str
) -> None:
    monkeypatch.setattr(webhook_tests, "TAKEN_WITHIN_SECONDS", 1.0)
    endpoint_id, redis, name = await api.create_endpoint(), api.store.redis, "delivery:host:1:a"
    sent = asyncio.create_task(result_of(api, endpoint_id, {"webhook": "https://h.example/"}))
    await wait_until_async(partial(waits, api))
    await api.store.processes.note(name)
    facts = {"version": "1", "started": await api.store.now_ms() - started_ago_ms}
    pipeline = redis.pipeline()
    pipeline.set(process_facts(name), json.dumps(facts), px=LEASE_MS)
    pipeline.zincrby(PROCESSES, -noted_ago_ms, f"{api.store.data_format}:{name}")
    await pipeline.execute()
    found = await sent
    assert (found["error"], why in found["message"]) == ("not_sent", True), found


async def test_a_tenant_has_one_test_at_a_time_and_another_tenant_its_own(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    other = await api.new_key("other")
    created = await api.client.post("/v2/serverless", json=ENDPOINT, headers={"X-Api-Key": other})
    body = {"webhook": "https://h.example/", "webhookAuthKey": KEY}
    first = asyncio.create_task(answer_to(api, endpoint_id, body))
    await wait_until_async(partial(waits, api))
    stored = await api.store.redis.lrange(WEBHOOK_TESTS, 0, -1)  # type: ignore[misc]
    assert KEY.encode() not in stored[0]
    refused = await answer_to(api, endpoint_id, body)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    second = asyncio.create_task(answer_to(api, created.json()["data"]["id"], body, other))
    for _ in range(2):
        taken = None
        while taken is None:
            taken = await api.store.webhook_tests.take(1.0)
        assert taken.test.auth_key == KEY
        await api.store.webhook_tests.respond(taken.test, ACCEPTED)
    assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_a_tenant_has_one_test_in_all_api_processes_until_its_attempt_has_ended(
    api: RunningApi, valkey_url: str
) -> None:
    """A receiver that does not respond takes one slot of the delivery processes, also after its client has left."""
    endpoint_id = await api.create_endpoint()
    body = {"webhook": "https://h.example/"}
    first = asyncio.create_task(answer_to(api, endpoint_id, body))
    await wait_until_async(partial(waits, api))
    async with running_api(valkey_url) as other:
        refused = await answer_to(other, endpoint_id, body, api.key)
        assert (refused.status_code, "a test of this tenant is under way" in refused.text) == (429, True)
        taken = await api.store.webhook_tests.take(1.0)
        assert taken is not None
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await answer_to(other, endpoint_id, body, api.key)).status_code == 429
        await api.store.webhook_tests.respond(taken.test, ACCEPTED)
        second = asyncio.create_task(answer_to(other, endpoint_id, body, api.key))
        await wait_until_async(partial(waits, api))
        after = await api.store.webhook_tests.take(1.0)
        assert after is not None
        await api.store.webhook_tests.respond(after.test, ACCEPTED)
        assert (await second).json()["data"]["delivered"]
    assert not [key async for key in api.store.redis.scan_iter("*webhook-test-of*")]


async def test_the_limit_of_a_process_is_named_in_its_own_words(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_tests, "MAX_AT_ONCE", 0)
    refused = await answer_to(api, await api.create_endpoint(), {"webhook": "https://h.example/"})
    assert (refused.status_code, refused.json()["message"]) == (
        429,
        "webhook-test: at most 0 tests are under way in an API process",
    )


async def waits(api: RunningApi) -> bool:
    """Return True if a test waits for a delivery process."""
    return bool(await api.store.redis.llen(WEBHOOK_TESTS))  # type: ignore[misc]
