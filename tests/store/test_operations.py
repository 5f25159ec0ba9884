"""An operation changes each of its tasks once and counts it once, whichever controllers die."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.task_operations import (
    Author,
    NewOperation,
    OperationStatus,
    SkipReason,
    TaskAction,
    TaskOperation,
)
from queue_engine.domain.tasks import DeliveryStatus, Failed, TaskState, TaskStatus
from queue_engine.store.constants import MAX_KEPT_OPERATIONS, MAX_RUNNING_OPERATIONS, MAX_UNKNOWN_BYTES
from queue_engine.store.operations import RunningOperation, Start
from tests.store.bench import DELIVERED, GIVEN_UP, TENANT, Bench, again

FAILED = TaskFilters(state=frozenset({TaskState.FAILED}))
QUEUED = TaskFilters(state=frozenset({TaskState.QUEUED}))


def operation(
    action: TaskAction,
    filters: TaskFilters | None = None,
    *,
    task_ids: Sequence[str] = (),
    operation_id: str = "op1",
    is_dry: bool = False,
    fingerprint: str = "1" * 32,
) -> NewOperation:
    author = Author("0" * 16, "deploy", "127.0.0.1")
    return NewOperation(operation_id, action, filters, tuple(task_ids), is_dry, fingerprint, author)


async def start(bench: Bench, new: NewOperation) -> Start:
    return await bench.store.operations.start(TENANT, bench.endpoint_id, new)


async def run(bench: Bench, operation_id: str = "op1", *, limit: int = 3) -> TaskOperation:
    """Make steps until the operation ends, as a leading controller does."""
    steps = bench.store.operation_steps
    for _ in range(1000):
        step = await steps.step(bench.endpoint_id, operation_id, limit=limit)
        if step is None or step.is_waiting:
            break
        if step.is_complete or step.is_closed:
            status = OperationStatus.DONE if step.is_complete else OperationStatus.FAILED
            assert await bench.store.operations.end(bench.endpoint_id, operation_id, status)
    return await found(bench, operation_id)


async def found(bench: Bench, operation_id: str = "op1") -> TaskOperation:
    one = await bench.store.operations.get(bench.endpoint_id, operation_id)
    assert one is not None
    return one


def counts(one: TaskOperation) -> tuple[str, int, int, int, int]:
    """Return status, matched, done, skipped and failed."""
    return one.status.value, one.matched, one.done, one.skipped, one.failed


async def states(bench: Bench) -> dict[str, str]:
    page = await bench.store.tasks.page(bench.endpoint_id, None, page=1, size=1000)
    return {task.task_id: task.state.value for task in page.items}


async def fail(bench: Bench, *task_ids: str, error: str = "no") -> None:
    for task_id in task_ids:
        await bench.finish(task_id, outcome=Failed(error))


async def test_given_tasks_are_cancelled_once_each(bench: Bench) -> None:
    ids = [f"t{number}" for number in range(8)]
    for task_id in ids:
        await bench.submit(task_id)
    assert await start(bench, operation(TaskAction.CANCEL, task_ids=[*ids[:7], "missing"])) is Start.STARTED
    one = await run(bench)
    assert counts(one) == ("done", 7, 7, 1, 0)
    assert one.skips == {SkipReason.NOT_FOUND: 1}
    assert (one.total, one.given, one.scanned, one.unknown_ids) == (8, 8, 8, ("missing",))
    assert one.ended_at_ms == one.updated_at_ms >= one.started_at_ms
    assert await states(bench) == dict.fromkeys(ids[:7], "cancelled") | {"t7": "queued"}


async def test_tasks_that_match_are_retried(bench: Bench) -> None:
    await fail(bench, "a", "b", "c", "d", error="out of memory")
    await fail(bench, "other", error="bad input")
    await bench.finish("fine")
    filters = replace(FAILED, error_contains="memory")
    assert await start(bench, operation(TaskAction.RETRY, filters)) is Start.STARTED
    one = await run(bench)
    assert counts(one) == ("done", 4, 4, 0, 0)
    assert (one.total, one.progress) == (6, 1.0)
    assert one.filters == filters
    assert await states(bench) == dict.fromkeys("abcd", "queued") | {"other": "failed", "fine": "succeeded"}


async def test_tasks_that_match_are_deleted_with_all_data(bench: Bench) -> None:
    await fail(bench, "a", "b", "c", "d")
    await bench.submit("waits")
    await start(bench, operation(TaskAction.DELETE, FAILED))
    assert counts(await run(bench)) == ("done", 4, 4, 0, 0)
    assert await states(bench) == {"waits": "queued"}


async def test_tasks_later_than_the_operation_are_not_touched(bench: Bench) -> None:
    await bench.submit("before")
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await start(bench, operation(TaskAction.CANCEL, task_ids=["later"], operation_id="op2"))
    await bench.submit("later")
    assert counts(await run(bench)) == ("done", 1, 1, 0, 0)
    assert (await run(bench, "op2")).skips == {SkipReason.NEWER: 1}
    assert await states(bench) == {"before": "cancelled", "later": "queued"}


async def test_a_dry_operation_counts_and_changes_nothing(bench: Bench) -> None:
    await fail(bench, "a", "b")
    await bench.submit("waits")
    before = await bench.probe.snapshot(bench.keys.task(""))
    await start(bench, operation(TaskAction.DELETE, FAILED, is_dry=True))
    await start(bench, operation(TaskAction.RETRY, task_ids=["a", "waits", "x"], operation_id="op2", is_dry=True))
    assert counts(await run(bench)) == ("done", 2, 2, 0, 0)
    one = await run(bench, "op2")
    assert counts(one) == ("done", 2, 1, 2, 0)
    assert one.skips == {SkipReason.NOT_ENDED: 1, SkipReason.NOT_FOUND: 1}
    assert one.unknown_ids == ("x",)
    assert await bench.probe.snapshot(bench.keys.task("")) == before


async def test_a_task_that_ends_between_match_and_change_is_skipped_with_a_reason(bench: Bench) -> None:
    for task_id in ("ends", "starts", "stays"):
        await bench.submit(task_id)
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await plan(bench)
    agent = bench.agent()
    ends = await bench.start(agent)
    await bench.settle(agent, ends, Failed("no"))
    await bench.start(agent)
    one = await run(bench)
    assert counts(one) == ("done", 3, 1, 2, 0)
    assert one.skips == {SkipReason.ENDED: 1, SkipReason.CHANGED: 1}
    assert await states(bench) == {"ends": "failed", "starts": "running", "stays": "cancelled"}


async def test_a_task_that_ran_again_between_match_and_change_is_skipped(bench: Bench) -> None:
    """It may have failed for another reason, and somebody may need its result."""
    await fail(bench, "a", "b", "c")
    await start(bench, operation(TaskAction.DELETE, FAILED))
    await plan(bench)
    await bench.store.tasks.rerun(bench.endpoint_id, "a", "somebody")
    await bench.store.tasks.rerun(bench.endpoint_id, "b", "somebody")
    await bench.store.tasks.delete(bench.endpoint_id, "c")
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Failed("no"))
    one = await run(bench)
    assert counts(one) == ("done", 3, 0, 3, 0)
    assert one.skips == {SkipReason.CHANGED: 1, SkipReason.NOT_ENDED: 1, SkipReason.NOT_FOUND: 1}


@pytest.mark.parametrize("is_dry", [True, False])
@pytest.mark.parametrize("action", [TaskAction.RETRY, TaskAction.DELETE, TaskAction.REDELIVER])
async def test_a_task_whose_result_was_delivered_between_match_and_change_is_skipped(
    bench: Bench, action: TaskAction, is_dry: bool
) -> None:
    """`deliver` and `waits` match SUCCESS when they are found. The receiver then accepts the result of one of them."""
    outbox = await bench.outbox()
    for task_id in ("delivered", "waits"):
        await bench.finish(task_id, webhook=True)
        await bench.deliver(outbox, again(60))
    await start(bench, operation(action, TaskFilters(status=TaskStatus.SUCCESS), is_dry=is_dry))
    await plan(bench)
    await bench.store.deliveries.send_now(bench.endpoint_id, "delivered", "call", Trigger.RETRY)
    await bench.deliver(outbox, DELIVERED)
    one = await run(bench)
    assert counts(one) == ("done", 2, 1, 1, 0)
    assert one.skips == {SkipReason.CHANGED: 1}
    task = await bench.task("delivered")
    assert (task.status, task.runs) == (TaskStatus.DELIVERED, 1)


async def test_a_result_that_was_given_up_between_match_and_change_is_not_sent_again(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t", webhook=True)
    await bench.deliver(outbox, again(60))
    filters = TaskFilters(delivery_status=DeliveryStatus.FAILED)
    await start(bench, operation(TaskAction.REDELIVER, filters))
    await plan(bench)
    await bench.store.deliveries.send_now(bench.endpoint_id, "t", "call", Trigger.RETRY)
    await bench.deliver(outbox, GIVEN_UP)
    assert (await run(bench)).skips == {SkipReason.CHANGED: 1}
    assert (await outbox.pending())["fresh"] == 0


async def plan(bench: Bench, operation_id: str = "op1") -> None:
    """Find the tasks of the next step, as a controller that dies before it changes them."""
    keys = bench.keys
    values = await bench.probe.hash(keys.operation(operation_id))
    page = await bench.store.task_scan.page(
        bench.endpoint_id, (await found(bench, operation_id)).filters or TaskFilters(), after=None, limit=250,
        upto=int(values["upto"]),
    )  # fmt: skip
    reply = await bench.store.scripts.plan_operation(
        operation=keys.operation(operation_id),
        todo=keys.todo(operation_id),
        given_tasks=keys.given_tasks(operation_id),
        step=int(values["step"]),
        limit=250,
        scanned=page.scanned,
        from_place=page.next,
        found=[part for task in page.items for part in (task.task_id, str(task.finished_at_ms or 0))],
    )
    assert reply.word == "OK"


async def test_the_progress_grows_with_the_tasks_that_were_looked_at(bench: Bench) -> None:
    for number in range(8):
        await bench.submit(f"t{number}")
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await start(bench, operation(TaskAction.CANCEL, task_ids=["a", "b", "c", "d"], operation_id="op2"))
    for operation_id in ("op1", "op2"):
        progress = [(await found(bench, operation_id)).progress]
        while (await bench.store.operation_steps.step(bench.endpoint_id, operation_id, limit=2)) is not None:
            progress.append((await found(bench, operation_id)).progress)
            if progress[-1] == progress[-2]:
                break
        assert progress[0] == 0
        assert progress == sorted(progress)
        assert len(set(progress)) >= 3
        assert (await run(bench, operation_id)).progress == 1


async def test_a_repeated_request_begins_nothing(bench: Bench) -> None:
    await fail(bench, "a")
    new = operation(TaskAction.RETRY, FAILED)
    assert await start(bench, new) is Start.STARTED
    assert await start(bench, new) is Start.SAME
    assert counts(await run(bench)) == ("done", 1, 1, 0, 0)
    assert await start(bench, new) is Start.SAME
    assert (await found(bench)).status is OperationStatus.DONE
    assert await start(bench, replace(new, fingerprint="2" * 32)) is Start.CONFLICT


async def test_an_operation_of_an_earlier_id_does_not_pass_for_the_same_retry(bench: Bench) -> None:
    """The id is the client's, and may come again after the operation has been forgotten."""
    await fail(bench, "a")
    for _ in range(2):
        await start(bench, operation(TaskAction.RETRY, FAILED))
        assert counts(await run(bench)) == ("done", 1, 1, 0, 0)
        agent = bench.agent()
        await bench.settle(agent, await bench.start(agent), Failed("no"))
        await bench.store.operations.remove_endpoint(bench.endpoint_id)


