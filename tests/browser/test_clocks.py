"""Times in the console: those of the store's clock, in the zone of the top bar."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.browser.conftest import WAIT_MS, Visitor
from tests.browser.test_charts import RULES
from tests.browser.test_console import call, ended, endpoint, submit
from tests.integration.test_up import Up

__all__ = ["endpoint"]

KOLKATA = ZoneInfo("Asia/Kolkata")
"""UTC + 5:30."""
EUCLA = ZoneInfo("Australia/Eucla")
"""UTC + 8:45."""
WRONG = """
    const Real = Date, ahead = %d;
    globalThis.Date = class extends Real {
        constructor(...given) { given.length === 0 ? super(Real.now() + ahead) : super(...given); }
        static now() { return Real.now() + ahead; }
    };
"""


@pytest.fixture(params=[600_000, -600_000], ids=["ahead", "behind"])
def mistaken(engine: Up, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """A visitor whose clock is wrong by ten minutes."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(WRONG % request.param)
    one = Visitor(engine, context, context.new_page())
    one.log_in()
    yield one
    context.close()


@pytest.fixture
def indian(engine: Up, browser: Browser) -> Iterator[Visitor]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, timezone_id="Asia/Kolkata")
    context.set_default_timeout(WAIT_MS)
    one = Visitor(engine, context, context.new_page())
    one.log_in()
    yield one
    context.close()


def test_ages_and_lengths_are_of_the_stores_clock(mistaken: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, {"seconds": 600})
    mistaken.open(f"/console/tasks/{endpoint}/{task}")
    mistaken.see("runs now")
    created = mistaken.page.get_by_role("region", name="Facts").locator("time").first
    title = str(created.get_attribute("title"))
    assert re.search(r", (now|\d+(\.\d)? s ago|\d+ ms ago|1 m \d\d s ago)$", title), title
    length = mistaken.page.get_by_role("region", name="Timeline").get_by_text("so far").inner_text()
    assert re.match(r"(\d+ ms|\d+\.\d s|1 m \d\d s) so far", length), length
    mistaken.open(f"/console/tasks?endpoint={endpoint}")
    mistaken.page.get_by_label("Add a filter").fill("after:5m")
    mistaken.page.keyboard.press("Enter")
    mistaken.page.locator(f"tr[data-row='{task}']").wait_for()
    call(engine, "POST", f"/serverless/{endpoint}/tasks/{task}/cancel")


def test_a_zone_with_half_hours_is_shown_and_understood(indian: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, 1)
    at = datetime.fromtimestamp(ended(engine, endpoint, task)["createdAt"] / 1000, KOLKATA)
    indian.open(f"/console/tasks/{endpoint}/{task}")
    facts = indian.page.get_by_role("region", name="Facts")
    facts.get_by_text(at.astimezone(ZoneInfo("UTC")).strftime("%H:%M:%S")).first.wait_for()
    indian.click("Times are in Coordinated Universal Time: change")
    facts.get_by_text(at.strftime("%H:%M:%S")).first.wait_for()
    indian.page.wait_for_url("**?zone=local")
    link = indian.page.url
    indian.page.evaluate("localStorage.removeItem('queue-engine.zone')")
    indian.page.goto(link)
    facts.get_by_text(at.strftime("%H:%M:%S")).first.wait_for()
    indian.page.goto(link.replace("zone=local", "zone=UTC"))
    facts.get_by_text(at.astimezone(ZoneInfo("UTC")).strftime("%H:%M:%S")).first.wait_for()
    indian.click("Times are in Coordinated Universal Time: change")
    facts.get_by_text(at.strftime("%H:%M:%S")).first.wait_for()
    indian.open(f"/console/tasks?endpoint={endpoint}")
    begin = (at - timedelta(minutes=1)).replace(second=0, microsecond=0)
    indian.page.get_by_label("Add a filter").fill(f"after:{begin:%Y-%m-%dT%H:%M}")
    indian.page.keyboard.press("Enter")
    indian.page.wait_for_url(f"**createdAfter={int(begin.timestamp() * 1000)}*")
    indian.page.locator(f"tr[data-row='{task}']").wait_for()
    indian.page.get_by_text(f"after:{begin:%H:%M:%S}").wait_for()


def test_another_zone_is_chosen_by_its_name(indian: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, 1)
    at = datetime.fromtimestamp(ended(engine, endpoint, task)["createdAt"] / 1000, EUCLA)
    indian.open(f"/console/tasks/{endpoint}/{task}")
    facts = indian.page.get_by_role("region", name="Facts")
    facts.get_by_text(at.astimezone(ZoneInfo("UTC")).strftime("%H:%M:%S")).first.wait_for()
    menu = indian.page.locator("summary[aria-label^=Key]")
    menu.focus()
    indian.page.keyboard.press("Enter")
    indian.page.get_by_label("Zone of times").select_option("Australia/Eucla")
    facts.get_by_text(at.strftime("%H:%M:%S")).first.wait_for()
    assert "Australia/Eucla" in str(facts.locator("time").first.get_attribute("title"))
    assert Axe().run(indian.page, options=RULES).response["violations"] == []
    indian.page.wait_for_url("**?zone=Australia%2FEucla")
    link = indian.page.url
    indian.page.evaluate("localStorage.removeItem('queue-engine.zone')")
    indian.page.goto(link)
    facts.get_by_text(at.strftime("%H:%M:%S")).first.wait_for()
    indian.open(f"/console/tasks?endpoint={endpoint}&zone=Australia/Eucla")
    begin = (at - timedelta(minutes=1)).replace(second=0, microsecond=0)
    indian.page.get_by_label("Add a filter").fill(f"after:{begin:%Y-%m-%dT%H:%M}")
    indian.page.keyboard.press("Enter")
    indian.page.wait_for_url(f"**createdAfter={int(begin.timestamp() * 1000)}*")
    indian.page.set_viewport_size({"width": 390, "height": 844})
    menu.click()
    indian.page.get_by_label("Zone of times").wait_for()
    assert indian.page.evaluate("document.documentElement.scrollWidth") <= 390
    indian.page.goto(link.replace("Australia%2FEucla", "Mars"))
    facts.get_by_text(at.astimezone(ZoneInfo("UTC")).strftime("%H:%M:%S")).first.wait_for()
