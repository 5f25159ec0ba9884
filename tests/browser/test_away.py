"""The console while the store or the API is away, and when the role of its key changes: said in words, nothing lost."""

import signal
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import redis
from playwright.sync_api import Browser

from queue_engine.local.embedded import read_store_url
from queue_engine.store.api_keys import hash_of
from queue_engine.store.keys import api_key
from tests.browser.conftest import Visitor, visiting
from tests.browser.test_console import call, ended, submit
from tests.integration.test_up import Up, command_of, running_up
from tests.waiting import wait_until

OWN_ROLE = """async () => {
    const headers = {"X-Console-Session": localStorage.getItem("queue-engine.session")};
    return (await (await fetch("/console/api/me", {headers, cache: "no-store"})).json()).data.role;
}"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An engine that tests stop in part."""
    with running_up(tmp_path_factory.mktemp("away")) as up:
        yield up


@pytest.fixture(scope="module")
def endpoint(own: Up) -> str:
    """An endpoint with a running example worker."""
    body = call(own, "GET", "/templates")[0]["endpoint"]
    created: str = call(own, "POST", "/serverless", {**body, "name": "worker", "workers": 1})["id"]
    wait_until(lambda: call(own, "GET", f"/serverless/{created}")["status"] == "RUNNING")
    return created


@pytest.fixture
def operator(own: Up, browser: Browser) -> Iterator[Visitor]:
    with visiting(own, browser) as one:
        one.log_in()
        yield one


def store_of(up: Up) -> psutil.Process:
    (found,) = [one for one in up.processes() if "valkey" in command_of(one).partition(" ")[0]]
    return found


def is_ready(up: Up) -> bool:
    try:
        return httpx.get(f"{up.url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_store_that_stops_and_comes_back_loses_nothing(operator: Visitor, own: Up, endpoint: str) -> None:
    task = submit(own, endpoint, 1, taskId="kept")
    ended(own, endpoint, task)
    operator.open(f"/console/tasks?endpoint={endpoint}")
    operator.page.locator("tr[data-row='kept']").wait_for()
    operator.page.get_by_label("Add a filter").fill("id:ke")
    store = store_of(own)
    store.send_signal(signal.SIGSTOP)
    try:
        operator.see("The store or the API is away.")
        operator.page.get_by_role("button", name="no contact").wait_for()
        assert operator.page.locator("tr[data-row='kept']").count() == 1
        assert operator.page.get_by_role("button", name="live").count() == 0
    finally:
        store.send_signal(signal.SIGCONT)
    operator.page.get_by_text("The store or the API is away.").wait_for(state="detached")
    assert operator.page.get_by_label("Add a filter").input_value() == "id:ke"
    wait_until(lambda: call(own, "GET", f"/serverless/{endpoint}")["status"] == "RUNNING")
    submit(own, endpoint, 1, taskId="later")
    operator.page.get_by_role("button", name="newer: show").click()
    operator.page.locator("tr[data-row='later']").wait_for()


def test_an_api_that_is_killed_and_comes_back_continues_the_view(operator: Visitor, own: Up, endpoint: str) -> None:
    task = submit(own, endpoint, {"seconds": 600})
    operator.open(f"/console/tasks/{endpoint}/{task}")
    operator.see("runs now")
    own.role("api").kill()
    operator.see("The store or the API is away.")
    operator.page.get_by_role("heading", name="Facts").wait_for()
    wait_until(lambda: is_ready(own))
    operator.page.get_by_text("The store or the API is away.").wait_for(state="detached")
    operator.page.get_by_role("button", name="live").wait_for()
    call(own, "POST", f"/serverless/{endpoint}/tasks/{task}/cancel")
    operator.page.get_by_role("button", name="Retry", exact=True).wait_for()


@pytest.fixture
def changing(own: Up, browser: Browser) -> Iterator[tuple[Visitor, dict[str, Any]]]:
    """A visitor with a key of its own, which may be revoked."""
    made = call(own, "POST", "/keys", {"name": "changing", "role": "operate"})
    with visiting(own, browser) as one:
        one.log_in(made["key"])
        yield one, made


def test_a_role_that_was_changed_is_told_with_the_next_action(
    changing: tuple[Visitor, dict[str, Any]], own: Up, endpoint: str
) -> None:
    visitor, made = changing
    task = submit(own, endpoint, 1)
    ended(own, endpoint, task)
    visitor.open(f"/console/tasks/{endpoint}/{task}")
    visitor.page.get_by_role("button", name="Retry", exact=True).wait_for()
    with redis.Redis.from_url(str(read_store_url(own.data_dir / "store"))) as store:
        assert store.hset(api_key(hash_of(made["key"])), "role", "read") == 0
    wait_until(lambda: visitor.page.evaluate(OWN_ROLE) == "read", message="the session keeps the role")
    visitor.click("Retry")
    visitor.see("the role read does not allow this")
    assert call(own, "GET", f"/serverless/{endpoint}/tasks/{task}")["attempts"] == 1
    visitor.page.reload()
    button = visitor.page.get_by_role("button", name="Retry : Needs a key with the role operate")
    button.wait_for()
    assert button.get_attribute("aria-disabled") == "true"


def test_a_key_that_was_revoked_ends_the_session_in_words(
    changing: tuple[Visitor, dict[str, Any]], own: Up, endpoint: str
) -> None:
    visitor, made = changing
    visitor.open(f"/console/endpoints/{endpoint}")
    visitor.page.get_by_role("heading", name="worker", exact=True).wait_for()
    call(own, "DELETE", f"/keys/{made['id']}")
    visitor.see("The session has ended.")
