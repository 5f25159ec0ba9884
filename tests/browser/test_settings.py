"""The settings of an endpoint in the console: the difference, errors, changes by others, and what stays typed."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Route

from queue_engine.crypto.sealing import Sealer, parse_secret_key
from queue_engine.local.embedded import read_store_url
from queue_engine.store.store import Store
from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import LOG_OUT_ELSEWHERE, call, settle
from tests.browser.test_create import RULES, fill
from tests.integration.test_up import API_KEY, Up, delete_endpoints
from tests.waiting import wait_until

VARIABLES = [{"key": "MODEL", "value": "a stored value"}, {"key": "LEVEL", "value": "info", "secret": False}]


@pytest.fixture
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint without workers, with variables."""
    delete_endpoints(engine)
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    changes = {"name": "settled", "workers": 0, "environmentVars": VARIABLES, "maxAttempts": 4}
    created: str = call(engine, "POST", "/serverless", {**body, **changes})["id"]
    yield created
    delete_endpoints(engine)


@pytest.fixture
def operator(endpoint: str, visitor: Visitor) -> Visitor:
    """A visitor who logs in when the endpoints of tests before are deleted, so that no view asks for one of them."""
    visitor.log_in()
    return visitor


def stored(engine: Up, endpoint: str) -> dict[str, Any]:
    found: dict[str, Any] = call(engine, "GET", f"/serverless/{endpoint}")
    return found


def environment_of(engine: Up, endpoint: str) -> dict[str, str]:
    """Return the stored values, which no API returns."""

    async def read() -> dict[str, str]:
        sealer = Sealer(parse_secret_key((engine.data_dir / "secret-key").read_text().strip()))
        store = Store(str(read_store_url(engine.data_dir / "store")), sealer)
        try:
            return await store.endpoints.environment(endpoint)
        finally:
            await store.close()

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, read()).result()


def open_settings(visitor: Visitor, endpoint: str, *, more: bool = True) -> None:
    visitor.open(f"/console/endpoints/{endpoint}/settings")
    name_of(visitor).wait_for()
    if more:
        visitor.page.get_by_text("More settings").click()


def name_of(visitor: Visitor) -> Locator:
    """The field of the endpoint's name. Variables have one with the same label."""
    return visitor.page.locator("#f-name")


def difference(visitor: Visitor, name: str) -> Locator:
    return visitor.page.get_by_role("region", name="Difference").last.get_by_role("row", name=re.compile(f"^{name} "))


def log_in_again(visitor: Visitor) -> None:
    visitor.page.get_by_label("API key").fill(API_KEY)
    visitor.click("Log in")