@pytest.mark.parametrize("action", [TaskAction.CANCEL, TaskAction.RETRY, TaskAction.DELETE])
async def test_several_controllers_change_and_count_each_task_once(bench: Bench, action: TaskAction) -> None:
    count = 60
    for number in range(count):
        await (bench.submit(f"t{number}") if action is TaskAction.CANCEL else fail(bench, f"t{number}"))
    await start(bench, operation(action, QUEUED if action is TaskAction.CANCEL else FAILED))
    results = await asyncio.gather(*(_walk(bench) for _ in range(3)))
    one = await found(bench)
    assert counts(one) == ("done", count, count, 0, 0)
    assert sum(results) == count
    if action is TaskAction.RETRY:
        tasks = [await bench.task(f"t{number}") for number in range(count)]
        assert {task.runs for task in tasks} == {2}


async def _walk(bench: Bench) -> int:
    """Make steps as a controller that does not know of the others; return how many tasks it has changed."""
    changed = 0
    while (step := await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=7)) is not None or (
        await found(bench)
    ).is_running:
        if step is not None:
            changed += step.changed
            if step.is_complete:
                await bench.store.operations.end(bench.endpoint_id, "op1", OperationStatus.DONE)
    return changed


async def test_a_cancelled_operation_changes_no_further_task(bench: Bench) -> None:
    await fail(bench, *"abcdef")
    await start(bench, operation(TaskAction.RETRY, FAILED))
    await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=2)
    await plan(bench)
    assert await bench.store.operations.end(bench.endpoint_id, "op1", OperationStatus.CANCELLED)
    assert await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=2) is None
    reply = await bench.store.scripts.rerun_in_operation(
        bench.keys.of_task("a"),
        operation=bench.keys.operation("op1"),
        todo=bench.keys.todo("op1"),
        states=[],
        delivery_statuses="",
    )
    assert reply.word == "STALE"
    one = await found(bench)
    assert (one.status, one.done) == (OperationStatus.CANCELLED, 2)
    assert not await bench.store.operations.end(bench.endpoint_id, "op1", OperationStatus.CANCELLED)
    assert sorted((await states(bench)).values()) == ["failed"] * 4 + ["queued"] * 2


