"""The installation in the console: for an operator, for a tenant, and on the overview."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Route

from tests.browser.conftest import SHOTS, Visitor
from tests.browser.test_console import call, settle
from tests.browser.test_create import RULES
from tests.forked import run_command
from tests.integration.test_up import Up, delete_endpoints


@pytest.fixture(scope="module")
def operators_key(engine: Up) -> str:
    url = (engine.data_dir / "store" / "store-url").read_text().strip()
    arguments = ("queue_engine", "keys", "create", "--operator", "--name", "console", "--redis-url", url)
    done = run_command(arguments)
    assert done.returncode == 0, done.stderr
    found = re.search(r"[A-Za-z0-9_-]{30,}", done.stdout)
    assert found is not None, done.stdout
    return found[0]


def test_a_tenant_sees_its_use_and_no_fact_of_the_installation(operator: Visitor) -> None:
    operator.page.locator("nav").get_by_role("link", name="System").click()
    operator.page.get_by_role("heading", name="What this tenant uses").wait_for()
    operator.see("Nothing was found wrong.")
    operator.page.get_by_role("row", name=re.compile("stored bytes")).wait_for()
    assert operator.page.get_by_role("heading", name="Processes").count() == 0
    assert operator.reports == []


def test_an_operator_sees_store_and_processes(visitor: Visitor, operators_key: str) -> None:
    visitor.log_in(operators_key)
    visitor.page.get_by_role("heading", name="Processes").wait_for()
    row = visitor.page.get_by_role("row", name=re.compile("controller"))
    row.get_by_text("leads").wait_for()
    visitor.see("append-only file")
    visitor.see("from this API process")
    assert visitor.page.get_by_role("link", name="Tasks").count() == 0
    assert visitor.reports == []


def test_the_overview_names_what_is_wrong_with_the_installation(operator: Visitor, engine: Up) -> None:
    warning = {"code": "no_leader", "level": "bad", "message": "no controller leads, so workers are not started"}

    def answer(route: Route) -> None:
        found = route.fetch().json()
        found["data"]["warnings"] = [warning]
        route.fulfill(json=found)

    operator.page.route("**/console/api/system", answer)
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    call(engine, "POST", "/serverless", {**body, "name": "idle", "workers": 0})
    try:
        operator.open("/console")
        operator.see("no controller leads")
        operator.click("Open the system", "link")
        operator.page.get_by_role("heading", name="What is wrong").wait_for()
        operator.see("no controller leads")
    finally:
        delete_endpoints(engine)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(visitor: Visitor, operators_key: str, theme: str) -> None:
    visitor.log_in(operators_key)
    visitor.page.evaluate("(theme) => localStorage.setItem('queue-engine.theme', theme)", theme)
    visitor.open("/console/system")
    visitor.page.get_by_role("heading", name="Processes").wait_for()
    settle(visitor)
    visitor.page.screenshot(path=SHOTS / f"system-operator-{theme}.png", full_page=True)
    violations = Axe().run(visitor.page, options=RULES).response["violations"]
    assert [f"{one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]] == []
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.page.screenshot(path=SHOTS / f"system-operator-390-{theme}.png", full_page=True)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
