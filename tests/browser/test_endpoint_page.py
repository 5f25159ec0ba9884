"""An endpoint in the console: its deletion, what the field at the top does, the audit log, the log of one worker."""

import time
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import SHOTS, WAIT_MS, Visitor
from tests.browser.test_charts import RULES
from tests.browser.test_console import call, ended, settle, submit
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with a running example worker."""
    delete_endpoints(engine)
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "whisper", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    yield created
    delete_endpoints(engine)


@pytest.fixture
def doomed(engine: Up) -> str:
    """An endpoint with two waiting tasks and without workers."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "doomed.one", "workers": 0})["id"]
    for number in range(2):
        submit(engine, created, number)
    return created


@pytest.fixture
def watcher(endpoint: str, operator: Visitor) -> Visitor:
    """A visitor who logs in when the endpoints of tests before are deleted."""
    return operator


def names_of(engine: Up) -> set[str]:
    return {one["name"] for one in call(engine, "GET", "/serverless")}


def look_for(visitor: Visitor, text: str) -> None:
    """Type a text into the field at the top, by the keyboard alone."""
    visitor.page.keyboard.press("Control+k")
    visitor.page.keyboard.press("Control+a")
    visitor.page.keyboard.type(text)
    visitor.page.keyboard.press("Enter")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_deletion_needs_the_name_of_the_endpoint(watcher: Visitor, engine: Up, doomed: str, theme: str) -> None:
    watcher.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    watcher.open(f"/console/endpoints/{doomed}")
    watcher.click("Delete…")
    dialog = watcher.page.get_by_role("dialog")
    dialog.get_by_text("2 tasks wait").wait_for()
    dialog.get_by_text("no task runs").wait_for()
    field = dialog.get_by_label("Type doomed.one to confirm")
    expect(field).to_be_focused(timeout=WAIT_MS)
    button = dialog.get_by_role("button", name="Delete the endpoint")
    assert button.get_attribute("aria-disabled") == "true"
    watcher.page.keyboard.type("doomed")
    watcher.page.keyboard.press("Enter")
    button.click(force=True)
    assert "doomed.one" in names_of(engine)
    assert Axe().run(watcher.page, options=RULES).response["violations"] == []
    watcher.page.set_viewport_size({"width": 390, "height": 844})
    assert watcher.page.evaluate("document.documentElement.scrollWidth") <= 390
    watcher.page.screenshot(path=SHOTS / f"delete-endpoint-{theme}-390.png")
    field.fill("doomed.one")
    field.press("Enter")
    watcher.page.get_by_role("heading", name="Overview").wait_for()
    wait_until(lambda: "doomed.one" not in names_of(engine))


def test_the_top_bar_names_the_installation(watcher: Visitor, engine: Up) -> None:
    badge = watcher.page.locator(".env")
    expect(badge).to_have_text("Environment: production", timeout=WAIT_MS)
    red = badge.evaluate("(one) => getComputedStyle(one).borderTopColor")
    assert red == watcher.page.evaluate(
        "() => { const one = document.createElement('i'); one.className = 'fault'; document.body.append(one);"
        " return getComputedStyle(one).color; }"
    )
    assert call(engine, "GET", "/me")["environment"] == "production"
    watcher.page.set_viewport_size({"width": 390, "height": 844})
    assert badge.is_visible()
    assert watcher.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_task_is_cancelled_and_a_queue_paused_from_the_field_at_the_top(
    watcher: Visitor, engine: Up, endpoint: str
) -> None:
    task = submit(engine, endpoint, {"seconds": 600}, taskId="hello_1")
    look_for(watcher, "cancel hello_1")
    button = watcher.page.get_by_role("button", name="Cancel hello_1")
    expect(button).to_be_focused(timeout=WAIT_MS)
    assert call(engine, "GET", f"/serverless/{endpoint}/tasks/{task}")["cancelRequested"] is False
    assert Axe().run(watcher.page, options=RULES).response["violations"] == []
    watcher.page.keyboard.press("Enter")
    watcher.see("hello_1 is being cancelled.")
    assert ended(engine, endpoint, task)["state"] == "cancelled"
    look_for(watcher, "pause whisp")
    expect(watcher.page.get_by_role("button", name="Pause whisper")).to_be_focused(timeout=WAIT_MS)
    watcher.page.keyboard.press("Enter")
    watcher.see("whisper begins no further task.")
    assert call(engine, "GET", f"/serverless/{endpoint}")["paused"] is True
    look_for(watcher, "resume whisper")
    expect(watcher.page.get_by_role("button", name="Resume whisper")).to_be_focused(timeout=WAIT_MS)
    watcher.page.keyboard.press("Enter")
    watcher.see("whisper begins tasks again.")
    look_for(watcher, "pause nothing")
    watcher.see("There is nothing to pause: no endpoint has this name or id.")
    assert watcher.reports == []


