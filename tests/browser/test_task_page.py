"""The page of a task in the console: facts of its detail in each state, and after its removal."""

import time
from typing import Any

import httpx
import redis
from axe_playwright_python.sync_playwright import Axe

from queue_engine.local.embedded import read_store_url
from queue_engine.store.keys import Partitions
from tests.browser.conftest import SHOTS, TRACE_URL, Visitor
from tests.browser.test_console import call, ended, endpoint, settle, submit
from tests.integration.test_up import API_KEY, Up

__all__ = ["endpoint"]

LOADED_SECONDS = 10
"""Time in which the page of a task is open."""
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def fact(visitor: Visitor, name: str) -> str:
    """Return the fact with this name; empty if it is not shown."""
    found = visitor.page.locator(f"dl.facts dt:text-is('{name}') + dd")
    return found.inner_text() if found.count() else ""


def traced(up: Up, endpoint: str, **fields: Any) -> str:
    """Submit a task with a trace."""
    response = httpx.post(
        f"{up.url}/v2/serverless/{endpoint}/tasks",
        headers={"X-Api-Key": API_KEY, "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"},
        json={"workerPort": 8000, "processUri": "/run", **fields},
        timeout=60,
    )
    task_id: str = response.json()["data"]["taskId"]
    return task_id


def test_an_ended_task_shows_where_it_ran_and_until_when_it_is_kept(
    operator: Visitor, engine: Up, endpoint: str
) -> None:
    task = traced(engine, endpoint, input="x" * 2000)
    found = ended(engine, endpoint, task)
    with redis.Redis.from_url(str(read_store_url(engine.data_dir / "store"))) as store:
        store.hset(Partitions().of(endpoint).task(task), "resets", 2)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.page.locator("dl.facts dt", has_text="Kept until").wait_for()
    worker = found["workerId"]
    link = operator.page.locator("dl.facts dt:text-is('Worker') + dd a")
    assert (link.inner_text(), link.get_attribute("href")) == (worker, f"/console/workers/{endpoint}/{worker}")
    assert fact(operator, "Request") == "POST :8000/run"
    assert fact(operator, "Sizes").startswith("input 2.0 kB, output ")
    assert "may crash its worker" in fact(operator, "Suspect")
    assert (fact(operator, "Lost"), fact(operator, "Runs")) == ("2 connections", "")
    assert fact(operator, "Trace").startswith(TRACE_ID)
    trace = operator.page.get_by_role("link", name="open the trace in a new tab")
    assert trace.get_attribute("href") == TRACE_URL.format(traceId=TRACE_ID)
    assert trace.get_attribute("rel") == "noopener noreferrer"
    assert (fact(operator, "Next attempt"), fact(operator, "Expires")) == ("", "")
    for width, theme in ((1280, "light"), (390, "dark")):
        operator.page.set_viewport_size({"width": width, "height": 844})
        operator.page.evaluate("(theme) => document.documentElement.dataset.theme = theme", theme)
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(operator.page).response["violations"] == []
    operator.page.screenshot(path=SHOTS / "task-facts.png", full_page=True)
    assert operator.reports == []


def test_a_task_that_waits_shows_when_it_goes_on(operator: Visitor, engine: Up, endpoint: str) -> None:
    task = submit(engine, endpoint, 1, delaySeconds=3600)
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.page.locator("dl.facts dt", has_text="Next attempt").wait_for()
    operator.see("the first attempt is due in")
    assert (fact(operator, "Worker"), fact(operator, "Kept until")) == ("none yet", "")
    call(engine, "POST", f"/serverless/{endpoint}/pause")
    try:
        task = submit(engine, endpoint, 1, queueTtlSeconds=7200)
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.locator("dl.facts dt", has_text="Expires").wait_for()
        operator.see("if no attempt begins")
    finally:
        call(engine, "POST", f"/serverless/{endpoint}/resume")
    assert operator.reports == []


def test_a_task_that_is_gone_says_until_when_it_was_kept(operator: Visitor, engine: Up, endpoint: str) -> None:
    task, removed = submit(engine, endpoint, 1), submit(engine, endpoint, 2)
    finished_at = ended(engine, endpoint, task)["finishedAt"]
    ended(engine, endpoint, removed)
    operator.open(f"/console/tasks/{endpoint}/{removed}")
    operator.page.locator("dl.facts dt", has_text="Kept until").wait_for()
    settle(operator)
    call(engine, "DELETE", f"/serverless/{endpoint}/tasks/{removed}")
    operator.see("The task was to be kept until")
    operator.open(f"/console/tasks/{endpoint}/{removed}")
    operator.see("There is no such task")
    before = call(engine, "GET", f"/serverless/{endpoint}")["resultRetentionSeconds"]
    soon = int(time.time() - finished_at / 1000) + LOADED_SECONDS
    call(engine, "PATCH", f"/serverless/{endpoint}", {"resultRetentionSeconds": soon})
    try:
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.locator("dl.facts dt", has_text="Kept until").wait_for()
        operator.see("The task was kept until")
    finally:
        call(engine, "PATCH", f"/serverless/{endpoint}", {"resultRetentionSeconds": before})
    assert all("404" in one for one in operator.reports)
