"""Copies of tasks in the console: the input is edited, and nothing that was typed is lost."""

import json

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import LOG_OUT_ELSEWHERE, call, ended, endpoint, settle, submit
from tests.integration.test_up import API_KEY, Up

__all__ = ["endpoint"]

LARGE = 1_000_000


def test_a_copy_with_another_input_is_submitted(operator: Visitor, engine: Up, endpoint: str) -> None:
    text = '{"fail": "no model", "n": 18446744073709551615, "note": "</textarea><img src=x onerror=alert(1)>"}'
    task = submit(engine, endpoint, json.loads(text), webhook="http://127.0.0.1:9/hook")
    ended(engine, endpoint, task)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.click("Clone…")
    operator.page.get_by_label("edited here").check()
    editor = operator.page.get_by_label("Input of the copy, as JSON")
    assert json.loads(editor.input_value()) == json.loads(text)
    editor.fill('{"n": 18446744073709551615')
    operator.click("Submit the copy")
    operator.see("The input is not JSON.")
    operator.page.screenshot(path=SHOTS / "clone.png", full_page=True)
    for width, theme in ((1280, "light"), (390, "dark")):
        operator.page.set_viewport_size({"width": width, "height": 844})
        operator.page.evaluate("(theme) => document.documentElement.dataset.theme = theme", theme)
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(operator.page).response["violations"] == []
    editor.fill('{"n": 18446744073709551615}')
    operator.page.get_by_label("Send its result to").uncheck()
    operator.click("Submit the copy")
    operator.page.wait_for_url(lambda url: task not in url)
    copy = ended(engine, endpoint, operator.page.url.rpartition("/")[2])
    assert (copy["status"], copy["input"], copy["webhook"]) == ("SUCCESS", {"n": 18446744073709551615}, None)
    assert operator.reports == []


def test_a_large_input_is_copied_without_being_edited(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, "x" * LARGE)
    ended(engine, endpoint, task)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.click("Clone…")
    operator.see("download the input, change it, and choose the file")
    assert operator.page.get_by_label("edited here").count() == 0
    operator.click("Submit the copy")
    operator.page.wait_for_url(lambda url: task not in url)
    assert ended(engine, endpoint, operator.page.url.rpartition("/")[2])["input"] == "x" * LARGE
    operator.click("Clone…")
    operator.page.get_by_label("from a file").check()
    content = b'["%b"]' % (b"y" * LARGE)
    file: FilePayload = {"name": "input.json", "mimeType": "application/json", "buffer": content}
    operator.page.get_by_label("File with the input, as JSON").set_input_files(file)
    before = operator.page.url
    operator.click("Submit the copy")
    operator.page.wait_for_url(lambda url: url != before)
    assert ended(engine, endpoint, operator.page.url.rpartition("/")[2])["input"] == ["y" * LARGE]
    assert operator.reports == []


def test_an_edited_input_outlives_the_session(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"seconds": 0})
    ended(engine, endpoint, task)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.click("Clone…")
    operator.page.get_by_label("edited here").check()
    editor = operator.page.get_by_label("Input of the copy, as JSON")
    editor.fill('{"typed": "by hand"}')
    operator.page.evaluate(LOG_OUT_ELSEWHERE)
    operator.click("Submit the copy")
    operator.see("The session has ended.")
    operator.page.get_by_label("API key").fill(API_KEY)
    operator.click("Log in")
    editor.wait_for()
    assert editor.input_value() == '{"typed": "by hand"}'
    operator.click("Submit the copy")
    operator.page.wait_for_url(lambda url: task not in url)
    copy = call(engine, "GET", f"/serverless/{endpoint}/tasks/{operator.page.url.rpartition('/')[2]}")
    assert copy["input"] == {"typed": "by hand"}


def test_a_key_that_only_reads_is_told_why_it_cannot_copy(visitor: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, 1)
    ended(engine, endpoint, task)
    visitor.log_in(call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"])
    visitor.open(f"/console/tasks/{endpoint}/{task}")
    button = visitor.page.get_by_role("button", name="Clone… : Needs a key with the role submit")
    button.wait_for()
    button.click(force=True)
    settle(visitor)
    assert visitor.page.get_by_role("dialog").count() == 0


def test_the_log_of_an_attempt_is_in_the_timeline(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"seconds": 1})
    ended(engine, endpoint, task)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    timeline = operator.page.get_by_role("region", name="Timeline")
    timeline.get_by_role("button", name="Show the log").click()
    timeline.get_by_text(f"task {task} done").wait_for()
    timeline.get_by_text("lines of the others are among them").wait_for()
    operator.page.set_viewport_size({"width": 390, "height": 844})
    assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert Axe().run(operator.page).response["violations"] == []
    timeline.get_by_role("button", name="Hide the log").click()
    timeline.get_by_text(f"task {task} done").wait_for(state="detached")
    assert operator.reports == []