def test_workers_and_views_are_found_at_the_top(watcher: Visitor, engine: Up, endpoint: str) -> None:
    worker = call(engine, "GET", f"/serverless/{endpoint}/workers")[0]["workerId"]
    look_for(watcher, worker[:-2])
    watcher.page.get_by_role("heading", name=worker, level=1).wait_for()
    look_for(watcher, "go to keys")
    watcher.page.get_by_role("heading", name="API keys", level=1).wait_for()
    look_for(watcher, "go to nowhere")
    watcher.see("There is no view of this name.")
    assert watcher.reports == []


def test_a_key_that_only_reads_is_told_so_at_the_top(engine: Up, visitor: Visitor, endpoint: str) -> None:
    visitor.log_in(call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"])
    look_for(visitor, "stop whisper")
    button = visitor.page.get_by_role("button", name="Stop whisper")
    button.wait_for()
    assert button.get_attribute("aria-disabled") == "true"
    button.click(force=True)
    assert call(engine, "GET", f"/serverless/{endpoint}")["status"] == "RUNNING"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_changes_are_found_by_filters_that_the_url_has(watcher: Visitor, engine: Up, endpoint: str, theme: str) -> None:
    watcher.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    call(engine, "POST", f"/serverless/{endpoint}/pause")
    call(engine, "POST", f"/serverless/{endpoint}/resume")
    watcher.open("/console/audit")
    rows = watcher.page.get_by_role("region", name="Changes").locator("tbody tr")
    rows.filter(has_text="create endpoint").first.wait_for()
    watcher.page.get_by_label("Change", exact=True).fill("pause endpoint")
    watcher.page.get_by_label("Of", exact=True).fill(f"endpoint {endpoint}")
    watcher.page.get_by_label("Since", exact=True).fill("1h")
    watcher.page.keyboard.press("Enter")
    watcher.page.wait_for_url("**/console/audit?action=pause_endpoint&target=**&from=**")
    rows.filter(has_text="create endpoint").first.wait_for(state="detached")
    rows.filter(has_text="pause endpoint").first.wait_for()
    assert {row.locator("td").nth(1).inner_text() for row in rows.all()} == {"pause endpoint"}
    settle(watcher)
    assert Axe().run(watcher.page, options=RULES).response["violations"] == []
    watcher.page.set_viewport_size({"width": 390, "height": 844})
    assert watcher.page.evaluate("document.documentElement.scrollWidth") <= 390
    watcher.page.screenshot(path=SHOTS / f"audit-{theme}-390.png", full_page=True)
    watcher.page.get_by_label("Until", exact=True).fill("soon")
    watcher.page.keyboard.press("Enter")
    watcher.see('A time is needed in "Until"')
    watcher.click("Clear", "link")
    rows.filter(has_text="create endpoint").first.wait_for()
    assert watcher.reports == []
    watcher.open("/console/audit?action=eat")
    watcher.see("action: must be one of")


def test_the_log_of_a_worker_begins_at_a_time(watcher: Visitor, engine: Up, endpoint: str) -> None:
    worker = call(engine, "GET", f"/serverless/{endpoint}/workers")[0]["workerId"]
    first = submit(engine, endpoint, 1, taskId="before_it")
    ended(engine, endpoint, first)
    watcher.open(f"/console/workers/{endpoint}/{worker}")
    watcher.see(f"task {first} done")
    began = time.time()
    wait_until(lambda: time.time() - began > 0.05)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began)) + f".{int(began % 1 * 1000):03d}"
    second = submit(engine, endpoint, 1, taskId="after_it")
    ended(engine, endpoint, second)
    watcher.page.get_by_label("From this time on, in UTC").fill(moment)
    watcher.click("Look")
    watcher.page.wait_for_url("**from=**")
    watcher.see(f"task {second} done")
    watcher.page.get_by_text(f"task {first} done").wait_for(state="detached")
    watcher.page.get_by_label("Only lines with this text").fill("listens")
    watcher.click("Look")
    watcher.see("No line matches.")
    watcher.click("Whole log", "link")
    watcher.see("example worker listens")
    watcher.page.set_viewport_size({"width": 390, "height": 844})
    assert watcher.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert Axe().run(watcher.page, options=RULES).response["violations"] == []
    assert watcher.reports == []
