"""Workers in the console: those of all endpoints, and one that is replaced and removed."""

import re
from collections.abc import Iterator

import pytest

from tests.browser.conftest import Visitor
from tests.browser.test_console import call
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with two running example workers."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "crew", "workers": 2})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["runningWorkers"] == 2)
    yield created
    delete_endpoints(engine)


def workers_of(engine: Up, endpoint: str) -> list[str]:
    return [one["workerId"] for one in call(engine, "GET", f"/serverless/{endpoint}/workers")]


def test_a_worker_is_found_replaced_and_removed(operator: Visitor, engine: Up, endpoint: str) -> None:
    first, second = workers_of(engine, endpoint)
    operator.page.locator("nav").get_by_role("link", name="Workers", exact=True).click()
    operator.page.get_by_role("link", name=first).click()
    operator.click("Replace")
    operator.see("This worker has ended.")
    wait_until(lambda: call(engine, "GET", f"/serverless/{endpoint}")["runningWorkers"] == 2)
    operator.open(f"/console/workers/{endpoint}/{second}")
    operator.page.get_by_role("button", name=re.compile("Remove…")).click()
    operator.click("Remove the worker")
    operator.see("This worker has ended.")
    assert call(engine, "GET", f"/serverless/{endpoint}")["totalWorkers"] == 1
    assert operator.reports == []