async def test_retries_wait_for_room_in_the_queue(bench: Bench) -> None:
    await fail(bench, *"abcd")
    await bench.probe.ask("HSET", bench.keys.endpoint, "max_queued", 2)
    await start(bench, operation(TaskAction.RETRY, FAILED))
    assert counts(await run(bench, limit=3)) == ("running", 3, 2, 0, 0)
    step = await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=3)
    assert step is not None
    assert (step.is_waiting, step.changed, step.is_complete) == (True, 0, False)
    agent = bench.agent()
    for _ in range(2):
        await bench.settle(agent, await bench.start(agent), Failed("again"))
    assert counts(await run(bench, limit=3)) == ("done", 4, 4, 0, 0)


async def test_a_retry_of_a_stopped_endpoint_fails_and_changes_nothing(bench: Bench) -> None:
    await fail(bench, "a", "b")
    await start(bench, operation(TaskAction.RETRY, FAILED))
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    one = await run(bench)
    assert (one.status, one.done, one.skipped) == (OperationStatus.FAILED, 0, 0)
    assert await states(bench) == {"a": "failed", "b": "failed"}


async def test_an_endpoint_has_a_limited_number_of_operations(bench: Bench) -> None:
    for number in range(MAX_RUNNING_OPERATIONS):
        assert await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id=f"op{number}")) is Start.STARTED
    assert await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="more")) is Start.TOO_MANY
    await run(bench, "op0")
    assert await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="more")) is Start.STARTED


