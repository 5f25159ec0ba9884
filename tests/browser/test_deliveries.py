"""Deliveries in the console: a paused receiver, and results that were given up."""

from collections.abc import Iterator

import pytest

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import call, ended, submit
from tests.integration.parts import HttpServer, Reply, replies
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with a running example worker."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "hooks", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    yield created
    delete_endpoints(engine)


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
