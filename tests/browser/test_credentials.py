"""Credentials of registries in the console: stored, replaced and deleted, and never shown again."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import HOSTILE, LOG_OUT_ELSEWHERE, call, settle
from tests.browser.test_create import RULES, fill
from tests.integration.test_up import API_KEY, Up, delete_endpoints

PATH = "/container-registry-auths"
SECRET = "a password that is not shown"


def delete_credentials(engine: Up) -> None:
    delete_endpoints(engine)
    for one in call(engine, "GET", PATH):
        call(engine, "DELETE", f"{PATH}/{one['id']}")


@pytest.fixture(autouse=True)
def _no_credentials(engine: Up) -> Iterator[None]:
    delete_credentials(engine)
    yield
    delete_credentials(engine)


def create(engine: Up, name: str = "our images") -> int:
    body = {"name": name, "type": "PRIVATE", "username": "robot", "password": SECRET}
    created: int = call(engine, "POST", PATH, body)["id"]
    return created


def use(engine: Up, credential: int) -> str:
    """Create an endpoint that uses the credential."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    changes = {"name": "user", "workers": 0, "containerRegistryAuthId": credential}
    created: str = call(engine, "POST", "/serverless", {**body, **changes})["id"]
    return created


def open_credentials(visitor: Visitor) -> None:
    visitor.open("/console/credentials")
    visitor.page.get_by_role("heading", name="Stored credentials").wait_for()


class TestCredentials:
    def test_a_credential_is_stored_and_its_secret_never_shown(self, operator: Visitor, engine: Up) -> None:
        operator.page.locator("nav").get_by_role("link", name="Credentials").click()
        operator.see("There is no credential.")
        fill(operator, "Name", "our images")
        operator.page.get_by_label("Registry", exact=True).select_option("GCR")
        fill(operator, "User name", "robot")
        fill(operator, "Password or token", SECRET)
        assert operator.page.get_by_label("Password or token").get_attribute("type") == "password"
        operator.click("Store the credential")
        operator.page.get_by_role("row", name=re.compile("our images .* no endpoint")).wait_for()
        (found,) = call(engine, "GET", PATH)
        assert (found["name"], found["type"]) == ("our images", "GCR")
        assert operator.page.get_by_label("Password or token").input_value() == ""
        assert SECRET not in operator.page.content()
        assert operator.reports == []

    def test_only_what_was_typed_is_replaced(self, operator: Visitor, engine: Up) -> None:
        credential = create(engine)
        open_credentials(operator)
        operator.click("Replace… our images")
        assert operator.page.get_by_label("User name").get_attribute("placeholder") == "stored, not shown"
        assert operator.page.get_by_label("Registry", exact=True).is_disabled()
        button = operator.page.get_by_role("button", name=re.compile("^Replace it"))
        assert button.get_attribute("aria-disabled") == "true"
        bodies: list[Any] = []
        operator.page.on("request", lambda one: bodies.append(one.post_data_json) if one.method == "PATCH" else None)
        fill(operator, "Password or token", "another")
        operator.click("Replace it")
        operator.see(f"The credential {credential} is changed.")
        assert bodies == [{"password": "another"}]

    def test_one_that_is_used_says_by_which_endpoint_and_stays(self, operator: Visitor, engine: Up) -> None:
        used, free = create(engine), create(engine, "not used")
        endpoint = use(engine, used)
        open_credentials(operator)
        row = operator.page.get_by_role("row", name=re.compile("our images"))
        row.get_by_role("link", name="user").wait_for()
        operator.click("Delete… our images")
        operator.click("Delete the credential")
        operator.see("the credential is used by an endpoint")
        operator.click("Keep it")
        operator.click("Delete… not used")
        operator.click("Delete the credential")
        operator.see(f"The credential {free} is deleted.")
        assert [one["id"] for one in call(engine, "GET", PATH)] == [used]
        row.get_by_role("link", name="user").click()
        operator.page.wait_for_url(f"**/endpoints/{endpoint}/settings")

    def test_rules_stand_beside_their_fields_and_a_session_that_ends_loses_nothing(
        self, operator: Visitor, engine: Up
    ) -> None:
        open_credentials(operator)
        fill(operator, "Name", "kept")
        fill(operator, "User name", "a:b")
        operator.click("Store the credential")
        operator.see("2 fields break a rule")
        assert "must not have a colon" in operator.page.locator("#f-username-hint").inner_text()
        operator.page.wait_for_function("document.activeElement.id === 'f-username'")
        operator.page.evaluate(LOG_OUT_ELSEWHERE)
        operator.page.get_by_label("API key").wait_for()
        operator.page.get_by_label("API key").fill(API_KEY)
        operator.click("Log in")
        assert operator.page.get_by_label("Name", exact=True).input_value() == "kept"
        assert operator.page.get_by_label("User name").input_value() == "a:b"

    def test_a_key_that_may_not_manage_them_is_told_so(self, engine: Up, visitor: Visitor) -> None:
        create(engine)
        visitor.log_in(call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"])
        open_credentials(visitor)
        for name in ("^Store the credential", "^Replace", "^Delete"):
            button = visitor.page.get_by_role("button", name=re.compile(name))
            assert "role admin" in (button.get_attribute("title") or "")

    def test_one_is_stored_by_the_keyboard_alone(self, operator: Visitor, engine: Up) -> None:
        keyboard = operator.page.keyboard
        keyboard.press("g")
        keyboard.press("c")
        operator.see("There is no credential.")
        operator.page.get_by_label("Name", exact=True).focus()
        for text in ("typed", None, "robot", "secret"):
            if text is not None:
                keyboard.type(text)
            keyboard.press("Tab")
        keyboard.press("Enter")
        operator.page.get_by_role("row", name=re.compile("typed")).wait_for()
        assert [one["name"] for one in call(engine, "GET", PATH)] == ["typed"]

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_no_rule_of_accessibility_is_broken(self, operator: Visitor, engine: Up, theme: str) -> None:
        use(engine, create(engine))
        create(engine, HOSTILE[0])
        operator.page.evaluate("(theme) => localStorage.setItem('queue-engine.theme', theme)", theme)
        open_credentials(operator)
        settle(operator)
        operator.page.screenshot(path=SHOTS / f"credentials-{theme}.png", full_page=True)
        violations = Axe().run(operator.page, options=RULES).response["violations"]
        assert [f"{one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]] == []
        assert "owned" not in operator.page.title()
        operator.page.set_viewport_size({"width": 390, "height": 844})
        operator.page.screenshot(path=SHOTS / f"credentials-390-{theme}.png", full_page=True)
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390
