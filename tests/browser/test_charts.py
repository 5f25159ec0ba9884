"""Charts of figures over time: drawn from real samples, with gaps, cursors that move together, zoom and a table."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Route, expect

from tests.browser.conftest import SHOTS, WAIT_MS, Visitor
from tests.browser.test_console import call, ended, submit
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until

COUNT = 120
STEP = 30
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
GAP = range(40, 60)
"""Intervals in which no controller has sampled."""
SAMPLE_SECONDS = 60.0
"""Time within which a controller takes a sample, twice as long as its interval."""


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with a running example worker."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "charts", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    yield created
    delete_endpoints(engine)


def made_up() -> dict[str, Any]:
    """An hour of samples with a gap and a single sample in it, as the API returns them."""
    begin = int(time.time()) // STEP * STEP - (COUNT - 1) * STEP

    def values(of: Any) -> list[float | None]:
        return [None if n in GAP and n != GAP[10] else of(n) for n in range(COUNT)]

    metrics = {
        "queued": values(lambda n: 1482 if n == 100 else n), "running": values(lambda n: 13),
        "scheduled": values(lambda n: 0), "undelivered": values(lambda n: n % 7), "oldest": values(lambda n: 3000),
        "slots": values(lambda n: 17), "submitted": values(lambda n: 5), "succeeded": values(lambda n: 4),
        "failed": values(lambda n: n % 2), "covered": values(lambda n: STEP), "waitP50": values(lambda n: 250),
        "waitP95": values(lambda n: 2500), "runP50": values(lambda n: 90), "runP95": values(lambda n: 900),
    }  # fmt: skip
    begin_ms = begin * 1000
    return {
        "from": begin_ms,
        "to": begin_ms + COUNT * STEP * 1000,
        "stepSeconds": STEP,
        "metrics": metrics,
        "asOf": begin_ms,
    }


@pytest.fixture
def with_gap(operator: Visitor) -> Visitor:
    """A visitor whose charts show made-up samples."""

    def respond(route: Route) -> None:
        route.fulfill(body=json.dumps({"message": "success", "code": 10000, "data": made_up()}))

    operator.page.route("**/console/api/**/series?*", respond)
    operator.page.route("**/console/api/series?*", respond)
    return operator


def drawn(visitor: Visitor, count: int) -> None:
    """Wait until this many charts are drawn."""
    expect(visitor.page.locator(".plot canvas")).to_have_count(count, timeout=WAIT_MS)


def query_of(visitor: Visitor) -> str:
    """The query of the view's URL."""
    found: str = visitor.page.evaluate("location.search")
    return found


def chart(visitor: Visitor, title: str) -> Any:
    return visitor.page.get_by_role("region", name=title, exact=True)


def test_charts_show_what_the_controller_has_sampled(operator: Visitor, engine: Up, endpoint: str) -> None:
    for _ in range(3):
        ended(engine, endpoint, submit(engine, endpoint, {"seconds": 0.1}))

    def succeeded() -> float:
        found = call(engine, "GET", f"/serverless/{endpoint}/series?metric=succeeded")["metrics"]["succeeded"]
        return float(sum(filter(None, found)))

    wait_until(lambda: succeeded() == 3, timeout=SAMPLE_SECONDS)
    operator.open(f"/console/endpoints/{endpoint}")
    drawn(operator, 4)
    label = operator.page.locator(".plot").first.get_attribute("aria-label") or ""
    assert label.startswith("Waiting and running from ")
    assert "running 0 at last" in label
    operator.page.screenshot(path=SHOTS / "endpoint-charts.png", full_page=True)
    operator.open("/console")
    drawn(operator, 2)
    figure = operator.page.get_by_role("link").filter(has_text="Finished in this range")

    def is_that_of_the_api() -> bool:
        """Compare the figure with the series of all endpoints, which has the tasks of other files too."""
        found = call(engine, "GET", "/series?metric=succeeded&metric=failed")["metrics"]
        good, bad = (int(sum(filter(None, found[name]))) for name in ("succeeded", "failed"))
        assert good >= 3
        share = f"{100 * good / (good + bad):.1f} % succeeded"
        return figure.locator("b").inner_text() == f"{good + bad}" and share in figure.inner_text()

    wait_until(is_that_of_the_api, timeout=SAMPLE_SECONDS)
    assert operator.reports == []


