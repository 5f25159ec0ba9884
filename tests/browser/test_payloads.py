"""Inputs and outputs of a task in the console."""

import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.large_server import PICTURE, TEXT
from tests.browser.test_console import call, ended, endpoint, submit
from tests.integration.test_up import Up
from tests.waiting import wait_until

__all__ = ["endpoint"]


def test_a_text_is_found_in_an_input(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"texts": ["Needle <b>one</b>", "x" * 2000, "needle two"]})
    ended(engine, endpoint, task)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.page.get_by_role("region", name="Input").get_by_role("button", name="Find").click()
    field = operator.page.get_by_label("Find in the input")
    field.fill("NEEDLE")
    operator.see("1 of 2")
    mark = operator.page.locator("pre mark")
    assert mark.inner_text() == "Needle"
    assert "<b>one</b>" in mark.locator("xpath=..").inner_text()
    operator.page.keyboard.press("Enter")
    operator.see("2 of 2")
    assert mark.inner_text() == "needle"
    operator.page.keyboard.press("Shift+Enter")
    operator.see("1 of 2")
    assert Axe().run(operator.page).response["violations"] == []
    field.fill("absent")
    operator.see("not found")
    assert operator.reports == []


@pytest.fixture(scope="module")
def large(engine: Up) -> str:
    """An endpoint whose container responds with much."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    command = f"exec {sys.executable} {Path(__file__).with_name('large_server.py')}"
    settings = {**body, "name": "large", "workers": 1, "initializationCommand": command}
    created: str = call(engine, "POST", "/serverless", settings)["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    return created


@pytest.mark.parametrize(
    ("path", "begins", "name", "content"),
    [
        ("/picture", '{"contentType": "image/png", "base64": "iVBORw0KGgo', "output.png", PICTURE),
        ("/text", '"<b>é</b>\\n<b>é</b>', "output.txt", TEXT.encode()),
    ],
    ids=["picture", "text"],
)
def test_a_large_output_shows_its_beginning_and_is_downloaded_as_it_was_returned(
    operator: Visitor, engine: Up, large: str, path: str, begins: str, name: str, content: bytes
) -> None:
    task = submit(engine, large, {"text": "x" * 5000, "end": "of it"}, processUri=path)
    ended(engine, large, task)
    sizes: list[int] = []
    operator.page.on("response", lambda one: sizes.append(int(one.headers.get("content-length", 0))))
    operator.open(f"/console/tasks/{large}/{task}")
    operator.see("Too large to be shown here. This is its beginning")
    shown = operator.page.get_by_role("region", name="Output").locator("pre").inner_text()
    assert shown.startswith(begins)
    assert 1000 < len(shown) < 2100
    operator.see("of it")  # the end of the input, which is shown whole
    assert max(sizes) < 1_000_000
    assert Axe().run(operator.page).response["violations"] == []
    operator.page.screenshot(path=SHOTS / f"task-large-{name}.png", full_page=True)
    with operator.page.expect_download() as download:
        operator.click("Download output")
    assert download.value.suggested_filename == f"{task}-{name}"
    assert Path(download.value.path()).read_bytes() == content
    with operator.page.expect_download() as download:
        operator.click("Download input")
    assert Path(download.value.path()).read_text() == '{"text":"%s","end":"of it"}' % ("x" * 5000)
    assert operator.reports == []


def test_a_download_that_fails_says_so(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, 1)
    ended(engine, endpoint, task)
    operator.page.route("**/output", lambda route: route.abort())
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.click("Download output")
    operator.page.get_by_role("region", name="Output").get_by_text("Not done. the API does not respond").wait_for()
