"""Typed text and secrets of one key in the console, which another key on the same page does not get."""

import re

import pytest
from playwright.sync_api import APIResponse, Route

from tests.browser.conftest import Visitor
from tests.browser.test_console import LOG_OUT_ELSEWHERE, call, ended, endpoint, submit
from tests.browser.test_create import fill
from tests.integration.test_up import API_KEY, Up
from tests.waiting import wait_until

__all__ = ["endpoint"]

SECRET = "typed by the administrator"
READ_AGAIN = "document.dispatchEvent(new Event('visibilitychange'))"
SHOWN = """() => {
    const fields = [...document.querySelectorAll('input, textarea')];
    return [document.body.innerText, ...fields.map((one) => one.value)].join('\\n');
}"""


@pytest.fixture(scope="module")
def reader(engine: Up) -> str:
    """A weaker key of the same tenant."""
    created: str = call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"]
    return created


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
    visitor.page.locator("header.top summary").click()
    visitor.click("Log out")
    visitor.see("You are logged out.")


def end_session(visitor: Visitor) -> None:
    """End the session as another window does, and let the view find that out."""
    visitor.page.evaluate(LOG_OUT_ELSEWHERE)
    visitor.page.evaluate(READ_AGAIN)
    visitor.page.get_by_label("API key").wait_for()


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

    def test_an_edited_input_is_not_shown_to_another_key(
        self, operator: Visitor, engine: Up, endpoint: str, cloner: str
    ) -> None:
        self.edit_copy(operator, engine, endpoint)
        end_session(operator)
        log_in(operator, cloner)
        operator.page.get_by_role("button", name="Clone…", exact=True).wait_for()
        assert operator.page.get_by_role("dialog").count() == 0
        operator.click("Clone…")
        assert operator.page.get_by_role("dialog").get_by_label("the same").is_checked()


class TestSecrets:
    """Secrets that an administrator has typed, when the session ends and a key that only reads logs in."""

    def test_a_variable_of_a_new_endpoint(self, operator: Visitor, reader: str) -> None:
        operator.open("/console/endpoints/new")
        type_variable(operator)
        end_session(operator)
        log_in(operator, reader)
        operator.page.get_by_role("button", name="Create the endpoint").wait_for()
        assert SECRET not in shown(operator)

    def test_a_variable_of_an_endpoint(self, operator: Visitor, endpoint: str, reader: str) -> None:
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        end_session(operator)
        log_in(operator, reader)
        operator.see("Nothing is changed.")
        assert SECRET not in shown(operator)

    def test_a_change_whose_response_comes_late(
        self, operator: Visitor, engine: Up, endpoint: str, reader: str
    ) -> None:
        held: list[tuple[Route, APIResponse]] = []

        def hold(route: Route) -> None:
            if route.request.method == "PATCH":
                held.append((route, route.fetch()))
            else:
                route.fallback()

        operator.page.route(f"**/api/serverless/{endpoint}", hold)
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        operator.click("Save")
        wait_until(lambda: operator.page.evaluate("true") and held != [])
        end_session(operator)
        log_in(operator, reader)
        operator.see("Nothing is changed.")
        route, response = held[0]
        with operator.page.expect_request_finished(lambda request: request.method == "PATCH"):
            route.fulfill(response=response)
        operator.page.get_by_role("navigation", name="Sections").get_by_role("link", name="Endpoints").click()
        operator.page.go_back()
        operator.see("Nothing is changed.")
        assert SECRET not in shown(operator)

    def test_a_refusal_of_the_former_session_that_comes_late_ends_no_other(
        self, operator: Visitor, endpoint: str
    ) -> None:
        held: list[Route] = []
        operator.page.route(
            f"**/api/serverless/{endpoint}",
            lambda route: held.append(route) if route.request.method == "PATCH" else route.fallback(),
        )
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        operator.click("Save")
        wait_until(lambda: operator.page.evaluate("true") and held != [])
        end_session(operator)
        log_in(operator, API_KEY)
        refused = {"message": "session: log in", "code": 40101, "data": None}
        with operator.page.expect_request_finished(lambda request: request.method == "PATCH"):
            held[0].fulfill(status=401, json=refused)
        operator.page.get_by_role("navigation", name="Sections").get_by_role("link", name="Workers").click()
        operator.page.get_by_role("heading", name="Workers", exact=True, level=1).wait_for()
        assert operator.page.get_by_label("API key").count() == 0

    def test_the_key_of_a_receiver(self, operator: Visitor, endpoint: str, reader: str) -> None:
        operator.open(f"/console/endpoints/{endpoint}/deliveries")
        fill(operator, "Key of the receiver", SECRET)
        end_session(operator)
        log_in(operator, reader)
        operator.page.get_by_label("Key of the receiver").wait_for()
        assert SECRET not in shown(operator)

    def test_a_credential(self, operator: Visitor, reader: str) -> None:
        operator.open("/console/credentials")
        fill(operator, "Password or token", SECRET)
        end_session(operator)
        log_in(operator, reader)
        operator.page.get_by_label("Password or token").wait_for()
        assert SECRET not in shown(operator)

    def test_the_token_of_an_agent(self, operator: Visitor, reader: str) -> None:
        operator.open("/console/endpoints/new?template=running")
        operator.click("Create the endpoint")
        operator.click("Create a token for the agent")
        operator.see("The token in it is shown only now")
        command = operator.page.get_by_label("The command of the agent").inner_text()
        token = command.split()[0].removeprefix("WORKER_AGENT_TOKEN=")
        assert token in shown(operator)
        end_session(operator)
        log_in(operator, reader)
        operator.page.get_by_role("button", name="Create the endpoint").wait_for()
        assert token not in shown(operator)


