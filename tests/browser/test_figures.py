"""Costs of the console, and the way to a few among many: 20,000 tasks, or as many as TASKS says."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil
import pytest
from playwright.sync_api import Browser, expect

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import Failed
from queue_engine.local.embedded import read_store_url
from queue_engine.store.store import Store
from tests.bench.growth import History
from tests.browser.conftest import SHOTS, WAIT_MS, Visitor, visiting
from tests.browser.figures import note
from tests.browser.test_away import store_of
from tests.browser.test_console import call
from tests.integration.test_up import Up, running_up
from tests.waiting import wait_until

TASKS = int(os.environ.get("TASKS", "20000"))
WALK_MS = WAIT_MS + TASKS // 2
"""Limit of a walk over all tasks, which looks at some thousands a second."""
pytestmark = pytest.mark.timeout(600 + TASKS // 250)
"""A busy machine makes some hundreds of tasks a second."""
FEW = 12
OTHER_FAILURES = 2000
"""More than a group of errors looks at, and than are sorted by a list."""
LIST_MS = 100
TRIES = 5
CONSOLES = 20
WATCHED_SECONDS = 15.0
STORE_SHARE = 0.01
FOUND_CLICKS = 3
RETRY_CLICKS = 4
TASK = "the worker's container answered 500: no model {}"
OTHER = "the worker's container answered 503: disk {} is full"


@dataclass
class Seeded:
    """An engine with an endpoint of many tasks, and no worker."""

    up: Up
    endpoint: str

    def change(self, work: Callable[[History], Awaitable[None]]) -> None:
        """Change the endpoint's tasks, in a thread, because the browser's calls have the event loop of this one."""

        async def run() -> None:
            store = Store(str(read_store_url(self.up.data_dir / "store")), Sealer(None))
            try:
                await work(History(store, self.endpoint, TASKS))
            finally:
                await store.close()

        with ThreadPoolExecutor(1) as threads:
            threads.submit(asyncio.run, run()).result()

    @property
    def list_url(self) -> str:
        return f"/console/tasks?endpoint={self.endpoint}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("figures")) as up:
        yield up


@pytest.fixture(scope="module")
def seeded(own: Up) -> Seeded:
    """TASKS tasks that have succeeded, and among them FEW that have failed of one cause."""
    body = call(own, "GET", "/templates")[0]["endpoint"]
    limits = {"maxQueuedTasks": 1_000_000, "resultRetentionSeconds": 86_400}
    endpoint = str(call(own, "POST", "/serverless", {**body, **limits, "name": "many", "workers": 0})["id"])
    seeded = Seeded(own, endpoint)

    async def fill(history: History) -> None:
        await history.add(1, TASKS // 2)
        await fail(history, "few", FEW, TASK)
        await history.add(TASKS // 2 + 1, TASKS)

    seeded.change(fill)
    return seeded


@pytest.fixture
def operator(seeded: Seeded, browser: Browser) -> Iterator[Visitor]:
    with visiting(seeded.up, browser) as one:
        one.log_in()
        yield one


async def fail(history: History, name: str, count: int, error: str) -> None:
    """Submit tasks, and end each by an error of its own. Tasks that were queued before end by none of these errors."""
    for first in range(0, count, 100):
        errors = {f"{name}_{number}": error.format(number) for number in range(first, min(count, first + 100))}
        await asyncio.gather(*(history.store.tasks.enqueue(history.named_task(task_id)) for task_id in errors))
        while errors:
            entries = await history.agent.claim(100, block_ms=1000)
            started = await asyncio.gather(*(history.agent.start(entry, address="127.0.0.1:9") for entry in entries))
            leases = [one.lease for one in started if one is not None]
            assert leases
            ends = [(lease, Failed(errors.pop(lease.task_id, "tried again"))) for lease in leases]
            await asyncio.gather(*(history.agent.settle(lease, end) for lease, end in ends))


def best_ms(visitor: Visitor, path: str) -> float:
    """The shortest of several reads of a list, by the browser's clock, because other programs only add to one."""
    script = """async ([path, tries]) => {
        const headers = {"X-Console-Session": localStorage.getItem("queue-engine.session")};
        let best = Infinity;
        for (let one = 0; one < tries; one += 1) {
            const began = performance.now();
            const response = await fetch(path, {headers, cache: "no-store"});
            if (!response.ok) throw new Error(await response.text());
            await response.json();
            best = Math.min(best, performance.now() - began);
        }
        return best;
    }"""
    return float(visitor.page.evaluate(script, [f"/console/api/{path}", TRIES]))


def test_every_page_of_a_list_is_fast(operator: Visitor, seeded: Seeded) -> None:
    tasks = f"serverless/{seeded.endpoint}/tasks"
    lists = {
        "newest tasks": f"{tasks}?cursor=&pageSize=50",
        "oldest page by number": f"{tasks}?pageNumber={TASKS // 50}&pageSize=50",
        "succeeded tasks": f"{tasks}?cursor=&status=SUCCESS&pageSize=50",
        "failed tasks": f"{tasks}?cursor=&status=FAILED&pageSize=50",
        "a part that does not match": f"{tasks}?cursor=&idPrefix=none&pageSize=50",
        "groups of errors": f"serverless/{seeded.endpoint}/errors",
        "given-up deliveries": f"serverless/{seeded.endpoint}/deliveries?pageSize=50",
        "bulk operations": "operations?pageSize=50",
        "endpoints": "serverless",
        "workers": "workers",
    }
    found = {name: best_ms(operator, path) for name, path in lists.items()}
    print({name: round(ms, 1) for name, ms in found.items()})
    slowest = max(found, key=lambda name: found[name])
    note(f"page of a list, {TASKS:,} tasks", f"{found[slowest]:.0f} ms at most ({slowest})", f"≤ {LIST_MS} ms")
    assert found[slowest] <= LIST_MS


