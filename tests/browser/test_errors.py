"""Groups of errors in the console: found, shown and retried. Saved views of tasks."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SHOTS, WAIT_MS, Visitor
from tests.browser.test_console import call, ended, endpoint, settle, submit
from tests.integration.test_up import Up

__all__ = ["endpoint"]

FAILED = 12
MAX_CLICKS = 3


@pytest.fixture(scope="module")
def failed(engine: Up, endpoint: str) -> list[str]:
    """Tasks that fail of one cause, each with its own number, among others."""
    tasks = [submit(engine, endpoint, {"fail": f"no model {n}"}, taskId=f"fails_{n}") for n in range(FAILED)]
    others = [submit(engine, endpoint, {"fail": "disk <b>full</b>"}), submit(engine, endpoint, {})]
    for task in [*tasks, *others]:
        ended(engine, endpoint, task)
    return tasks


def test_the_tasks_of_an_error_are_found_by_three_clicks(operator: Visitor, endpoint: str, failed: list[str]) -> None:
    operator.clicks = 0
    operator.click("Tasks", "link")
    errors = operator.page.get_by_role("region", name="Errors", exact=True)
    line = errors.get_by_role("row").filter(has_text="no model #")
    operator.clicks += 1
    line.get_by_role("link", name="Show").click()
    rows = operator.page.get_by_role("region", name="Tasks", exact=True).locator("tbody tr")
    expect(operator.page.locator("tr[data-row]")).to_have_count(FAILED, timeout=WAIT_MS)
    assert {row.get_attribute("data-row") for row in rows.all()} == set(failed)
    assert "errorSignature=" in operator.page.url
    assert operator.clicks <= MAX_CLICKS
    operator.page.screenshot(path=SHOTS / "errors.png", full_page=True)
    assert operator.reports == []


def test_all_tasks_of_an_error_are_retried(operator: Visitor, engine: Up, endpoint: str, failed: list[str]) -> None:
    operator.open(f"/console/endpoints/{endpoint}")
    settle(operator)
    operator.page.get_by_role("button", name=f"Retry {FAILED}…").click()
    operator.see(f"{FAILED} of {FAILED} that match would be retried.")
    operator.click(f"Retry {FAILED}")
    operator.page.get_by_role("heading", level=1).wait_for()
    operator.see("retried")
    begun = call(engine, "GET", f"/serverless/{endpoint}/operations")["items"][0]
    assert (begun["action"], list(begun["filter"])) == ("retry", ["errorSignature"])
    assert "no model #" in begun["filter"]["errorSignature"]


def test_a_view_is_saved_opened_and_removed(operator: Visitor, endpoint: str) -> None:
    view = f"/console/tasks?endpoint={endpoint}&status=FAILED&errorContains=no+model"
    operator.open(view)
    operator.click("Save view")
    operator.page.get_by_label("Name of the view").fill("<b>No model</b>")
    operator.page.keyboard.press("Enter")
    operator.page.get_by_role("button", name="Remove saved view").wait_for()
    operator.open(f"/console/tasks?endpoint={endpoint}")
    operator.page.get_by_label("Saved views").select_option("<b>No model</b>")
    operator.page.wait_for_url(f"**{view}")
    operator.click("Remove saved view")
    operator.page.get_by_role("button", name="Save view").wait_for()
    assert operator.page.get_by_label("Saved views").count() == 0
    assert operator.reports == []
