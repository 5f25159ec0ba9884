"""The leading controller makes the steps of operations: tenants in turns, and a broken one stops no other."""

import time

import pytest

from queue_engine.controller.operations import Operations, Turns
from queue_engine.domain.task_operations import OperationStatus, TaskAction
from queue_engine.domain.tasks import TaskState
from queue_engine.store.operations import RunningOperation
from tests.store.bench import TENANT, Bench
from tests.store.test_operations import QUEUED, counts, fail, found, operation, start, states


async def run(bench: Bench) -> None:
    operations = Operations(bench.store)
    while await operations.step():
        pass


def test_tenants_take_turns_however_many_operations_each_has() -> None:
    turns = Turns()
    many = [RunningOperation("1", f"op{number}", "many") for number in range(100)]
    few = RunningOperation("2", "op", "few")
    turns.replace([*many, few])
    order = [turns.next({}) for _ in range(6)]
    assert order == [many[0], few, many[1], few, many[2], few]
    turns.replace([*many[1:], few])
    assert [turns.next({many[3]}) for _ in range(3)] == [many[4], few, many[5]]
    turns.remove(few)
    assert turns.next({}) == many[3]
    assert turns.next(set(many)) is None


async def test_operations_run_to_their_end_and_are_recorded(bench: Bench) -> None:
    for number in range(300):
        await bench.submit(f"t{number}")
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await run(bench)
    assert counts(await found(bench)) == ("done", 300, 300, 0, 0)
    (record,) = (await bench.store.audit.page(TENANT, before=None, size=10)).records
    assert record.change.action == "end_operation"
    assert record.change.target.endswith("operation op1: cancel done: 300 of 300 tasks changed")
    assert record.change.key_name == "deploy"


async def test_operations_take_at_most_half_of_the_time(bench: Bench) -> None:
    """After a step the controller rests for as long as the step took."""
    now, step_seconds = 0.0, 0.5

    def clock() -> float:
        nonlocal now
        now += step_seconds
        return now

    await bench.submit("a")
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    began = time.monotonic()
    assert await Operations(bench.store, clock=clock).step() == 1
    assert time.monotonic() - began >= step_seconds


async def test_a_broken_operation_does_not_stop_the_others(bench: Bench) -> None:
    await bench.submit("a")
    await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="broken"))
    await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="fine"))
    await bench.probe.ask("HSET", bench.keys.operation("broken"), "filters", "{")
    await run(bench)
    assert counts(await found(bench, "fine")) == ("done", 1, 1, 0, 0)
    await bench.store.operations.end(bench.endpoint_id, "broken", OperationStatus.FAILED)
    await bench.probe.ask("DEL", bench.keys.operation("broken"))


@pytest.mark.parametrize("filters", ['{"state": ["queued"], "colour": "red"}', '{"state": ["queued", "melted"]}'])
async def test_an_operation_with_a_filter_of_a_later_version_changes_no_task(bench: Bench, filters: str) -> None:
    await bench.submit("a")
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await bench.probe.ask("HSET", bench.keys.operation("op1"), "filters", filters)
    await run(bench)
    assert await states(bench) == {"a": TaskState.QUEUED.value}
    one = await found(bench)
    assert counts(one) == ("failed", 0, 0, 0, 0)
    assert "of a later version" in str(one.error)


async def test_an_operation_whose_api_died_is_listed_for_its_tenant(bench: Bench) -> None:
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await bench.probe.ask("DEL", f"{{qe}}:operations:{TENANT}")
    await run(bench)
    assert (await bench.store.operations.tenants_page(TENANT, page=1, size=1)).total == 1


async def test_a_task_with_a_broken_record_counts_as_failed(bench: Bench) -> None:
    await fail(bench, "a", "b")
    await bench.probe.ask("HSET", bench.keys.task("a"), "fin", "x")
    await start(bench, operation(TaskAction.DELETE, task_ids=["a", "b"]))
    await run(bench)
    one = await found(bench)
    assert counts(one) == ("done", 2, 1, 0, 1)
    assert one.error
    await bench.probe.ask("HSET", bench.keys.task("a"), "fin", 1)
    assert await states(bench) == {"a": TaskState.FAILED.value}
