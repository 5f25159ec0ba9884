"""A new endpoint in the console: the form, its errors, and what stays when a session ends; the first run in full."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import LOG_OUT_ELSEWHERE, call, ended, settle
from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up, delete_endpoints
from tests.waiting import wait_until

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
VIEWS = {"create": "/console/endpoints/new", "create-running": "/console/endpoints/new?template=running"}


@pytest.fixture(autouse=True)
def _no_endpoints(engine: Up) -> Iterator[None]:
    """Begin and end without endpoints; those of other files may be left."""
    delete_endpoints(engine)
    yield
    delete_endpoints(engine)


def only_endpoint(engine: Up) -> dict[str, Any]:
    (one,) = call(engine, "GET", "/serverless")
    found: dict[str, Any] = call(engine, "GET", f"/serverless/{one['id']}")
    return found


def fill(visitor: Visitor, label: str, text: str) -> None:
    visitor.page.get_by_label(label, exact=True).fill(text)


class TestForm:
    def test_an_endpoint_is_created_as_the_command_says(self, operator: Visitor, engine: Up) -> None:
        operator.open("/console/endpoints")
        operator.click("New endpoint", "link")
        fill(operator, "Name", "made")
        fill(operator, "Initialization command", "python -m queue_engine.example_worker")
        fill(operator, "Workers", "0")
        operator.click("Add a variable")
        fill(operator, "Value", "the secret value")
        operator.page.locator("#f-environmentVars-0-key").fill("MODEL")
        operator.page.get_by_text("More settings").click()
        fill(operator, "Max attempts", "7")
        fill(operator, "Retry delays", "1, 2.5")
        shown = operator.page.get_by_label("The request as a command").inner_text()
        assert "the secret value" not in shown
        assert '"maxAttempts": 7' in shown
        operator.click("Create the endpoint")
        operator.page.get_by_role("heading", name="made", exact=True).wait_for()
        found = only_endpoint(engine)
        assert (found["name"], found["maxAttempts"], found["retryDelaysSeconds"]) == ("made", 7, [1, 2.5])
        assert found["environmentVars"][0]["key"] == "MODEL"
        assert operator.reports == []

    def test_rules_stand_beside_their_fields_and_nothing_is_lost(self, operator: Visitor, engine: Up) -> None:
        operator.open("/console/endpoints/new")
        fill(operator, "Name", "9 wrong")
        fill(operator, "Workers", "many")
        operator.page.get_by_text("More settings").click()
        fill(operator, "Max attempts", "1000")
        operator.click("Create the endpoint")
        operator.see("3 fields break a rule")
        for field, rule in (
            ("name", "must be letters"),
            ("workers", "must be an integer"),
            ("maxAttempts", "at most 100"),
        ):
            assert rule in operator.page.locator(f"#f-{field}-hint").inner_text()
            assert operator.page.locator(f"#f-{field}").get_attribute("aria-invalid") == "true"
        assert operator.page.evaluate("document.activeElement.id") == "f-name"
        operator.page.screenshot(path=SHOTS / "create-errors.png", full_page=True)
        operator.page.evaluate(LOG_OUT_ELSEWHERE)
        operator.click("Create the endpoint")
        operator.page.get_by_label("API key").wait_for()
        operator.page.get_by_label("API key").fill(API_KEY)
        operator.click("Log in")
        assert operator.page.get_by_label("Workers", exact=True).input_value() == "many"
        fill(operator, "Workers", "0")
        fill(operator, "Name", "right")
        operator.page.get_by_text("More settings").click()
        fill(operator, "Max attempts", "3")
        operator.click("Create the endpoint")
        operator.page.get_by_role("heading", name="right", exact=True).wait_for()
        assert only_endpoint(engine)["maxAttempts"] == 3

    def test_a_key_that_may_not_create_is_told_so(self, engine: Up, visitor: Visitor) -> None:
        visitor.log_in(call(engine, "POST", "/keys", {"name": "operator", "role": "operate"})["key"])
        visitor.open("/console/endpoints/new")
        button = visitor.page.get_by_role("button", name=re.compile("^Create the endpoint"))
        assert button.get_attribute("aria-disabled") == "true"

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_no_rule_of_accessibility_is_broken(self, operator: Visitor, theme: str) -> None:
        operator.page.evaluate("(theme) => localStorage.setItem('queue-engine.theme', theme)", theme)
        for name, path in VIEWS.items():
            operator.open(path)
            operator.page.get_by_label("Name", exact=True).wait_for()
            operator.page.get_by_text("More settings").click()
            operator.click("Add a variable")
            settle(operator)
            operator.page.screenshot(path=SHOTS / f"{name}-{theme}.png", full_page=True)
            violations = Axe().run(operator.page, options=RULES).response["violations"]
            assert [f"{one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]] == []

    def test_it_is_usable_on_a_telephone(self, operator: Visitor) -> None:
        operator.page.set_viewport_size({"width": 390, "height": 844})
        for name, path in VIEWS.items():
            operator.open(path)
            operator.page.get_by_text("More settings").click()
            settle(operator)
            operator.page.screenshot(path=SHOTS / f"{name}-390.png", full_page=True)
            assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390, name


class TestFirstRunInFull:
    def test_an_endpoint_that_does_not_come_up_shows_its_log(self, operator: Visitor, engine: Up) -> None:
        operator.open("/console/start")
        operator.page.get_by_text("My command or image").click()
        fill(operator, "Initialization command", "sh -c 'echo no GPU here; exit 3'")
        operator.click("Create the endpoint")
        operator.see("container exited with status 3")
        operator.page.get_by_label("The latest lines of the worker's log").get_by_text("no GPU here").first.wait_for()

    def test_a_server_that_runs_gets_an_agent(self, operator: Visitor, engine: Up) -> None:
        operator.open("/console/start")
        operator.page.get_by_text("A server that runs already").click()
        operator.click("Create the endpoint")
        operator.see("No agent has come yet")
        operator.click("Create a token for the agent")
        command = operator.page.get_by_label("The command of the agent")
        command.get_by_text("WORKER_AGENT_TOKEN=").wait_for()
        text = command.inner_text()
        endpoint = only_endpoint(engine)["id"]
        found = re.fullmatch(
            rf"WORKER_AGENT_TOKEN=(\S+) worker-agent --server {operator.base} --endpoint {endpoint} "
            r"--container-url http://127\.0\.0\.1:9000",
            text.strip(),
        )
        assert found is not None, text
        tokens = call(engine, "GET", f"/serverless/{endpoint}/agent-tokens")
        assert len(tokens) == 1
        response = httpx.post(f"{operator.base}/agent/v1/none", headers={"Authorization": f"Bearer {found[1]}"})
        assert response.status_code != 401

    def test_what_comes_next_is_one_click_each(self, operator: Visitor, engine: Up) -> None:
        with HttpServer() as receiver:
            operator.open("/console/start")
            operator.click("Create the endpoint")
            operator.see("2 of 2 workers run, after")
            operator.page.get_by_label("Input").fill('{"prompt": 12345678901234567890123}')
            operator.page.keyboard.press("Control+Enter")
            operator.page.get_by_label("Next").wait_for()
            operator.click("From Python")
            operator.page.get_by_label("The same as a program").get_by_text("queue_engine.client").wait_for()
            operator.click("From curl")
            operator.page.get_by_label("The same as a program").get_by_text("wait=30").wait_for()
            operator.click("Make it fail")
            operator.see("failed")
            operator.page.get_by_label("Next").wait_for()
            operator.click("Add a webhook")
            fill(operator, "Webhook", f"{receiver.url}/hook")
            fill(operator, "Id", "with_hook")
            operator.click("Submit Ctrl Enter")
            assert b"12345678901234567890123" in receiver.next(60).body
            endpoint = only_endpoint(engine)["id"]
            operator.page.get_by_label("Next").wait_for()
            operator.click("Kill a worker while it runs")
            operator.page.get_by_role("link", name="with_hook").wait_for(state="detached")
            path = f"/serverless/{endpoint}/workers"
            wait_until(lambda: any(one["restarts"] > 0 for one in call(engine, "GET", path)))
            assert operator.reports == []

    def test_what_was_typed_stays_when_the_session_ends(self, operator: Visitor, engine: Up) -> None:
        operator.open("/console/start")
        operator.click("Create the endpoint")
        operator.see("2 of 2 workers run")
        operator.page.get_by_label("Input").fill('{"prompt": "typed"}')
        operator.page.evaluate(LOG_OUT_ELSEWHERE)
        operator.page.get_by_label("API key").wait_for()
        operator.page.get_by_label("API key").fill(API_KEY)
        operator.click("Log in")
        assert operator.page.get_by_label("Input").input_value() == '{"prompt": "typed"}'
        operator.click("Submit Ctrl Enter")
        operator.page.get_by_label("Next").wait_for()
        endpoint = only_endpoint(engine)["id"]
        (task,) = call(engine, "GET", f"/serverless/{endpoint}/tasks")["items"]
        assert ended(engine, endpoint, task["taskId"])["input"] == {"prompt": "typed"}