def test_a_gap_is_shown_and_never_a_zero(with_gap: Visitor, endpoint: str) -> None:
    with_gap.open("/console")
    drawn(with_gap, 2)
    label = with_gap.page.locator(".plot").first.get_attribute("aria-label") or ""
    assert "waiting 119 at last, at most 1,482 at " in label
    assert "No samples for 9 m 30 s of it." in label
    lines = with_gap.page.get_by_role("link").filter(has_text="Running").locator("polyline")
    assert lines.count() == 3, "the parts before, in and after the gap"
    rates = chart(with_gap, "Tasks a minute")
    rates.get_by_role("button", name="as a table").click()
    rows = rates.get_by_role("region", name="Tasks a minute, as a table").locator("tbody tr")
    assert rows.count() == COUNT
    assert rows.filter(has_text="no sample").count() == len(GAP) - 1
    assert rows.first.locator("td").all_inner_texts()[1:] == ["10", "8", "2"]
    rates.get_by_role("button", name="as a chart").click()
    drawn(with_gap, 2)
    assert with_gap.reports == []


def test_cursors_move_together_and_a_drag_sets_the_url(with_gap: Visitor, endpoint: str) -> None:
    with_gap.open(f"/console/endpoints/{endpoint}")
    drawn(with_gap, 4)
    over = with_gap.page.locator(".u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    with_gap.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40)
    expect(with_gap.page.locator(".legend > .num")).to_have_count(4)
    times = with_gap.page.locator(".legend > .num").all_inner_texts()
    assert len(set(times)) == 1
    with_gap.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    with_gap.page.mouse.down()
    with_gap.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40, steps=4)
    with with_gap.page.expect_request(lambda one: "/series?" in one.url and "to=" in one.url) as asked:
        with_gap.page.mouse.up()
    wait_until(lambda: "&to=" in query_of(with_gap))
    query = dict(pair.split("=") for pair in query_of(with_gap)[1:].split("&"))
    chosen = (int(query["to"]) - int(query["from"])) / 1000
    assert chosen == pytest.approx(COUNT * STEP / 2, rel=0.05)
    assert f"from={query['from']}" in asked.value.url
    drawn(with_gap, 4)
    with_gap.page.go_back()
    wait_until(lambda: query_of(with_gap) == "")
    with_gap.page.get_by_role("button", name="1 h", pressed=True).wait_for()
    with_gap.click("24 h")
    wait_until(lambda: query_of(with_gap) == "?range=24h")
    assert with_gap.reports == []


def test_the_charts_are_a_part_that_the_first_load_does_not_have(visitor: Visitor) -> None:
    visitor.log_in()
    before = len(visitor.requests)
    visitor.open("/console/keys")
    visitor.page.get_by_role("heading", level=1).wait_for()
    scripts = {url for url in visitor.requests[before:] if url.endswith(".js")}
    visitor.open("/console")
    drawn(visitor, 2)
    assert {url for url in visitor.requests if url.endswith(".js")} - scripts, "uPlot came with the first chart"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["overview", "endpoint"])
def test_charts_are_accessible_and_fit_a_phone(with_gap: Visitor, endpoint: str, view: str, theme: str) -> None:
    with_gap.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    with_gap.open("/console" if view == "overview" else f"/console/endpoints/{endpoint}")
    count = 2 if view == "overview" else 4
    drawn(with_gap, count)
    chart(with_gap, "Tasks a minute").get_by_role("button", name="as a table").click()
    assert Axe().run(with_gap.page, options=RULES).response["violations"] == []
    with_gap.page.screenshot(path=SHOTS / f"charts-{view}-{theme}.png", full_page=True)
    with_gap.page.set_viewport_size({"width": 390, "height": 844})
    canvas = with_gap.page.locator(".plot canvas").first
    wait_until(lambda: (canvas.bounding_box() or {"width": 1e9})["width"] < 390)
    assert with_gap.page.evaluate("document.documentElement.scrollWidth") <= 390
    with_gap.page.screenshot(path=SHOTS / f"charts-{view}-{theme}-390.png", full_page=True)