class TestSettings:
    def test_only_what_was_changed_is_sent(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        before = stored(engine, endpoint)
        open_settings(operator, endpoint)
        assert operator.page.get_by_label("Image", exact=True).get_attribute("readonly") is not None
        save = operator.page.get_by_role("button", name=re.compile("^Save"))
        assert save.get_attribute("aria-disabled") == "true"
        fill(operator, "Max attempts", "9")
        fill(operator, "Queue TTL seconds", "60")
        row = difference(operator, "Max attempts")
        assert re.sub(r"\s+", " ", row.inner_text()) == "Max attempts 4 9 stay"
        operator.see("No worker is replaced.")
        operator.see("2 settings are changed.")
        command = operator.page.get_by_label("The request as a command").inner_text()
        assert "-X PATCH" in command
        assert f"/v2/serverless/{endpoint}" in command
        bodies: list[Any] = []
        operator.page.on("request", lambda one: bodies.append(one.post_data_json) if one.method == "PATCH" else None)
        operator.click("Save")
        operator.see("Saved.")
        assert bodies == [{"maxAttempts": 9, "queueTtlSeconds": 60}]
        after = stored(engine, endpoint)
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"maxAttempts", "queueTtlSeconds", "updatedAt"}
        fill(operator, "Max attempts", "")
        assert "5 (default)" in difference(operator, "Max attempts").inner_text()
        operator.click("Save")
        wait_until(lambda: stored(engine, endpoint)["maxAttempts"] == 5)
        assert operator.reports == []

    def test_the_workers_that_are_replaced_are_named(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        call(engine, "PATCH", f"/serverless/{endpoint}", {"workers": 1})
        wait_until(lambda: stored(engine, endpoint)["status"] == "RUNNING")
        (before,) = call(engine, "GET", f"/serverless/{endpoint}/workers")
        open_settings(operator, endpoint)
        fill(operator, "Concurrency", "3")
        assert "replaced" in difference(operator, "Concurrency").inner_text()
        operator.see("1 worker is replaced")
        operator.page.get_by_role("link", name=before["workerId"]).wait_for()
        operator.page.get_by_text("1 setting is changed.").scroll_into_view_if_needed()
        operator.page.screenshot(path=SHOTS / "settings.png")
        operator.click("Save")
        operator.see("Workers are replaced now")
        wait_until(lambda: stored(engine, endpoint)["concurrency"] == 3)
        path = f"/serverless/{endpoint}/workers"
        wait_until(lambda: before["workerId"] not in [one["workerId"] for one in call(engine, "GET", path)])

    def test_stored_values_of_variables_are_never_shown_or_lost(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        open_settings(operator, endpoint)
        assert "a stored value" not in operator.page.content()
        level, model = (operator.page.locator(f"#f-environmentVars-{index}-value") for index in range(2))
        assert (model.input_value(), model.get_attribute("placeholder")) == ("", "stored, not shown")
        level.fill("debug")
        assert "LEVEL: new value, not secret" in difference(operator, "Environment vars").inner_text()
        assert "MODEL" not in difference(operator, "Environment vars").locator("b").inner_text()
        bodies: list[Any] = []
        operator.page.on("request", lambda one: bodies.append(one.post_data_json) if one.method == "PATCH" else None)
        operator.click("Save")
        operator.see("Saved.")
        kept = {"key": "MODEL"}
        assert bodies == [{"environmentVars": [{"key": "LEVEL", "value": "debug", "secret": False}, kept]}]
        assert environment_of(engine, endpoint) == {"LEVEL": "debug", "MODEL": "a stored value"}
        model.fill("another secret")
        assert "another secret" not in operator.page.get_by_label("The request as a command").inner_text()
        operator.click("Save")
        wait_until(lambda: environment_of(engine, endpoint) == {"LEVEL": "debug", "MODEL": "another secret"})
        operator.page.get_by_text("Saved.", exact=True).wait_for()
        assert "another secret" not in operator.page.content()
        operator.page.locator("#f-environmentVars-1-key").fill("RENAMED")
        save = operator.page.get_by_role("button", name=re.compile("^Save"))
        assert save.get_attribute("aria-disabled") == "true"
        operator.see("Type the value of RENAMED, or restore the name.")

    def test_rules_stand_beside_their_fields_and_a_session_that_ends_loses_nothing(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        open_settings(operator, endpoint)
        name_of(operator).fill("9 wrong")
        fill(operator, "Max attempts", "1000")
        operator.click("Save")
        operator.see("2 fields break a rule")
        assert "must be letters" in operator.page.locator("#f-name-hint").inner_text()
        assert "at most 100" in operator.page.locator("#f-maxAttempts-hint").inner_text()
        assert operator.page.evaluate("document.activeElement.id") == "f-name"
        assert stored(engine, endpoint)["maxAttempts"] == 4
        operator.page.evaluate(LOG_OUT_ELSEWHERE)
        operator.page.get_by_label("API key").wait_for()
        log_in_again(operator)
        assert name_of(operator).input_value() == "9 wrong"
        name_of(operator).fill("right")
        operator.page.get_by_text("More settings").click()
        fill(operator, "Max attempts", "6")
        operator.click("Save")
        operator.see("Saved.")
        assert (stored(engine, endpoint)["name"], stored(engine, endpoint)["maxAttempts"]) == ("right", 6)

    def test_a_change_by_somebody_else_is_told_and_kept(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        open_settings(operator, endpoint)
        fill(operator, "Max attempts", "6")
        call(engine, "PATCH", f"/serverless/{endpoint}", {"concurrency": 8})
        operator.see("Changed elsewhere since you began:")
        assert operator.page.get_by_label("Concurrency", exact=True).input_value() == "8"
        assert operator.page.get_by_label("Max attempts", exact=True).input_value() == "6"
        operator.click("Save")
        operator.see("Saved.")
        assert (stored(engine, endpoint)["concurrency"], stored(engine, endpoint)["maxAttempts"]) == (8, 6)

    def test_a_setting_that_both_change_is_asked_about_before_it_is_written(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        open_settings(operator, endpoint)
        operator.page.get_by_role("button", name=re.compile("live|every 3 s")).click()
        fill(operator, "Max attempts", "6")

        values: list[int] = []

        def change_first(route: Route) -> None:
            """Before each read, because the page may still read the endpoint by itself before *Save* does."""
            if route.request.method == "GET":
                values.append(8 + len(values))
                call(engine, "PATCH", f"/serverless/{endpoint}", {"maxAttempts": values[-1]})
            route.continue_()

        operator.page.route(f"**/console/api/serverless/{endpoint}", change_first)
        operator.click("Save")
        operator.see("Max attempts was changed elsewhere a moment ago.")
        operator.page.unroute(f"**/console/api/serverless/{endpoint}")
        assert stored(engine, endpoint)["maxAttempts"] == values[-1]
        assert str(values[-1]) in difference(operator, "Max attempts").inner_text()
        operator.click("Save")
        wait_until(lambda: stored(engine, endpoint)["maxAttempts"] == 6)  # the words before, "Not saved.", match too
        operator.page.get_by_text("Saved.", exact=True).wait_for()

    def test_of_two_who_save_at_the_same_moment_one_is_told(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        """The other change is made between the read of the form and its change."""
        open_settings(operator, endpoint)
        operator.page.get_by_role("button", name=re.compile("live|every 3 s")).click()
        fill(operator, "Max attempts", "6")

        lost: list[str] = []

        def lose_the_race(route: Route) -> None:
            if route.request.method == "PATCH" and not lost:
                lost.append(route.request.headers["if-match"])
                call(engine, "PATCH", f"/serverless/{endpoint}", {"maxAttempts": 8, "concurrency": 9})
            route.continue_()

        operator.page.route(f"**/console/api/serverless/{endpoint}", lose_the_race)
        operator.click("Save")
        operator.see("Max attempts was changed elsewhere a moment ago.")
        assert (stored(engine, endpoint)["maxAttempts"], stored(engine, endpoint)["concurrency"]) == (8, 9)
        assert operator.page.get_by_label("Max attempts", exact=True).input_value() == "6"
        assert operator.page.get_by_label("Concurrency", exact=True).input_value() == "9"
        operator.click("Save")
        operator.page.get_by_text("Saved.", exact=True).wait_for()
        assert (stored(engine, endpoint)["maxAttempts"], stored(engine, endpoint)["concurrency"]) == (6, 9)
        assert len(lost) == 1

    def test_a_value_that_others_may_have_changed_is_asked_about(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        open_settings(operator, endpoint)
        operator.page.locator("#f-environmentVars-1-value").fill("mine")
        theirs = [{"key": "LEVEL", "secret": False}, {"key": "MODEL", "value": "theirs"}]
        call(engine, "PATCH", f"/serverless/{endpoint}", {"environmentVars": theirs})
        operator.click("Save")
        operator.see("perhaps values of its environment")
        assert environment_of(engine, endpoint)["MODEL"] == "theirs"
        operator.click("Save")
        wait_until(lambda: environment_of(engine, endpoint) == {"LEVEL": "info", "MODEL": "mine"})

    def test_a_key_that_may_not_change_is_told_so(self, engine: Up, visitor: Visitor, endpoint: str) -> None:
        visitor.log_in(call(engine, "POST", "/keys", {"name": "operator", "role": "operate"})["key"])
        open_settings(visitor, endpoint)
        fill(visitor, "Max attempts", "6")
        button = visitor.page.get_by_role("button", name=re.compile("^Save"))
        assert button.get_attribute("aria-disabled") == "true"
        assert "role admin" in (button.get_attribute("title") or "")

    def test_a_setting_is_changed_by_the_keyboard_alone(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        open_settings(operator, endpoint, more=False)
        name_of(operator).focus()
        keyboard = operator.page.keyboard
        keyboard.press("Control+a")
        keyboard.type("typed")
        for _ in range(60):
            keyboard.press("Tab")
            if operator.page.evaluate("document.activeElement.textContent") == "Save":
                break
        keyboard.press("Enter")
        operator.see("Saved.")
        assert stored(engine, endpoint)["name"] == "typed"

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_no_rule_of_accessibility_is_broken(self, operator: Visitor, endpoint: str, theme: str) -> None:
        operator.page.evaluate("(theme) => localStorage.setItem('queue-engine.theme', theme)", theme)
        open_settings(operator, endpoint)
        fill(operator, "Max attempts", "1000")
        operator.page.locator("#f-environmentVars-1-value").fill("debug")
        settle(operator)
        operator.page.screenshot(path=SHOTS / f"settings-{theme}.png", full_page=True)
        violations = Axe().run(operator.page, options=RULES).response["violations"]
        assert [f"{one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]] == []

    def test_it_is_usable_on_a_telephone(self, operator: Visitor, endpoint: str) -> None:
        operator.page.set_viewport_size({"width": 390, "height": 844})
        open_settings(operator, endpoint)
        fill(operator, "Max attempts", "9")
        settle(operator)
        operator.page.screenshot(path=SHOTS / "settings-390.png", full_page=True)
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390
