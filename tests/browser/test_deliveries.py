"""Deliveries in the console: a paused receiver, and results that were given up."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import call, ended, submit
from tests.integration.parts import HttpServer, Reply, replies
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with a running example worker."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "hooks", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    yield created
    delete_endpoints(engine)


def is_given_up(up: Up, path: str) -> bool:
    return bool(call(up, "GET", path)["deliveryStatus"] == "MAX_RETRIES_EXCEEDED")


def test_a_paused_receiver_is_seen_and_tried_at_once(operator: Visitor, engine: Up, endpoint: str) -> None:
    with HttpServer(replies(Reply(429, b"", {"Retry-After": "300"}), Reply())) as receiver:
        first = submit(engine, endpoint, 1, webhook=f"{receiver.url}/first")
        ended(engine, endpoint, first)
        wait_until(lambda: receiver.requests)
        later = submit(engine, endpoint, 1, webhook=f"{receiver.url}/hook")
        ended(engine, endpoint, later)
        operator.open("/console")
        operator.page.locator("nav").get_by_role("link", name="Deliveries").click()
        row = operator.page.get_by_role("row").filter(has_text=receiver.url)
        row.get_by_text("parked").wait_for()
        operator.page.screenshot(path=SHOTS / "deliveries-parked.png", full_page=True)
        row.get_by_role("link", name=receiver.url).click()
        operator.see("Deliveries are paused.")
        operator.see("429 Too Many Requests")
        operator.page.screenshot(path=SHOTS / "destination-parked.png", full_page=True)
        operator.click("Try now")
        operator.see("Nothing wrong was noted")
        path = f"/serverless/{endpoint}/tasks/{later}"
        wait_until(lambda: call(engine, "GET", path)["status"] == "DELIVERED")
        assert operator.reports == []


def test_all_results_that_match_are_sent_again_after_a_count(operator: Visitor, engine: Up, endpoint: str) -> None:
    with HttpServer() as receiver:
        tasks = [submit(engine, endpoint, n, taskId=f"again_{n}", webhook=f"{receiver.url}/hook") for n in range(6)]
        ended(engine, endpoint, submit(engine, endpoint, 1, taskId="again_silent"))
        for task in tasks:
            path = f"/serverless/{endpoint}/tasks/{task}"
            wait_until(lambda path=path: call(engine, "GET", path)["status"] == "DELIVERED")  # type: ignore[misc]
        assert len(receiver.requests) == len(tasks)
        operator.open(f"/console/tasks?endpoint={endpoint}&idPrefix=again_")
        operator.page.locator("tr[data-row]").nth(6).wait_for()
        operator.clicks = 0
        operator.click("Send all again…")
        operator.see("6 of 7 that match would be sent again.")
        operator.see("1 have no webhook")
        assert len(receiver.requests) == len(tasks)
        operator.page.screenshot(path=SHOTS / "send-again-preview.png")
        operator.click("Send again 6")
        operator.page.wait_for_url("**/console/bulk/**")
        operator.page.get_by_role("heading", name="Result").wait_for()
        assert operator.clicks <= 4
        operator.see("sent again")
        wait_until(lambda: len(receiver.requests) == 2 * len(tasks))
        ids = [request.headers["webhook-id"] for request in receiver.requests]
        assert sorted(ids[: len(tasks)]) == sorted(ids[len(tasks) :])
        operation = call(engine, "GET", f"/serverless/{endpoint}/operations?pageSize=1")["items"][0]
        assert (operation["action"], operation["done"], operation["skipReasons"]) == ("redeliver", 6, {"noWebhook": 1})
        assert Axe().run(operator.page).response["violations"] == []
        assert operator.reports == []


def test_a_webhook_is_tested_and_its_response_is_shown(operator: Visitor, engine: Up, endpoint: str) -> None:
    hostile = b"<img src=x onerror=\"document.title='owned'\">"
    with HttpServer(replies(Reply(), Reply(500, hostile))) as receiver:
        operator.open(f"/console/endpoints/{endpoint}/deliveries")
        operator.page.get_by_label("URL", exact=True).fill(f"{receiver.url}/test")
        operator.page.get_by_label("Key of the receiver").fill("the key")
        operator.click("Send a test event")
        operator.see("the receiver accepted it with status 200")
        assert receiver.next(60).headers["x-api-key"] == "the key"
        assert "the key" not in operator.page.locator("main").inner_text()
        operator.click("Send a test event")
        operator.see("the receiver responded with status 500")
        operator.page.get_by_label("The receiver's response").get_by_text("onerror").wait_for()
        operator.page.screenshot(path=SHOTS / "webhook-test.png", full_page=True)
        assert "owned" not in operator.page.title()
        assert [one for one in operator.reports if "404" not in one] == []  # there is no recovery


def test_given_up_results_of_a_receiver_are_listed_and_sent_again(operator: Visitor, engine: Up, endpoint: str) -> None:
    with HttpServer(lambda _: Reply(410)) as broken, HttpServer(lambda _: Reply(410)) as other:
        task = submit(engine, endpoint, 1, taskId="lost_here", webhook=f"{broken.url}/hook")
        elsewhere = submit(engine, endpoint, 1, taskId="lost_elsewhere", webhook=f"{other.url}/hook")
        for one in (task, elsewhere):
            path = f"/serverless/{endpoint}/tasks/{one}"
            wait_until(lambda path=path: is_given_up(engine, path))  # type: ignore[misc]
        operator.open(f"/console/deliveries/{broken.url.replace('://', ':')}")
        there = operator.page.get_by_role("region", name="Results for it that were given up")
        there.get_by_role("link", name="hooks").click()
        rows = operator.page.get_by_role("table").get_by_role("row")
        rows.filter(has_text="lost_here").wait_for()
        assert rows.filter(has_text="lost_elsewhere").count() == 0
        operator.page.set_viewport_size({"width": 390, "height": 844})
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert Axe().run(operator.page, options=RULES).response["violations"] == []
        assert operator.reports == []
        operator.click("All destinations", "link")
        rows.filter(has_text="lost_elsewhere").wait_for()