async def test_operations_are_listed_newest_first(bench: Bench) -> None:
    for number in range(3):
        await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id=f"op{number}"))
        await bench.probe.ask("ZADD", bench.keys.operations, "XX", 1000 + number, f"op{number}")
    pages = [await bench.store.operations.page(bench.endpoint_id, page=number, size=2) for number in (1, 2)]
    assert [[one.operation_id for one in page.items] for page in pages] == [["op2", "op1"], ["op0"]]
    assert {page.total for page in pages} == {3}


async def test_the_oldest_operations_that_have_ended_are_removed(bench: Bench) -> None:
    for number in range(2):
        await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id=f"op{number}"))
    await run(bench, "op0")
    others = [part for number in range(MAX_KEPT_OPERATIONS - 1) for part in (10**14, f"other{number}")]
    await bench.probe.ask("ZADD", bench.keys.operations, *others)
    await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="latest"))
    assert await bench.store.operations.get(bench.endpoint_id, "op0") is None
    assert (await found(bench, "op1")).is_running
    assert await bench.probe.ask("ZCARD", bench.keys.operations) == MAX_KEPT_OPERATIONS + 1


async def test_operations_of_a_tenant_are_found_without_its_endpoints(bench: Bench) -> None:
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    page = await bench.store.operations.tenants_page(TENANT, page=1, size=10)
    assert [(one.endpoint_id, one.operation_id) for one in page.items] == [(bench.endpoint_id, "op1")]
    others = frozenset({"123"})
    assert (await bench.store.operations.page_of_endpoints(TENANT, others, page=1, size=10)).items == ()
    own = frozenset({bench.endpoint_id})
    assert len((await bench.store.operations.page_of_endpoints(TENANT, own, page=1, size=10)).items) == 1