class TestTabs:
    """Tabs of a browser, which share the session."""

    @pytest.fixture
    def other(self, operator: Visitor) -> Visitor:
        return Visitor(operator.up, operator.context, operator.context.new_page())

    def test_a_log_out_in_another_tab_takes_the_texts_of_the_key_away(
        self, operator: Visitor, other: Visitor, endpoint: str, reader: str
    ) -> None:
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        other.open("/console/tasks")
        other.page.get_by_role("navigation", name="Sections").wait_for()
        log_out(other)
        operator.see("You were logged out in another tab.")
        assert SECRET not in shown(operator)
        log_in(other, reader)
        operator.page.get_by_label("Key: read").wait_for()
        operator.see("Nothing is changed.")
        assert SECRET not in shown(operator)

    def test_another_key_in_another_tab_is_that_of_this_one_at_once(
        self, operator: Visitor, other: Visitor, endpoint: str, reader: str
    ) -> None:
        """As when the session has ended, which the first tab has not noticed yet."""
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        operator.page.get_by_role("button", name=re.compile("live|every 3 s")).click()
        other.open("/console/tasks")
        end_session(other)
        assert SECRET in shown(operator)
        log_in(other, reader)
        operator.page.get_by_label("Key: read").wait_for()
        operator.see("Nothing is changed.")
        assert SECRET not in shown(operator)

    def test_the_same_key_in_another_tab_keeps_what_is_typed(
        self, operator: Visitor, other: Visitor, endpoint: str
    ) -> None:
        operator.open(f"/console/endpoints/{endpoint}/settings")
        type_variable(operator)
        operator.page.get_by_role("button", name=re.compile("live|every 3 s")).click()
        other.open("/console/tasks")
        end_session(other)
        log_in(other, API_KEY)
        operator.see("1 setting is changed.")
        assert SECRET in shown(operator)


def type_variable(visitor: Visitor) -> None:
    visitor.click("Add a variable")
    visitor.page.locator("[id^=f-environmentVars-][id$=-key]").last.fill("TOKEN")
    visitor.page.get_by_label("Value", exact=True).last.fill(SECRET)
    assert SECRET in shown(visitor)


def test_saved_views_are_those_of_the_key(operator: Visitor, reader: str) -> None:
    operator.open("/console/tasks?status=FAILED")
    operator.click("Save view")
    fill(operator, "Name of the view", SECRET)
    operator.click("Save")
    operator.page.get_by_role("button", name="Remove saved view").wait_for()
    log_out(operator)
    log_in(operator, reader)
    operator.page.get_by_role("button", name="Save view").wait_for()
    assert SECRET not in shown(operator)
    log_out(operator)
    log_in(operator, API_KEY)
    operator.page.get_by_label("Saved views").get_by_text(SECRET).wait_for(state="attached")
