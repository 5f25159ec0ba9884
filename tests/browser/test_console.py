"""The web console as a person uses it, in Chromium, with a running engine and real workers."""

import json
import re
import time
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Route

from tests.browser.conftest import SHOTS, Visitor, visiting
from tests.browser.figures import note
from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up, delete_endpoints
from tests.waiting import wait_until

MAX_FIRST_BYTES = 80_000
MAX_FIRST_REQUESTS = 6
LOG_OUT_ELSEWHERE = """fetch('/console/session', {
    method: 'DELETE', headers: {'X-Console-Session': localStorage.getItem('queue-engine.session')},
})"""
"""Ends the session at the server, as another window does. The view is told by its stream of events."""
FIRST_RUN_SECONDS = 120
FIRST_RUN_CLICKS = 6
HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "javascript:document.title='owned'",
    "\u202egnp.exe",
    "'\"><svg onload=document.title='owned'>",
    "{{constructor.constructor('document.title=1')()}}",
]


def call(up: Up, method: str, path: str, body: Any = None) -> Any:
    url, headers = f"http://127.0.0.1:{up.port}/v2{path}", {"X-Api-Key": API_KEY}
    response = httpx.request(method, url, headers=headers, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["data"]


def call_with(up: Up, key: str) -> Any:
    """The key itself, as the API describes it."""
    return httpx.get(f"http://127.0.0.1:{up.port}/v2/me", headers={"X-Api-Key": key}, timeout=60).json()["data"]


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> str:
    """An endpoint with a running example worker."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "worker", "workers": 1})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    return created


def submit(up: Up, endpoint: str, given: Any, **fields: Any) -> str:
    body = {"workerPort": 8000, "processUri": "/run", "input": given, **fields}
    task_id: str = call(up, "POST", f"/serverless/{endpoint}/tasks", body)["taskId"]
    return task_id


def ended(up: Up, endpoint: str, task: str) -> dict[str, Any]:
    found: dict[str, Any] = call(up, "GET", f"/serverless/{endpoint}/tasks/{task}?wait=60")
    return found


def settle(visitor: Visitor) -> None:
    """Wait until the view shows what it has read. A stream of events stays open."""
    visitor.page.locator("[aria-busy=true]").first.wait_for(state="detached")


def _plain_part(text: str) -> str:
    """The longest part of a text that reads the same inside JSON, with the marks that the console shows."""
    return max(re.split(r"[\"'\\\u202e]", text), key=len)


class TestFirstRun:
    def test_a_first_task_succeeds_within_two_minutes(self, engine: Up, visitor: Visitor) -> None:
        delete_endpoints(engine)  # of tests before
        visitor.log_in()
        visitor.clicks = 0
        began = time.monotonic()
        visitor.click("Create the endpoint")
        visitor.see("2 of 2 workers run")
        visitor.click("Submit Ctrl Enter")
        visitor.see("Open the task")
        seconds = time.monotonic() - began
        goal = f"≤ {FIRST_RUN_SECONDS} s, ≤ {FIRST_RUN_CLICKS} clicks"
        note("first run", f"{seconds:.1f} s, {visitor.clicks} clicks", goal)
        assert seconds < FIRST_RUN_SECONDS
        assert visitor.clicks <= FIRST_RUN_CLICKS
        visitor.page.screenshot(path=SHOTS / "first-run.png", full_page=True)
        visitor.page.get_by_text("succeeded").first.wait_for()
        assert visitor.reports == []
        delete_endpoints(engine)


class TestLogin:
    def test_a_link_logs_in_once_and_leaves_no_trace(self, engine: Up, visitor: Visitor, browser: Browser) -> None:
        url = call(engine, "POST", "/console-links")["url"]
        visitor.page.goto(url)
        visitor.page.get_by_role("navigation", name="Sections").wait_for()
        assert "login" not in visitor.page.url
        visitor.page.reload()
        visitor.page.get_by_role("navigation", name="Sections").wait_for()
        with visiting(engine, browser) as other:
            other.page.goto(url)
            other.see("the link has expired or was used")

    def test_a_wrong_key_is_told(self, visitor: Visitor) -> None:
        visitor.open("/console")
        visitor.page.get_by_label("API key").fill("not-a-key")
        visitor.click("Log in")
        visitor.see("must be a valid API key")

    def test_logging_out_ends_the_session(self, operator: Visitor) -> None:
        operator.page.locator("summary").click()
        operator.click("Log out")
        operator.see("You are logged out.")
        operator.open("/console/tasks")
        operator.page.get_by_label("API key").wait_for()

    def test_a_session_that_ends_is_told_and_the_view_comes_back(self, operator: Visitor, endpoint: str) -> None:
        operator.open(f"/console/endpoints/{endpoint}")
        operator.page.get_by_role("heading", name="worker", exact=True).wait_for()
        operator.page.evaluate(LOG_OUT_ELSEWHERE)
        operator.see("The session has ended.")
        operator.page.get_by_label("API key").fill(API_KEY)
        operator.click("Log in")
        operator.page.get_by_role("heading", name="worker", exact=True).wait_for()


class TestGuards:
    def test_the_first_load_is_small_and_from_one_host(self, visitor: Visitor) -> None:
        sizes: list[int] = []
        visitor.page.on("response", lambda response: sizes.append(int(response.headers.get("content-length", 0))))
        visitor.open("/console")
        visitor.page.get_by_label("API key").wait_for()
        hosts = {httpx.URL(url).netloc for url in visitor.requests}
        measured = f"{sum(sizes) / 1000:.1f} kB gzip, {len(sizes)} requests, {len(hosts)} host"
        goal = f"≤ {MAX_FIRST_BYTES / 1000:.0f} kB, ≤ {MAX_FIRST_REQUESTS} requests, 1 host"
        note("first load", measured, goal)
        assert 0 < sum(sizes) <= MAX_FIRST_BYTES
        assert len(sizes) <= MAX_FIRST_REQUESTS
        assert hosts == {f"127.0.0.1:{visitor.up.port}".encode()}

    def test_a_page_of_another_port_cannot_use_the_session(self, operator: Visitor) -> None:
        """The other page is sent the cookie, because cookies know no ports."""
        with HttpServer() as other:
            operator.page.goto(f"http://127.0.0.1:{other.port}/")
            script = """async (url) => {
                const tried = [];
                for (const [method, headers] of [["GET", {}], ["POST", {}], ["GET", {"X-Console-Session": "x"}]]) {
                    try { tried.push((await fetch(url, {method, headers, credentials: "include"})).status); }
                    catch { tried.push("refused"); }
                }
                return tried;
            }"""
            assert operator.page.evaluate(script, f"{operator.base}/console/api/me") == ["refused"] * 3

    def test_no_page_frames_the_console(self, operator: Visitor) -> None:
        with HttpServer() as other:
            operator.page.goto(f"http://127.0.0.1:{other.port}/")
            operator.page.evaluate(
                "(url) => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))",
                f"{operator.base}/console",
            )
            frame = operator.page.frames[-1]
            operator.page.wait_for_function("document.querySelector('iframe').contentDocument === null")
            assert frame.url.startswith("chrome-error:"), frame.url

    def test_a_page_of_a_worker_cannot_be_opened(self, operator: Visitor, endpoint: str) -> None:
        response = operator.page.goto(f"{operator.base}/e/{endpoint}/page")
        assert response is not None
        assert response.status == 401

    @pytest.mark.parametrize("text", HOSTILE)
    def test_texts_of_others_are_shown_and_never_run(
        self, operator: Visitor, engine: Up, endpoint: str, text: str
    ) -> None:
        task = submit(engine, endpoint, {text: text, "fail": text}, headers={"X-Odd": re.sub(r"[^ -~]", "", text)})
        assert ended(engine, endpoint, task)["status"] == "FAILED"
        for path in (f"/console/tasks/{endpoint}/{task}", f"/console/tasks?endpoint={endpoint}&status=FAILED"):
            operator.open(path)
            operator.page.get_by_text(_plain_part(text)).first.wait_for()
            assert "owned" not in operator.page.title()
        assert operator.reports == []
        note("hostile texts", f"{len(HOSTILE)} shown in 2 views each, none run", "none run")

    @pytest.mark.parametrize("size", ["line", "wide", "deep"])
    def test_large_values_do_not_freeze_the_page(self, operator: Visitor, engine: Up, endpoint: str, size: str) -> None:
        """The API refuses a value that is deeper than it can read, so the page gets that one from the test."""
        texts = {
            "line": json.dumps("x" * 1_048_000),
            "wide": json.dumps({f"k{n}": n for n in range(100_000)}, separators=(",", ":")),
            "deep": "[" * 10_000 + "]" * 10_000,
        }
        task = submit(engine, endpoint, 1, taskId=f"large_{size}")
        ended(engine, endpoint, task)
        path = f"/console/api/serverless/{endpoint}/tasks/{task}"

        def enlarged(route: Route) -> None:
            text, given = route.fetch().text(), texts[size]
            asked.append(route.request.url)
            if "payload=head" in route.request.url:
                found = json.loads(text)
                head = {"text": given[:2048], "bytes": 2048, "isCut": True}
                found["data"] |= {"inputBytes": len(given), "inputHead": head}
                route.fulfill(json=found)
                return
            assert text.count('"input":1') == 1
            route.fulfill(body=text.replace('"input":1', f'"input":{given}'), content_type="application/json")

        asked: list[str] = []
        operator.page.route(re.compile(re.escape(path) + r"(\?.*)?$"), enlarged)
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.get_by_role("heading", name="Input").wait_for()
        began = time.monotonic()
        if len(texts[size]) <= 1024 * 1024:
            operator.page.get_by_role("button", name="Raw").first.click()
            operator.page.get_by_role("button", name="Raw", pressed=True).wait_for()
        else:
            operator.see("Too large to be shown here")
        shown = time.monotonic() - began
        is_whole = any("payload=head" not in url for url in asked)
        assert is_whole == (len(texts[size]) <= 1024 * 1024)
        operator.click("Overview", "link")
        operator.page.get_by_role("heading", name="Overview").wait_for()
        assert operator.reports == []
        note(f"large value, {size}", f"{len(texts[size]):,} bytes, {shown:.1f} s, the page responds", "page responds")


@pytest.fixture(scope="module")
def tasks(engine: Up, endpoint: str) -> dict[str, list[str]]:
    """Tasks that have succeeded, and a few among them that have failed with an error of their own."""
    made = {
        "good": [submit(engine, endpoint, n, taskId=f"good_{n}", tags=["night"]) for n in range(60)],
        "bad": [submit(engine, endpoint, {"fail": "no such model"}, taskId=f"bad_{n}") for n in range(3)],
        "other": [submit(engine, endpoint, {"fail": "disk full"}, taskId=f"other_{n}") for n in range(2)],
    }
    for names in made.values():
        for name in names:
            ended(engine, endpoint, name)
    return made


class TestLists:
    """Filters, selections and bulk operations."""

    def rows(self, visitor: Visitor) -> set[str]:
        return {str(one.get_attribute("data-row")) for one in visitor.page.locator("tr[data-row]").all()}

    def filter(self, visitor: Visitor, text: str) -> None:
        visitor.page.get_by_label("Add a filter").fill(text)
        visitor.page.keyboard.press("Enter")

    def test_filters_are_typed_and_are_the_url(
        self, operator: Visitor, endpoint: str, tasks: dict[str, list[str]]
    ) -> None:
        operator.open(f"/console/tasks?endpoint={endpoint}")
        self.filter(operator, "error:no such model")
        operator.page.wait_for_url("**errorContains=no+such+model*")
        operator.page.locator("tr[data-row]").nth(2).wait_for()
        wait_until(lambda: self.rows(operator) == set(tasks["bad"]))
        url = operator.page.url
        self.filter(operator, "id:bad_1")
        wait_until(lambda: self.rows(operator) == {"bad_1"})
        operator.page.go_back()
        wait_until(lambda: self.rows(operator) == set(tasks["bad"]))
        operator.page.goto(url)
        operator.page.get_by_role("button", name="Remove the filter error").click()
        operator.page.wait_for_url(f"**/tasks?endpoint={endpoint}")

    def test_a_wrong_filter_says_what_is_wrong(self, operator: Visitor, endpoint: str) -> None:
        operator.open(f"/console/tasks?endpoint={endpoint}")
        self.filter(operator, "sate:failed")
        operator.see('There is no filter "sate"')
        self.filter(operator, "state:failing")
        operator.see("state: must be one or more of")

    def test_pages_are_walked_by_cursor(self, operator: Visitor, endpoint: str, tasks: dict[str, list[str]]) -> None:
        operator.open(f"/console/tasks?endpoint={endpoint}&tag=night")
        operator.page.locator("tr[data-row]").nth(49).wait_for()
        first = self.rows(operator)
        operator.click("Older", "link")
        operator.page.wait_for_url("**cursor=*")
        wait_until(lambda: self.rows(operator) == set(tasks["good"]) - first)
        operator.click("Newest", "link")
        wait_until(lambda: self.rows(operator) == first)

    def test_new_tasks_wait_until_they_are_wanted(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        operator.open(f"/console/tasks?endpoint={endpoint}")
        operator.page.locator("tr[data-row]").first.wait_for()
        before = self.rows(operator)
        task = submit(engine, endpoint, 1)
        operator.page.get_by_role("button", name="1 newer: show").wait_for()
        assert self.rows(operator) == before
        operator.click("1 newer: show")
        operator.page.locator(f"tr[data-row='{task}']").wait_for()

    def test_all_that_match_are_retried_by_four_clicks(
        self, operator: Visitor, engine: Up, endpoint: str, tasks: dict[str, list[str]]
    ) -> None:
        operator.open(f"/console/tasks?endpoint={endpoint}&errorContains=disk+full")
        operator.page.locator("tr[data-row]").nth(1).wait_for()
        operator.clicks = 0
        operator.click("Retry all…")
        operator.see("would be retried")
        operator.page.screenshot(path=SHOTS / "bulk-preview.png")
        operator.click("Retry 2")
        operator.page.wait_for_url("**/console/bulk/**")
        operator.page.get_by_role("heading", name="Result").wait_for()
        print(f"retried by {operator.clicks} clicks")
        assert operator.clicks <= 4
        operation = call(engine, "GET", f"/serverless/{endpoint}/operations?pageSize=1")["items"][0]
        assert (operation["action"], operation["done"], operation["dryRun"]) == ("retry", 2, False)
        for name in tasks["other"]:
            assert ended(engine, endpoint, name)["status"] == "FAILED"
        operator.page.locator("nav").get_by_role("link", name="Bulk operations").click()
        operator.page.get_by_role("link", name=operation["operationId"][:20]).wait_for()
        assert operator.reports == []

    def test_a_deletion_needs_the_number_typed(
        self, operator: Visitor, engine: Up, endpoint: str, tasks: dict[str, list[str]]
    ) -> None:
        names = [submit(engine, endpoint, n, taskId=f"rubbish_{n}") for n in range(3)]
        for name in names:
            ended(engine, endpoint, name)
        operator.open(f"/console/tasks?endpoint={endpoint}&idPrefix=rubbish_")
        operator.page.locator("tr[data-row]").nth(2).wait_for()
        operator.page.get_by_label("Select rubbish_0").click()
        operator.page.get_by_label("Select rubbish_2").click(modifiers=["Shift"])
        operator.see("3 selected")
        operator.page.get_by_label("Selection").get_by_role("button", name="Delete…").click()
        button = operator.page.get_by_role("button", name="Delete 3")
        button.wait_for()
        assert button.get_attribute("aria-disabled") == "true"
        button.click(force=True)
        operator.page.get_by_label("Type 3 to delete").fill("3")
        button.click()
        operator.page.get_by_role("heading", name="Result").wait_for()
        operator.see("3 by their ids")
        page = call(engine, "GET", f"/serverless/{endpoint}/tasks?cursor=&idPrefix=rubbish_")
        assert page["items"] == []

    def test_a_list_is_used_by_the_keyboard_alone(
        self, operator: Visitor, engine: Up, endpoint: str, tasks: dict[str, list[str]]
    ) -> None:
        keyboard = operator.page.keyboard
        keyboard.press("g")
        keyboard.press("t")
        operator.page.locator("tr[data-row]").first.wait_for()
        keyboard.press("/")
        keyboard.type("error:no such model")
        keyboard.press("Enter")
        wait_until(lambda: self.rows(operator) == set(tasks["bad"]))
        operator.page.locator("h1").first.click()
        keyboard.press("j")
        keyboard.press("x")
        keyboard.press("j")
        keyboard.press("x")
        operator.see("2 selected")
        keyboard.press("r")
        operator.see("would be retried")
        keyboard.press("Escape")
        operator.page.get_by_role("dialog").wait_for(state="detached")
        keyboard.press("Escape")
        operator.page.get_by_label("Selection").wait_for(state="detached")
        keyboard.press("?")
        operator.page.get_by_role("heading", name="Keys", exact=True).wait_for()
        operator.page.get_by_label("Single keys work").uncheck()
        keyboard.press("Escape")
        operator.page.get_by_role("dialog").wait_for(state="detached")
        keyboard.press("?")
        assert operator.page.get_by_role("dialog").count() == 0
        operator.page.get_by_role("button", name="Keys and help").press("Enter")
        operator.page.get_by_label("Single keys work").check()
        assert operator.reports == []


class TestLive:
    def test_a_task_is_seen_as_it_happens_by_one_stream(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        task = submit(engine, endpoint, {"seconds": 600})
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.get_by_role("button", name="live").wait_for()
        operator.see("runs now")
        before = len([url for url in operator.requests if "/attempts" in url])
        call(engine, "POST", f"/serverless/{endpoint}/tasks/{task}/cancel")
        operator.page.get_by_role("button", name="Retry", exact=True).wait_for()
        assert len([url for url in operator.requests if "/attempts" in url]) == before
        assert operator.reports == []

    def test_without_a_stream_the_view_is_read_every_few_seconds(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        operator.page.route("**/console/api/events?*", lambda route: route.abort())
        task = submit(engine, endpoint, {"seconds": 600})
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.get_by_role("button", name="every 3 s").wait_for()
        operator.see("runs now")
        call(engine, "POST", f"/serverless/{endpoint}/tasks/{task}/cancel")
        operator.page.get_by_role("button", name="Retry", exact=True).wait_for()

    def test_what_is_live_can_be_paused(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        operator.open(f"/console/endpoints/{endpoint}")
        operator.page.get_by_role("button", name="live").wait_for()
        operator.page.keyboard.press("l")
        operator.page.get_by_role("button", name="paused").wait_for()
        call(engine, "POST", f"/serverless/{endpoint}/pause")
        operator.page.keyboard.press("l")
        operator.see("The queue is paused.")
        operator.click("Resume the queue")
        operator.page.get_by_text("The queue is paused.").wait_for(state="detached")
        assert call(engine, "GET", f"/serverless/{endpoint}")["paused"] is False

    def test_a_task_of_a_paused_queue_says_why_it_waits(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        operator.open(f"/console/endpoints/{endpoint}")
        operator.click("Pause the queue")
        operator.see("The queue is paused.")
        task = submit(engine, endpoint, 1)
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.get_by_role("heading", name="Why is it waiting?").wait_for()
        operator.see("The endpoint's queue is paused.")
        call(engine, "POST", f"/serverless/{endpoint}/resume")
        operator.page.get_by_role("button", name="Retry", exact=True).wait_for()
        operator.page.get_by_role("heading", name="Why is it waiting?").wait_for(state="detached")


class TestSettings:
    def test_a_key_is_shown_once_used_and_revoked(self, operator: Visitor, engine: Up, browser: Browser) -> None:
        operator.open("/console/keys")
        operator.page.get_by_label("Purpose").fill("nightly <b>batch</b>")
        operator.page.get_by_label("Role").select_option("read")
        operator.click("Create the key")
        key = operator.page.locator("code.secret").inner_text()
        assert call_with(engine, key)["role"] == "read"
        operator.click("I have it")
        operator.page.locator("code.secret").wait_for(state="detached")
        assert key not in operator.page.content()
        row = operator.page.get_by_role("row", name=re.compile("nightly"))
        row.get_by_role("button", name=re.compile("Revoke")).click()
        operator.click("Revoke the key")
        row.wait_for(state="detached")
        operator.open("/console/audit")
        operator.page.get_by_role("row", name=re.compile("revoke key")).first.wait_for()
        assert operator.reports == []

    def test_a_key_that_reads_does_not_see_the_settings(self, engine: Up, visitor: Visitor) -> None:
        visitor.log_in(call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"])
        visitor.open("/console/keys")
        visitor.see("You may not see this")


class TestViews:
    def test_a_failure_is_found_by_one_click(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        body = call(engine, "GET", "/templates")[0]["endpoint"]
        broken = {**body, "name": "broken", "workers": 1, "initializationCommand": "sh -c 'echo no GPU here; exit 3'"}
        created = call(engine, "POST", "/serverless", broken)["id"]
        operator.open("/console")
        operator.see("workers do not come up")
        operator.page.get_by_text("container exited with status 3").first.wait_for()
        operator.page.get_by_role("link", name="Open its log").first.click()
        operator.see("no GPU here")
        call(engine, "DELETE", f"/serverless/{created}")

    def test_a_task_is_watched_cancelled_and_run_again(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        task = submit(engine, endpoint, {"seconds": 600})
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.see("runs now")
        operator.click("Cancel")
        operator.page.get_by_role("button", name="Retry", exact=True).wait_for()
        assert ended(engine, endpoint, task)["state"] == "cancelled"
        operator.click("Delete…")
        operator.click("Remove the task")
        operator.page.get_by_role("heading", name="Tasks", exact=True, level=1).wait_for()
        assert operator.reports == []

    def test_a_task_is_found_by_its_id(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        task = submit(engine, endpoint, 1, taskId="find_me_4711")
        operator.page.keyboard.press("Control+k")
        operator.page.keyboard.type(task)
        operator.page.keyboard.press("Enter")
        operator.page.get_by_role("heading", name=task).wait_for()

    def test_a_log_is_followed(self, operator: Visitor, engine: Up, endpoint: str) -> None:
        worker = call(engine, "GET", f"/serverless/{endpoint}/workers")[0]["workerId"]
        operator.open(f"/console/workers/{endpoint}/{worker}")
        operator.see("example worker listens")
        task = submit(engine, endpoint, 1)
        operator.see(f"task {task} done")

    def test_a_key_that_only_reads_sees_the_buttons_and_why_they_are_off(
        self, engine: Up, visitor: Visitor, endpoint: str
    ) -> None:
        key = call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"]
        visitor.log_in(key)
        visitor.open(f"/console/endpoints/{endpoint}")
        button = visitor.page.get_by_role("button", name="Stop : Needs a key with the role operate")
        button.wait_for()
        assert button.get_attribute("aria-disabled") == "true"
        button.click(force=True)
        assert call(engine, "GET", f"/serverless/{endpoint}")["status"] == "RUNNING"

    def test_a_task_that_is_removed_while_it_is_open_is_told(
        self, operator: Visitor, engine: Up, endpoint: str
    ) -> None:
        task = submit(engine, endpoint, 1)
        ended(engine, endpoint, task)
        operator.open(f"/console/tasks/{endpoint}/{task}")
        operator.page.get_by_role("heading", name="Facts").wait_for()
        call(engine, "DELETE", f"/serverless/{endpoint}/tasks/{task}")
        operator.see("The task was to be kept until")


class TestEverybody:
    @pytest.fixture
    def views(self, engine: Up, endpoint: str) -> dict[str, str]:
        failed = submit(engine, endpoint, {"fail": "no model"}, webhook="http://127.0.0.1:9/hook")
        ended(engine, endpoint, failed)
        worker = call(engine, "GET", f"/serverless/{endpoint}/workers")[0]["workerId"]
        body = {"action": "retry", "filter": {"status": "FAILED"}, "dryRun": True}
        operation = call(engine, "POST", f"/serverless/{endpoint}/operations", body)["operationId"]
        return {
            "overview": "/console",
            "endpoints": "/console/endpoints",
            "endpoint": f"/console/endpoints/{endpoint}",
            "settings": f"/console/endpoints/{endpoint}/settings",
            "deliveries": f"/console/endpoints/{endpoint}/deliveries",
            "logs": f"/console/endpoints/{endpoint}/logs",
            "destinations": "/console/deliveries",
            "destination": "/console/deliveries/http:127.0.0.1:9",
            "tasks": f"/console/tasks?endpoint={endpoint}",
            "task": f"/console/tasks/{endpoint}/{failed}",
            "gone": f"/console/tasks/{endpoint}/gone",
            "workers": "/console/workers",
            "worker": f"/console/workers/{endpoint}/{worker}",
            "start": "/console/start",
            "filtered": f"/console/tasks?endpoint={endpoint}&status=FAILED&errorContains=no+model",
            "bulk": "/console/bulk",
            "operation": f"/console/bulk/{endpoint}/{operation}",
            "keys": "/console/keys",
            "audit": "/console/audit",
            "system": "/console/system",
        }

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_no_view_breaks_a_rule_of_accessibility(self, operator: Visitor, views: dict[str, str], theme: str) -> None:
        operator.page.evaluate("(theme) => localStorage.setItem('queue-engine.theme', theme)", theme)
        found: list[str] = []
        for name, path in views.items():
            operator.open(path)
            operator.page.locator("main h1").first.wait_for()
            settle(operator)
            operator.page.screenshot(path=SHOTS / f"{name}-{theme}.png", full_page=True)
            rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
            violations = Axe().run(operator.page, options=rules).response["violations"]
            found += [f"{name}: {one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]]
        note(f"axe, WCAG 2.1 AA, {theme}", f"{len(found)} violations in {len(views)} views", "0")
        assert found == []

    def test_no_view_is_wider_than_a_telephone(self, operator: Visitor, views: dict[str, str]) -> None:
        operator.page.set_viewport_size({"width": 390, "height": 844})
        for name, path in views.items():
            operator.open(path)
            operator.page.locator("main h1").first.wait_for()
            settle(operator)
            operator.page.screenshot(path=SHOTS / f"{name}-390.png", full_page=True)
            assert operator.page.evaluate("document.documentElement.scrollWidth") <= 390, name
        note("390 px wide", f"{len(views)} views without sideways scroll", "all")
