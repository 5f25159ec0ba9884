"""Inputs and outputs of a task in the console."""

from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Visitor
from tests.browser.test_console import ended, endpoint, submit
from tests.integration.test_up import Up

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