def test_a_few_failures_among_many_are_found(operator: Visitor, seeded: Seeded) -> None:
    operator.clicks = 0
    began = time.monotonic()
    operator.click("Tasks", "link")
    errors = operator.page.get_by_role("region", name="Errors", exact=True)
    operator.clicks += 1
    errors.get_by_role("row").filter(has_text="no model #").get_by_role("link", name="Show").click()
    expect(operator.page.locator("tr[data-row^='few_']")).to_have_count(FEW, timeout=WAIT_MS)
    operator.page.wait_for_function(f"document.querySelectorAll('tr[data-row]').length === {FEW}")
    seconds = time.monotonic() - began
    note(f"{FEW} failures among {TASKS:,}", f"{operator.clicks} clicks, {seconds:.1f} s", f"≤ {FOUND_CLICKS} clicks")
    assert operator.clicks <= FOUND_CLICKS
    operator.page.screenshot(path=SHOTS / "few-among-many.png", full_page=True)


def test_all_that_match_are_retried_among_many(operator: Visitor, seeded: Seeded) -> None:
    operator.open(f"{seeded.list_url}&errorContains=no+model")
    expect(operator.page.locator("tr[data-row]")).to_have_count(FEW, timeout=WAIT_MS)
    operator.clicks = 0
    operator.click("Retry all…")
    operator.see(f"{FEW} of {FEW} that match would be retried.")
    operator.click(f"Retry {FEW}")
    operator.page.get_by_role("heading", name="Result").wait_for()
    note(
        "retry of all that match",
        f"{operator.clicks} clicks, with preview, stop and report",
        f"≤ {RETRY_CLICKS} clicks",
    )
    assert operator.clicks <= RETRY_CLICKS
    operation = call(seeded.up, "GET", f"/serverless/{seeded.endpoint}/operations?pageSize=1")["items"][0]
    assert (operation["action"], operation["done"]) == ("retry", FEW)


def test_open_consoles_cost_the_store_little_and_closed_ones_nothing(browser: Browser, seeded: Seeded) -> None:
    up, store = seeded.up, store_of(seeded.up)
    call(up, "POST", f"/serverless/{seeded.endpoint}/pause")
    idle = share_of(store)
    views = ["/console", seeded.list_url, f"/console/tasks/{seeded.endpoint}/few_0", "/console/endpoints"]
    opened = [visiting(up, browser) for _ in range(CONSOLES)]
    try:
        for number, context in enumerate(opened):
            one = context.__enter__()
            one.log_in()
            one.open(views[number % len(views)])
            one.page.get_by_role("button", name="live").wait_for()
        open_share = share_of(store)
    finally:
        for context in opened:
            context.__exit__(None, None, None)
    closed = share_of(store)
    call(up, "POST", f"/serverless/{seeded.endpoint}/resume")
    measured = f"{max(0.0, open_share - idle):.2%} of a core of the store"
    note(f"{CONSOLES} open consoles", measured, f"≤ {STORE_SHARE:.0%}")
    note("no open console", f"{max(0.0, closed - idle):.2%} of a core of the store", "nothing")
    assert open_share - idle <= STORE_SHARE
    assert closed <= idle + STORE_SHARE / 5


def share_of(process: psutil.Process) -> float:
    """The share of a core that a process uses in WATCHED_SECONDS. The time itself is what is measured."""
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    wait_until(lambda: time.monotonic() - began >= WATCHED_SECONDS)
    return float(sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


@pytest.fixture(scope="module")
def _others(seeded: Seeded) -> None:
    """Failures of another cause that are newer than those of interest."""

    async def add(history: History) -> None:
        await fail(history, "again", FEW, TASK)
        await fail(history, "other", OTHER_FAILURES, OTHER)

    seeded.change(add)


@pytest.mark.usefixtures("_others")
def test_a_few_failures_behind_many_others_are_found_by_their_error(operator: Visitor, seeded: Seeded) -> None:
    """Beyond 1,000 failures, a filter by the error walks the tasks in the order of their creation."""
    began = time.monotonic()
    operator.open(f"{seeded.list_url}&status=FAILED&errorContains=no+model&idPrefix=again_")
    expect(operator.page.locator("tr[data-row]")).to_have_count(FEW, timeout=WALK_MS)
    found = time.monotonic() - began
    operator.page.get_by_role("button", name="Stop").wait_for(state="detached", timeout=WALK_MS)
    whole = time.monotonic() - began
    note(
        f"{FEW} failures behind {OTHER_FAILURES:,} others, {TASKS:,} tasks",
        f"shown after {found:.1f} s, all tasks looked at after {whole:.1f} s",
        "some seconds",
    )
    assert operator.reports == []
