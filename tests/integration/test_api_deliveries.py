"""The routes of deliveries: the ledger, results that are sent again, what was given up, and recoveries."""

from typing import Any

import httpx
import pytest

from queue_engine.domain.deliveries import Delivered, GivenUp, Phases, Verdict, WebhookResponse
from queue_engine.domain.tasks import Succeeded
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.recoveries import RECOVERED_AT_ONCE
from tests.api_server import RunningApi

WEBHOOK = "http://a.example/x"
OK = WebhookResponse(200, None, duration_seconds=0.012, phases=Phases(3, None, 0, 9))
BROKEN = WebhookResponse(500, "http_5xx", "no")
GONE = GivenUp("http_5xx (status 500): no; attempt 12 of 12 was the last")
TASK_NOT_FOUND = {"message": "task not found", "code": 24011, "data": None}


class Results:
    """Tasks of one endpoint that have ended, with their deliveries."""

    def __init__(self, api: RunningApi, endpoint_id: str) -> None:
        self.api = api
        self.endpoint_id = endpoint_id
        self.path = f"/v2/serverless/{endpoint_id}"
        self.outbox: Outbox = api.store.outbox()

    async def end(self, *task_ids: str, webhook: str | None = WEBHOOK) -> None:
        given = {} if webhook is None else {"webhook": webhook}
        agent = self.api.store.queue(endpoint_id=self.endpoint_id, worker_id="w1", lease_ms=30_000)
        for task_id in task_ids:
            answer = await self.api.submit(self.endpoint_id, taskId=task_id, **given)
            assert answer.status_code == 200
            (entry,) = await agent.claim(1, block_ms=1000)
            started = await agent.start(entry, address="127.0.0.1:8000")
            assert started is not None
            await agent.settle(started.lease, Succeeded(b"1"))

    async def deliver(self, response: WebhookResponse = OK, verdict: Verdict | None = None) -> None:
        """Make an attempt for everything that is due."""
        await self.outbox.make_groups()
        for entry in await self.outbox.read(100, block_ms=1):
            assert await self.outbox.open(entry) is not None
            await self.outbox.settle(entry, response, verdict or Delivered(), at_ms=1)

    async def give_up(self, *task_ids: str) -> None:
        await self.end(*task_ids)
        await self.deliver(BROKEN, GONE)

    async def ask(self, method: str, rest: str, body: object = None) -> httpx.Response:
        return await self.api.client.request(method, self.path + rest, json=body)

    async def data(self, method: str, rest: str, body: object = None) -> Any:
        answer = await self.ask(method, rest, body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture
async def results(api: RunningApi, endpoint_id: str) -> Results:
    return Results(api, endpoint_id)


async def test_an_attempt_shows_trigger_phases_and_the_next_time(results: Results) -> None:
    await results.give_up("a")
    await results.data("POST", "/tasks/a/deliveries/retry")
    await results.deliver()
    first, second = await results.data("GET", "/tasks/a/deliveries")
    assert first == {
        "at": 1, "trigger": "result", "status": 500, "error": "http_5xx", "durationMs": 0, "nextAttemptAt": None,
        "phases": dict.fromkeys(("connectMs", "tlsMs", "sendMs", "waitMs")), "response": "no",
    }  # fmt: skip
    assert (second["trigger"], second["durationMs"]) == ("retry", 12)
    assert second["phases"] == {"connectMs": 3, "tlsMs": None, "sendMs": 0, "waitMs": 9}


async def test_a_retry_sends_now_and_repeating_it_changes_nothing(results: Results) -> None:
    await results.give_up("a")
    stands = {"taskId": "a", "result": "queued", "deliveryStatus": "FAILED", "deliveryAttempts": 1}
    first = await results.data("POST", "/tasks/a/deliveries/retry")
    assert stands.items() <= first.items()
    assert first["nextDeliveryAt"] is not None
    assert await results.data("POST", "/tasks/a/deliveries/retry") == first | {"result": "due"}
    await results.deliver()
    delivered = {"result": "delivered", "deliveryStatus": "SUCCESS", "deliveryAttempts": 2, "nextDeliveryAt": None}
    for _ in range(2):
        assert await results.data("POST", "/tasks/a/deliveries/retry") == {"taskId": "a"} | delivered
    assert await results.outbox.read(10, block_ms=1) == []


async def test_a_delivered_result_is_redelivered(results: Results) -> None:
    await results.end("a")
    await results.deliver()
    order = await results.data("POST", "/tasks/a/deliveries/redeliver")
    assert (order["result"], order["deliveryStatus"]) == ("queued", "INIT")
    assert (await results.data("GET", "/tasks/a"))["status"] == "SUCCESS"
    await results.deliver()
    task = await results.data("GET", "/tasks/a")
    assert (task["status"], task["deliveryAttempts"]) == ("DELIVERED", 2)
    assert (await results.data("GET", "/tasks/a/deliveries"))[1]["trigger"] == "redeliver"


@pytest.mark.parametrize("order", ["retry", "redeliver"])
async def test_what_cannot_be_sent_is_refused(results: Results, order: str) -> None:
    await results.end("plain", webhook=None)
    await results.api.submit(results.endpoint_id, taskId="waits", webhook=WEBHOOK)
    for task_id, why in (("plain", "the task has no webhook"), ("waits", "the task has not ended")):
        answer = await results.ask("POST", f"/tasks/{task_id}/deliveries/{order}")
        assert (answer.status_code, answer.json()["code"]) == (409, 12001)
        assert answer.json()["message"] == f"taskId: {why}"
    answer = await results.ask("POST", f"/tasks/none/deliveries/{order}")
    assert (answer.status_code, answer.json()) == (404, TASK_NOT_FOUND)


async def test_only_orders_that_change_something_are_audited(results: Results) -> None:
    await results.give_up("a")
    for order in ("retry", "retry", "redeliver"):
        await results.data("POST", f"/tasks/a/deliveries/{order}")
    await results.deliver()
    for order in ("retry", "redeliver"):
        await results.data("POST", f"/tasks/a/deliveries/{order}")
    await results.give_up("b")
    for _ in range(2):
        await results.data("POST", "/deliveries/recover", {"since": 0})
    log = (await results.api.client.get("/v2/audit")).json()["data"]["items"]
    target = f"endpoint {results.endpoint_id}"
    changes = [(one["action"], one["target"]) for one in reversed(log) if "deliver" in one["action"]]
    assert changes[:2] == [("retry_delivery", f"{target}, task a"), ("redeliver_result", f"{target}, task a")]
    assert set(changes[2:]) == {("recover_deliveries", target)}


# Given up


async def test_given_up_deliveries_are_listed_in_pages(results: Results) -> None:
    await results.give_up("a", "b", "c")
    page = await results.data("GET", "/deliveries?status=max_retries_exceeded&pageSize=2")
    assert {name: page[name] for name in ("page", "size", "total", "pages")} == {
        "page": 1, "size": 2, "total": 3, "pages": 2,
    }  # fmt: skip
    rest = await results.data("GET", "/deliveries?pageNumber=2&pageSize=2")
    assert {one["taskId"] for one in page["items"] + rest["items"]} == {"a", "b", "c"}
    (last,) = rest["items"]
    task = await results.data("GET", f"/tasks/{last['taskId']}")
    assert last == {
        "taskId": task["taskId"], "taskStatus": "SUCCESS", "status": "MAX_RETRIES_EXCEEDED", "webhook": WEBHOOK,
        "attempts": 1, "error": GONE.reason, "finishedAt": task["finishedAt"], "givenUpAt": task["updatedAt"],
    }  # fmt: skip


@pytest.mark.parametrize("status", ["SUCCESS", "FAILED", "INIT", "x", ""])
async def test_deliveries_are_listed_by_an_indexed_status_only(results: Results, status: str) -> None:
    answer = await results.ask("GET", f"/deliveries?status={status}")
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"] == "status: must be one of MAX_RETRIES_EXCEEDED"


# Recoveries


async def test_a_recovery_shows_its_progress_until_it_is_done(results: Results) -> None:
    names = [f"t{number}" for number in range(RECOVERED_AT_ONCE + 2)]
    await results.give_up(*names)
    began = await results.data("POST", "/deliveries/recover", {"since": 0, "status": "max_retries_exceeded"})
    assert (began["state"], began["total"], began["recovered"]) == ("running", len(names), RECOVERED_AT_ONCE)
    assert (began["since"], began["until"], began["remaining"]) == (0, began["createdAt"], 2)
    assert await results.data("POST", "/deliveries/recover", {"since": 0}) == began
    await results.deliver()
    await results.deliver()
    ended = await results.data("GET", "/deliveries/recover")
    assert (ended["state"], ended["recovered"], ended["remaining"]) == ("done", len(names), 0)
    assert ended["endedAt"] is not None
    assert (await results.data("GET", "/deliveries"))["total"] == 0
    assert (await results.data("GET", "/tasks/count"))["delivered"] == len(names)


async def test_a_recovery_is_cancelled_once(results: Results) -> None:
    await results.give_up(*(f"t{number}" for number in range(RECOVERED_AT_ONCE + 2)))
    await results.data("POST", "/deliveries/recover", {"since": 0})
    other = await results.ask("POST", "/deliveries/recover", {"since": 1})
    assert (other.status_code, other.json()["code"]) == (409, 12001)
    cancelled = await results.data("DELETE", "/deliveries/recover")
    assert (cancelled["state"], cancelled["remaining"]) == ("cancelled", 2)
    assert await results.data("DELETE", "/deliveries/recover") == cancelled
    assert (await results.data("POST", "/deliveries/recover", {"since": 1}))["state"] == "running"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_recovery_before_the_first(results: Results, method: str) -> None:
    answer = await results.ask(method, "/deliveries/recover")
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (404, 10007, "recovery not found")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "since: is required"),
        ({"since": "yesterday"}, "since: must be an integer"),
        ({"since": True}, "since: must be an integer"),
        ({"since": -1}, "since: must be at least 0"),
        ({"since": 1_764_000_000}, "since: must be in milliseconds"),
        ({"since": 5, "until": 4}, "until: must not be before since"),
        ({"since": 5, "until": 10**15}, "until: must be at most"),
        ({"since": 5, "status": "FAILED"}, "status: must be 'MAX_RETRIES_EXCEEDED'"),
    ],
)
async def test_a_wrong_period_starts_nothing(results: Results, body: dict[str, Any], message: str) -> None:
    await results.give_up("a")
    answer = await results.ask("POST", "/deliveries/recover", body)
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(message)
    assert (await results.ask("GET", "/deliveries/recover")).status_code == 404
    assert (await results.data("GET", "/deliveries"))["total"] == 1


