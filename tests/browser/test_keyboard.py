"""Flows by the keyboard alone: no test here touches the pointer."""

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visitor
from tests.browser.figures import note
from tests.browser.test_console import call, ended, endpoint, submit
from tests.integration.test_up import API_KEY, Up
from tests.waiting import wait_until

__all__ = ["endpoint"]

MAX_TABS = 120
FOCUSED = """() => {
    const one = document.activeElement;
    const label = one.labels?.[0]?.innerText ?? "";
    return (one.getAttribute("aria-label") || label || one.innerText || one.value || "").trim();
}"""


@pytest.fixture
def typist(visitor: Visitor) -> Visitor:
    """A visitor who has logged in by the keyboard."""
    visitor.open("/console")
    visitor.page.get_by_label("API key").wait_for()
    tab_to(visitor, "API key")
    visitor.page.keyboard.type(API_KEY)
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_role("navigation", name="Sections").wait_for()
    return visitor


def focused(visitor: Visitor) -> str:
    return str(visitor.page.evaluate(FOCUSED))


def tab_to(visitor: Visitor, name: str) -> None:
    """Press Tab until what has the name has the focus, and see that the focus is shown."""
    for _ in range(MAX_TABS):
        if focused(visitor) == name:
            return
        visitor.page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not come to {name!r}; the focus is on {focused(visitor)!r}")


def press(visitor: Visitor, name: str, key: str = "Enter") -> None:
    tab_to(visitor, name)
    visitor.page.keyboard.press(key)


def find(visitor: Visitor, text: str) -> None:
    visitor.page.keyboard.press("Control+k")
    visitor.page.keyboard.type(text)
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_role("heading", name=text, exact=True).wait_for()


def test_a_task_is_found_cancelled_retried_and_removed(typist: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"seconds": 600}, taskId="by_keys")
    find(typist, task)
    typist.see("runs now")
    press(typist, "Cancel")
    typist.page.get_by_role("button", name="Retry", exact=True).wait_for()
    press(typist, "Retry")
    typist.page.get_by_role("button", name="Cancel", exact=True).wait_for()
    typist.see("runs now")
    press(typist, "Cancel")
    typist.page.get_by_role("button", name="Delete…").wait_for()
    press(typist, "Delete…")
    press(typist, "Remove the task")
    typist.page.get_by_role("heading", name="Tasks", exact=True, level=1).wait_for()
    page = call(engine, "GET", f"/serverless/{endpoint}/tasks?cursor=&idPrefix=by_keys")
    assert page["items"] == []
    assert typist.reports == []


def test_all_that_match_are_retried(typist: Visitor, engine: Up, endpoint: str) -> None:
    for number in range(3):
        ended(engine, endpoint, submit(engine, endpoint, {"fail": "no keys"}, taskId=f"keys_{number}"))
    keyboard = typist.page.keyboard
    keyboard.press("g")
    keyboard.press("t")
    typist.page.locator("tr[data-row]").first.wait_for()
    keyboard.press("/")
    keyboard.type("id:keys_")
    keyboard.press("Enter")
    typist.page.wait_for_url("**idPrefix=keys_")
    expect(typist.page.locator("tr[data-row]")).to_have_count(3)
    press(typist, "Retry all…")
    typist.see("3 of 3 that match would be retried.")
    press(typist, "Retry 3")
    typist.page.get_by_role("heading", name="Result").wait_for()
    operation = call(engine, "GET", f"/serverless/{endpoint}/operations?pageSize=1")["items"][0]
    assert (operation["action"], operation["done"]) == ("retry", 3)
    assert typist.reports == []


def test_a_task_is_copied_with_another_input(typist: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"n": 1}, taskId="copied_by_keys")
    ended(engine, endpoint, task)
    find(typist, task)
    press(typist, "Clone…")
    tab_to(typist, "the same, 8 B" if typist.page.get_by_label("the same, 8 B").count() else "the same, 7 B")
    typist.page.keyboard.press("ArrowDown")
    tab_to(typist, "Input of the copy, as JSON")
    typist.page.keyboard.press("Control+a")
    typist.page.keyboard.type('{"n": 2}')
    press(typist, "Submit the copy")
    typist.page.wait_for_url(lambda url: task not in url)
    copy = ended(engine, endpoint, typist.page.url.rpartition("/")[2])
    assert copy["input"] == json.loads('{"n": 2}')
    assert typist.reports == []


def test_a_queue_is_paused_and_resumed(typist: Visitor, engine: Up, endpoint: str) -> None:
    typist.open(f"/console/endpoints/{endpoint}")
    typist.page.get_by_role("heading", name="worker", exact=True).wait_for()
    press(typist, "Pause the queue")
    typist.see("The queue is paused.")
    press(typist, "Resume the queue")
    typist.page.get_by_text("The queue is paused.").wait_for(state="detached")
    wait_until(lambda: call(engine, "GET", f"/serverless/{endpoint}")["paused"] is False)
    assert typist.reports == []
    note("flows by the keyboard alone", "log in, find and change a task, bulk retry, copy, pause", "every flow")
