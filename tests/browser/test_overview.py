"""What needs attention on the overview: one error many times, a queue that is older than usual, a deleted endpoint."""

import json
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Route, expect

from tests.browser.conftest import SHOTS, WAIT_MS, Visitor
from tests.browser.test_charts import RULES
from tests.browser.test_console import call, ended, settle, submit
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until

FAILED = 12
SAMPLE_SECONDS = 60.0
"""Time within which a controller takes a sample, twice as long as its interval."""
OLDEST_MS = 3 * 3_600_000


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with a running example worker, whose tasks have failed with one error."""
    delete_endpoints(engine)
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "troubled", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    tasks = [submit(engine, created, {"fail": f"no model {n}"}, taskId=f"many_{n}") for n in range(FAILED)]
    for task in [*tasks, submit(engine, created, {"fail": "disk full"}), submit(engine, created, 1)]:
        ended(engine, created, task)

    def failed() -> float:
        found = call(engine, "GET", f"/serverless/{created}/series?metric=failed")["metrics"]["failed"]
        return float(sum(filter(None, found)))

    wait_until(lambda: failed() == FAILED + 1, timeout=SAMPLE_SECONDS)
    yield created
    delete_endpoints(engine)


@pytest.fixture
def watcher(endpoint: str, operator: Visitor) -> Visitor:
    """A visitor who logs in when the endpoints of tests before are deleted."""
    return operator


def concern(visitor: Visitor, text: str) -> Locator:
    """The note of a concern with this text."""
    region = visitor.page.get_by_role("region", name="Needs attention", exact=True)
    note = region.locator(".note").filter(has_text=text)
    note.wait_for()
    return note


def test_one_error_many_times_is_shown_and_retried(watcher: Visitor, engine: Up, endpoint: str) -> None:
    watcher.open("/console")
    note = concern(watcher, f"{FAILED} tasks failed with the same error in the last hour.")
    assert "no model" in note.locator("code").inner_text()
    assert "disk full" not in note.inner_text()
    watcher.page.screenshot(path=SHOTS / "overview-errors.png", full_page=True)
    note.get_by_role("link", name="Show the tasks").click()
    expect(watcher.page.locator("tr[data-row]")).to_have_count(FAILED, timeout=WAIT_MS)
    rows = {row.get_attribute("data-row") for row in watcher.page.locator("tr[data-row]").all()}
    assert rows == {f"many_{n}" for n in range(FAILED)}
    watcher.page.go_back()
    button = concern(watcher, "tasks failed with the same error").get_by_role("button", name="Retry them…")
    button.focus()
    watcher.page.keyboard.press("Enter")
    watcher.see(f"{FAILED} of {FAILED} that match would be retried.")
    watcher.click(f"Retry {FAILED}")
    watcher.page.wait_for_url("**/console/bulk/**")
    watcher.page.get_by_role("heading", name="Result").wait_for()
    begun = call(engine, "GET", f"/serverless/{endpoint}/operations?pageSize=1")["items"][0]
    assert (begun["action"], begun["done"]) == ("retry", FAILED)
    assert set(begun["filter"]) == {"errorSignature", "finishedAfter"}
    assert watcher.reports == []


@pytest.fixture
def old_queue(watcher: Visitor, engine: Up, endpoint: str) -> Iterator[Visitor]:
    """A visitor who sees made-up ages of the queue: 3 hours now, and some seconds in the two weeks before."""

    def respond(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        if query["metric"][0] not in ("oldest", "oldest,failed,succeeded"):
            route.continue_()
            return
        begin = int(query["from"][0])
        is_hour = query["metric"][0] != "oldest"
        step, count = (30, 120) if is_hour else (3600, 336)
        metrics = {"oldest": [OLDEST_MS if is_hour else 2000] * count, "failed": [0] * count, "succeeded": [0] * count}
        data = {"from": begin, "to": begin + step * count * 1000, "stepSeconds": step, "metrics": metrics}
        route.fulfill(body=json.dumps({"message": "success", "code": 10000, "data": data}))

    watcher.page.route("**/console/api/serverless/*/series?*", respond)
    call(engine, "POST", f"/serverless/{endpoint}/pause")
    waits = submit(engine, endpoint, 1)
    yield watcher
    call(engine, "POST", f"/serverless/{endpoint}/resume")
    ended(engine, endpoint, waits)


def test_a_queue_that_is_older_than_usual_is_shown_and_put_right(old_queue: Visitor, engine: Up, endpoint: str) -> None:
    old_queue.open("/console")
    note = concern(old_queue, "the oldest task waits for 3 h 00 m; usual are at most 2.0 s.")
    url = note.get_by_role("link", name="Show the tasks").get_attribute("href") or ""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query.keys() == {"endpoint", "state", "createdBefore"}
    assert (query["endpoint"], query["state"]) == (endpoint, "queued")
    assert time.time() * 1000 - int(query["createdBefore"]) == pytest.approx(120_000, abs=60_000)
    note.get_by_role("button", name="Resume the queue").click()
    wait_until(lambda: call(engine, "GET", f"/serverless/{endpoint}")["paused"] is False)
    note.wait_for(state="detached")
    assert old_queue.reports == []


def test_an_endpoint_that_is_deleted_while_it_is_read_hides_no_other(
    watcher: Visitor, engine: Up, endpoint: str
) -> None:
    """The list has it still, and each of the other calls does not find it."""

    def with_another(route: Route) -> None:
        found = route.fetch().json()
        found["data"] += [{**found["data"][0], "id": "999999", "name": "deleted"}]
        route.fulfill(body=json.dumps(found), content_type="application/json")

    watcher.page.route("**/console/api/serverless", with_another)
    watcher.open("/console")
    watcher.page.get_by_role("link", name="troubled").first.wait_for()
    settle(watcher)
    assert watcher.page.get_by_text("This could not be read").count() == 0
    gone = [one for one in watcher.reports if "/serverless/999999/" in one]
    assert gone, "the browser notes each response of 404 with its URL"
    assert gone == watcher.reports


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_concerns_are_accessible_and_fit_a_phone(old_queue: Visitor, theme: str) -> None:
    old_queue.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    old_queue.open("/console")
    concern(old_queue, "the oldest task waits for 3 h 00 m")
    assert Axe().run(old_queue.page, options=RULES).response["violations"] == []
    old_queue.page.set_viewport_size({"width": 390, "height": 844})
    assert old_queue.page.evaluate("document.documentElement.scrollWidth") <= 390
    old_queue.page.screenshot(path=SHOTS / f"overview-concerns-{theme}-390.png", full_page=True)
