"""Entry ids of both queues come from the clock, so both may have an entry with the same id."""

from collections.abc import Awaitable, Callable

import pytest

from queue_engine.domain.tasks import TaskState
from queue_engine.store.tasks import Cancellation
from tests.store.bench import Bench


async def cancel(bench: Bench) -> None:
    assert await bench.store.tasks.cancel(bench.endpoint_id, "ends") is Cancellation.CANCELLED


async def expire(bench: Bench) -> None:
    await bench.pass_deadline("ends")
    assert (await bench.sweep()).expired == 1


async def end_waiting(bench: Bench) -> None:
    assert await bench.store.sweeper.end_waiting(bench.endpoint_id, "deleted", limit=1) == 1


async def wait_with_the_same_id(bench: Bench, in_queue: str, in_retry_queue: str) -> None:
    """Let a task wait in each queue, with the same entry id."""
    entry = (await bench.probe.hash(bench.keys.task(in_queue)))["entry"]
    before = (await bench.probe.hash(bench.keys.task(in_retry_queue)))["entry"]
    await bench.probe.ask("XDEL", bench.keys.queue, before)
    await bench.probe.ask("XADD", bench.keys.retry_queue, entry, "t", in_retry_queue)
    await bench.probe.ask("HSET", bench.keys.task(in_retry_queue), "entry", entry)


@pytest.mark.parametrize("end", [cancel, expire, end_waiting])
@pytest.mark.parametrize("places", [("ends", "stays"), ("stays", "ends")], ids=["queue", "retry queue"])
@pytest.mark.parametrize("read_before", [False, True], ids=["unread", "read"])
async def test_a_task_that_stops_waiting_does_not_take_the_other_queues_entry_along(
    bench: Bench, end: Callable[[Bench], Awaitable[None]], places: tuple[str, str], read_before: bool
) -> None:
    await bench.submit("ends", queue_ttl_seconds=30)
    await bench.submit("stays")
    await wait_with_the_same_id(bench, *places)
    agent = bench.agent()
    entries = await agent.claim(2, block_ms=1) if read_before else []
    await end(bench)
    assert await bench.check() == []
    entries = entries or await agent.claim(2, block_ms=1)
    started = [started for entry in entries if (started := await agent.start(entry, address="x:1")) is not None]
    assert [one.lease.task_id for one in started] == ["stays"]
    assert (await bench.task("stays")).state is TaskState.RUNNING
