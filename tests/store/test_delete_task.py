"""Deleting a task removes all its data at once, and no late call restores it."""

import pytest

from queue_engine.domain.tasks import Succeeded, TaskStatus, TryAgain
from queue_engine.store.tasks import Deletion, Submission
from tests.store.bench import DELIVERED, Bench, answer, spec


async def delete(bench: Bench, task_id: str = "t1") -> Deletion:
    return await bench.store.tasks.delete(bench.endpoint_id, task_id)


async def test_an_ended_task_is_deleted_with_all_its_data(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit_and_start("t1", agent, spec=spec(webhook=True))
    await bench.lose("t1")
    await bench.settle(agent, await bench.start(agent), Succeeded(b"1"))
    await bench.deliver(await bench.outbox())
    assert await delete(bench) is Deletion.DELETED
    assert await bench.store.tasks.get(bench.endpoint_id, "t1") is None
    assert [key for key in await bench.probe.keys() if key.endswith(":t1")] == []
    page = await bench.store.tasks.page(bench.endpoint_id, None, page=1, size=10)
    assert (page.items, page.total) == ((), 0)
    assert (await bench.store.tasks.counts(bench.endpoint_id)).total == 0


@pytest.mark.parametrize("how", ["ready", "read", "retry", "parked"])
async def test_its_delivery_is_dropped(bench: Bench, how: str) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await bench.bring_delivery_to(how, outbox)
    await delete(bench)
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    if how == "read":
        assert entry is not None
        assert not (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert [key for key in await bench.probe.keys() if key.endswith(":t1")] == []


@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
async def test_a_task_that_has_not_ended_stays(bench: Bench, state: str) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    if state != "queued":
        started = await bench.start(agent)
        if state == "scheduled":
            await bench.settle(agent, started, TryAgain("busy", 60))
    before = await bench.task("t1")
    assert await delete(bench) is Deletion.NOT_ENDED
    assert await bench.task("t1") == before


async def test_deleting_a_missing_task_reports_it_as_missing(bench: Bench) -> None:
    await bench.finish("t1")
    assert [await delete(bench), await delete(bench)] == [Deletion.DELETED, Deletion.NOT_FOUND]


async def test_a_late_result_for_a_deleted_task_is_refused(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1", max_lost=0)
    await delete(bench)
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "GONE"
    assert await bench.store.tasks.get(bench.endpoint_id, "t1") is None


async def test_its_id_is_free_again(bench: Bench) -> None:
    await bench.finish("t1")
    await delete(bench)
    assert await bench.submit("t1", fingerprint="1" * 32) is Submission.ACCEPTED
    assert (await bench.task("t1")).status is TaskStatus.PROCESSING


async def test_pages_around_a_deleted_task_are_whole(bench: Bench) -> None:
    for number in range(5):
        await bench.finish(f"t{number}")
    await delete(bench, "t2")
    for status in (None, TaskStatus.SUCCESS):
        pages = [await bench.store.tasks.page(bench.endpoint_id, status, page=page, size=2) for page in (1, 2)]
        assert [task.task_id for page in pages for task in page.items] == ["t4", "t3", "t1", "t0"]
