"""What one key has typed or read in the console is gone when another key logs in on the same page."""

import pytest

from tests.browser.conftest import Visitor
from tests.browser.test_console import call, ended, endpoint, submit
from tests.browser.test_create import fill
from tests.integration.test_up import Up

__all__ = ["endpoint"]

SECRET = "typed by the administrator"
SHOWN = """() => {
    const fields = [...document.querySelectorAll('input, textarea')];
    return [document.body.innerText, ...fields.map((one) => one.value)].join('\\n');
}"""


@pytest.fixture(scope="module")
def cloner(engine: Up) -> str:
    created: str = call(engine, "POST", "/keys", {"name": "cloner", "role": "operate"})["key"]
    return created


def log_in(visitor: Visitor, key: str) -> None:
    """Log in on the page as it is. Its scripts keep what they have in memory."""
    visitor.page.get_by_label("API key").fill(key)
    visitor.click("Log in")
    visitor.page.get_by_role("navigation", name="Sections").wait_for()


def log_out(visitor: Visitor) -> None:
    visitor.page.locator("header summary").click()
    visitor.click("Log out")
    visitor.see("You are logged out.")


def shown(visitor: Visitor) -> str:
    """Return all text of the page, with that of its fields."""
    text: str = visitor.page.evaluate(SHOWN)
    return text


class TestCopies:
    def edit_copy(self, visitor: Visitor, engine: Up, endpoint: str) -> None:
        task = submit(engine, endpoint, {"seconds": 0})
        ended(engine, endpoint, task)
        visitor.open(f"/console/tasks/{endpoint}/{task}")
        visitor.click("Clone…")
        visitor.page.get_by_label("edited here").check()
        fill(visitor, "Input of the copy, as JSON", f'"{SECRET}"')

    def test_an_edited_input_is_gone_after_the_log_out(
        self, operator: Visitor, engine: Up, endpoint: str, cloner: str
    ) -> None:
        self.edit_copy(operator, engine, endpoint)
        operator.click("Close")
        log_out(operator)
        log_in(operator, cloner)
        operator.click("Clone…")
        dialog = operator.page.get_by_role("dialog")
        assert dialog.get_by_label("the same").is_checked()
        dialog.get_by_label("edited here").check()
        dialog.get_by_label("Input of the copy, as JSON").wait_for()
        assert SECRET not in shown(operator)
