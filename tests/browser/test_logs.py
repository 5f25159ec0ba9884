"""The logs of an endpoint in the console."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import Visitor
from tests.browser.test_console import call, submit
from tests.integration.test_up import Up, delete_endpoints
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def endpoint(engine: Up) -> Iterator[str]:
    """An endpoint with two running example workers."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    created: str = call(engine, "POST", "/serverless", {**body, "name": "talkers", "workers": 2})["id"]
    wait_until(lambda: call(engine, "GET", f"/serverless/{created}")["runningWorkers"] == 2)
    yield created
    delete_endpoints(engine)


def test_the_logs_of_all_workers_are_followed_searched_and_downloaded(
    operator: Visitor, engine: Up, endpoint: str
) -> None:
    operator.open(f"/console/endpoints/{endpoint}/logs")
    lines = operator.page.get_by_label("Lines of the log")
    for worker in call(engine, "GET", f"/serverless/{endpoint}/workers"):
        lines.get_by_role("link", name=worker["workerId"]).first.wait_for()
    task = submit(engine, endpoint, 1)
    operator.see(f"task {task} done")
    operator.page.get_by_label("Only lines with this text").fill("listens")
    operator.click("Look")
    operator.page.wait_for_url("**keyword=listens")
    operator.page.get_by_text(f"task {task} done").wait_for(state="detached")
    lines.get_by_text("listens").first.wait_for()
    with operator.page.expect_download() as download:
        operator.click("Download these lines")
    text = Path(download.value.path()).read_text()
    assert text.count("listens") == text.count("\n") == 2
    assert operator.reports == []
    operator.open(f"/console/endpoints/{endpoint}/logs?since=tomorrow")
    operator.see("startTime: must")
