"""The columns of the list of tasks: chosen, kept for the key, and usable without a mouse."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import SHOTS, WAIT_MS, Visitor
from tests.browser.test_charts import RULES
from tests.browser.test_console import call, ended, endpoint, submit
from tests.integration.test_up import Up

__all__ = ["endpoint"]

USUAL = ["State", "Created", "Since or ran", "Attempts", "Delivery", "Why it failed"]


@pytest.fixture(scope="module")
def tagged(engine: Up, endpoint: str) -> str:
    task = submit(engine, endpoint, 1, taskId="tagged", tags=["night", "late"], fairnessKey="customer-7")
    ended(engine, endpoint, task)
    return task


def heads(visitor: Visitor) -> list[str]:
    """The words of the columns behind that of the task."""
    region = visitor.page.get_by_role("region", name="Tasks", exact=True)
    words: list[str] = region.locator("th").all_inner_texts()
    return words[2:]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_columns_are_chosen_by_the_keyboard_and_kept_for_the_key(
    operator: Visitor, engine: Up, endpoint: str, tagged: str, theme: str
) -> None:
    page = operator.page
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    view = f"/console/tasks?endpoint={endpoint}&idPrefix={tagged}"
    operator.open(view)
    row = page.locator(f"tr[data-row='{tagged}']")
    row.wait_for()
    assert heads(operator) == USUAL
    choice = page.locator("summary", has_text="Columns")
    choice.focus()
    page.keyboard.press("Enter")
    for name in ("Tags", "Fairness key", "Attempts"):
        page.get_by_label(name, exact=True).focus()
        page.keyboard.press("Space")
    assert Axe().run(page, options=RULES).response["violations"] == []
    page.keyboard.press("Escape")
    expect(choice).to_be_focused(timeout=WAIT_MS)
    chosen = ["State", "Created", "Since or ran", "Fairness key", "Tags", "Delivery", "Why it failed"]
    assert heads(operator) == chosen
    row.get_by_text("late, night").wait_for()
    row.get_by_text("customer-7").wait_for()
    page.reload()
    row.wait_for()
    assert heads(operator) == chosen
    page.set_viewport_size({"width": 390, "height": 844})
    choice.click()
    page.get_by_label("Webhook", exact=True).scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=SHOTS / f"columns-{theme}-390.png")
    operator.click("Usual columns")
    assert heads(operator) == USUAL
    assert operator.reports == []


def test_another_key_has_its_own_columns(operator: Visitor, engine: Up, endpoint: str, tagged: str) -> None:
    view = f"/console/tasks?endpoint={endpoint}&idPrefix={tagged}"
    operator.open(view)
    operator.page.locator("summary", has_text="Columns").click()
    operator.page.get_by_label("Delivery", exact=True).uncheck()
    assert "Delivery" not in heads(operator)
    operator.page.locator("summary[aria-label^=Key]").click()
    operator.click("Log out")
    operator.page.get_by_label("API key").fill(call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"])
    operator.click("Log in")
    operator.page.get_by_role("navigation", name="Sections").wait_for()  # else the next page ends the log-in
    operator.open(view)
    operator.page.locator(f"tr[data-row='{tagged}']").wait_for()
    assert heads(operator) == USUAL