async def test_given_up_deliveries_of_a_destination_are_walked_by_cursor(results: Results) -> None:
    await results.give_up("a", "b")
    await results.end("c", webhook="http://b.example/x")
    await results.deliver(BROKEN, GONE)
    first = await results.data("GET", "/deliveries?destination=http://a.example&pageSize=1")
    assert ([one["taskId"] for one in first["items"]], first["scanned"]) == (["b"], 2)
    second = await results.data("GET", f"/deliveries?destination=HTTP://A.example:80&cursor={first['nextCursor']}")
    assert ([one["taskId"] for one in second["items"]], second["nextCursor"]) == (["a"], None)
    every = await results.data("GET", "/deliveries?cursor=")
    assert [one["taskId"] for one in every["items"]] == ["c", "b", "a"]
    assert {one["givenUpAt"] > 0 for one in every["items"]} == {True}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("cursor=x", "cursor: must be the nextCursor of a page, unchanged; empty for the first page"),
        ("cursor=1-1-a%20b", "cursor: must be"),
        (
            "cursor=999-1764000000000-a",
            "cursor: is not one of this list; a cursor is only for the endpoint of its page",
        ),
        ("destination=ftp://x", "destination: must be a URL such as https://hooks.example.com"),
        ("destination=http://a.example&pageNumber=1", "pageNumber: cannot be combined with cursor or destination"),
        ("cursor=&pageSize=0", "pageSize: "),
    ],
)
async def test_a_wrong_walk_of_deliveries_is_refused(results: Results, query: str, message: str) -> None:
    answer = await results.ask("GET", f"/deliveries?{query}")
    assert (answer.status_code, message in answer.text) == (400, True), answer.text