async def test_an_operation_is_kept_for_seven_days_after_its_end(bench: Bench) -> None:
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    key, week_ms = bench.keys.operation("op1"), 7 * 86_400_000
    assert await bench.probe.ask("PTTL", key) == -1
    await run(bench)
    assert week_ms - 600_000 < await bench.probe.ask("PTTL", key) <= week_ms


async def test_an_expired_operation_leaves_the_lists(bench: Bench) -> None:
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    await run(bench)
    assert await bench.probe.ask("PEXPIRE", bench.keys.operation("op1"), 0) == 1
    for page in (
        await bench.store.operations.tenants_page(TENANT, page=1, size=10),
        await bench.store.operations.page(bench.endpoint_id, page=1, size=10),
    ):
        assert (page.items, page.total) == ((), 0)
    assert await bench.probe.ask("EXISTS", bench.keys.operations) == 0


async def test_operations_are_removed_with_their_endpoint(bench: Bench) -> None:
    await bench.submit("a")
    await start(bench, operation(TaskAction.CANCEL, task_ids=["a"]))
    await start(bench, operation(TaskAction.CANCEL, QUEUED, operation_id="op2"))
    await plan(bench, "op2")
    await bench.store.operations.remove_endpoint(bench.endpoint_id)
    assert [name for name in await bench.probe.keys() if ":op" in name] == []
    assert await bench.store.operations.running(bench.partition) == []


async def test_running_operations_are_known_with_their_tenant(bench: Bench) -> None:
    await start(bench, operation(TaskAction.CANCEL, QUEUED))
    expected = [RunningOperation(bench.endpoint_id, "op1", TENANT)]
    assert await bench.store.operations.running(bench.partition) == expected
    assert await bench.store.operations.busy() == [bench.partition]
    await run(bench)
    assert await bench.store.operations.running(bench.partition) == []
    assert await bench.store.operations.busy() == []


async def test_ten_thousand_tasks_are_given_in_one_call(bench: Bench) -> None:
    ids = [f"task_{number:05}" for number in range(10_000)]
    assert await start(bench, operation(TaskAction.CANCEL, task_ids=ids)) is Start.STARTED
    one = await run(bench, limit=1000)
    assert (one.total, one.matched, one.skips) == (10_000, 0, {SkipReason.NOT_FOUND: 10_000})
    assert 0 < len(" ".join(one.unknown_ids)) <= MAX_UNKNOWN_BYTES
    assert set(one.unknown_ids) <= set(ids)
