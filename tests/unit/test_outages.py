"""The log has a line when the store becomes unreachable and one when it is back."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from queue_engine.aio import Backoff, end_tasks, retry_while_unavailable, run_forever
from queue_engine.observability import outages
from queue_engine.observability.outages import MAX_REASONS, Outages
from tests.waiting import wait_until_async

QUICK = Backoff(0.001, 0.001)


class Away(Exception):
    """The service does not respond."""


def passing(error: BaseException) -> str | None:
    return "it cannot be reached" if isinstance(error, Away) else None


@pytest.fixture(autouse=True)
def _settles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "SETTLE_SECONDS", 0.05)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def records(log: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in log.records if record.name.startswith("queue_engine.observability")]


async def is_back(log: pytest.LogCaptureFixture) -> Any:
    await wait_until_async(lambda: "is back" in log.text, message="the outage does not end")
    [back] = [record for record in records(log) if "is back" in record.getMessage()]
    return back


async def test_many_callers_make_one_outage_of_two_lines_with_a_count(log: pytest.LogCaptureFixture) -> None:
    left = dict.fromkeys(range(50), 20)

    async def call(number: int) -> int:
        left[number] -= 1
        if left[number] > 0:
            raise Away
        return number

    calls = [retry_while_unavailable(lambda n=n: call(n), passing=passing, backoff=QUICK, what="settle") for n in left]  # type: ignore[misc]
    assert await asyncio.gather(*calls) == list(left)
    back = await is_back(log)
    assert [record.getMessage() for record in records(log)] == [
        "the store is away: it cannot be reached", "the store is back",
    ]  # fmt: skip
    assert back.failed_calls == 50 * 19
    assert back.calls == {"settle": 50 * 19}
    assert back.seconds >= 0


async def test_a_loop_logs_an_outage_without_a_traceback_and_goes_on(log: pytest.LogCaptureFixture) -> None:
    rounds = 0

    async def step() -> int:
        nonlocal rounds
        rounds += 1
        if rounds < 30:
            raise Away
        return 0

    loop = asyncio.create_task(run_forever(step, idle_seconds=0.001, name="sweep", passing=passing, backoff=QUICK))
    back = await is_back(log)
    await end_tasks(loop)
    assert back.calls == {"sweep": 29}
    assert len(records(log)) == 2
    assert "Traceback" not in log.text


async def test_an_unexpected_error_of_a_loop_has_its_traceback_but_not_in_every_round(
    log: pytest.LogCaptureFixture,
) -> None:
    rounds = 0

    async def step() -> int:
        nonlocal rounds
        rounds += 1
        raise LookupError("a mistake")

    loop = asyncio.create_task(run_forever(step, idle_seconds=0, name="sweep", passing=passing, backoff=QUICK))
    await wait_until_async(lambda: rounds >= 60)
    await end_tasks(loop)
    assert log.text.count("Traceback") == 2


async def test_callers_that_recover_one_after_the_other_make_one_outage(log: pytest.LogCaptureFixture) -> None:
    service = Outages("the store")
    service.failed("a", "a", "it cannot be reached")
    for caller, following in (("a", "b"), ("b", "c"), ("c", "d")):
        service.succeeded(caller)
        service.failed(following, following, "it cannot be reached")
    service.succeeded("d")
    back = await is_back(log)
    assert len(records(log)) == 2
    assert back.failed_calls == 4


async def test_an_outage_goes_on_while_one_caller_still_fails(log: pytest.LogCaptureFixture) -> None:
    service = Outages("the store")
    service.failed("partition 1", "sweep", "it cannot be reached")
    service.failed("partition 2", "sweep", "it cannot be reached")
    service.succeeded("partition 1")
    looked = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * outages.SETTLE_SECONDS, looked.set)
    await looked.wait()
    assert len(records(log)) == 1
    service.succeeded("partition 2")
    await is_back(log)


async def test_a_caller_that_ends_unserved_does_not_mean_that_the_store_is_back(log: pytest.LogCaptureFixture) -> None:
    service = Outages("the store")
    service.failed("a", "a", "it cannot be reached")
    service.left("a")
    await wait_until_async(lambda: service._outage is None)
    assert "is back" not in log.text
    service.failed("b", "b", "it cannot be reached")
    assert len(records(log)) == 2


async def test_a_caller_that_does_not_call_again_is_forgotten(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "SILENT_SECONDS", 0.05)
    service = Outages("the store")
    service.failed("a job that another controller runs now", "purge", "it cannot be reached")
    service.failed("b", "b", "it cannot be reached")
    service.succeeded("b")
    await is_back(log)


async def test_each_reason_is_logged_once_and_not_more_than_a_few(log: pytest.LogCaptureFixture) -> None:
    service = Outages("the store")
    for number in range(100):
        service.failed("a", "a", f"it says {number % 20}")
    assert len(records(log)) == MAX_REASONS
    assert "the store is away: it says 0" in log.text
    assert "the store is still away: it says 1" in log.text
