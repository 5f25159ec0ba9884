"""Retention: ended tasks are removed with all their data when their retention is over, and no other tasks."""

import asyncio

import pytest

from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import Failed, Succeeded, TaskState, TaskStatus
from queue_engine.store.constants import EXPIRY_SLACK_MS
from queue_engine.store.sweeper import KEPT_PAGES
from queue_engine.store.tasks import Submission
from tests.store.bench import DELIVERED, GIVEN_UP, TOO_LARGE_TO_JOIN, Bench, again, spec
from tests.waiting import wait_until_async


async def test_what_ended_before_the_time_goes_and_the_rest_stays(bench: Bench) -> None:
    for task_id in ("t1", "t2"):
        await bench.finish(task_id)
    ended = (await bench.task("t2")).finished_at_ms
    assert ended is not None
    await _until_later_than(bench, ended)
    await bench.finish("t3")
    await bench.submit_and_start("running")
    await bench.submit("queued")

    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=ended + 1) == 2

    page = await bench.store.tasks.page(bench.endpoint_id, None, page=1, size=10)
    assert [task.task_id for task in page.items] == ["queued", "running", "t3"]
    assert await bench.store.tasks.get(bench.endpoint_id, "t1") is None
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(queued=1, running=1, success=1)


async def test_nothing_is_purged_before_its_time(bench: Bench) -> None:
    await bench.finish("t1")
    ended = (await bench.task("t1")).finished_at_ms
    assert ended is not None
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=ended) == 0
    assert (await bench.task("t1")).output == b"42"


async def test_nothing_is_left_of_a_purged_task(bench: Bench) -> None:
    await bench.finish("marked_task_1", webhook=True)
    await bench.deliver(await bench.outbox())
    await bench.finish("marked_task_2", outcome=Failed("no"))
    assert await bench.purge() == 2
    dump = await bench.probe.dump()
    assert [name for name, content in dump.items() if "marked_task" in name or b"marked_task" in content] == []


async def test_the_tags_of_a_purged_task_are_removed_and_those_of_others_stay(bench: Bench) -> None:
    await bench.finish("gone", spec=spec(tags=["a", "a:b"]))
    await bench.submit("stays", spec=spec(tags=["a"]))
    assert await bench.probe.ask("ZRANGE", bench.keys.tags, 0, -1) == [
        b"a 000000000001 gone", b"a 000000000002 stays", b"a:b 000000000001 gone"
    ]  # fmt: skip
    assert await bench.purge() == 1
    assert await bench.probe.ask("ZRANGE", bench.keys.tags, 0, -1) == [b"a 000000000002 stays"]
    assert await bench.probe.hash(bench.keys.tagged) == {"2": "a"}


async def test_tags_are_removed_although_the_data_of_their_task_has_expired(bench: Bench) -> None:
    await bench.finish("t1", spec=spec(tags=["a", "b"]))
    for key in (bench.keys.task("t1"), bench.keys.body("t1")):
        await bench.probe.ask("DEL", key)
    assert await bench.purge() == 1
    assert not {bench.keys.tags, bench.keys.tagged} & await bench.probe.keys()


async def test_tags_that_an_earlier_version_left_are_removed_with_the_last_task(bench: Bench) -> None:
    await bench.finish("t1", spec=spec(tags=["a"]))
    await bench.probe.ask("ZADD", bench.keys.tags, 0, "a 000000000000 left")
    await bench.probe.ask("HSET", bench.keys.tagged, "0", "a")
    assert await bench.purge() == 1
    assert not {bench.keys.tags, bench.keys.tagged} & await bench.probe.keys()


async def test_one_call_removes_at_most_its_limit(bench: Bench) -> None:
    for number in range(5):
        await bench.finish(f"t{number}")
    before = await bench.probe.now_ms() + 1000
    removed = [await bench.store.sweeper.purge(bench.endpoint_id, before_ms=before, limit=2) for _ in range(4)]
    assert removed == [2, 2, 1, 0]


async def test_a_task_is_kept_while_its_delivery_goes_on(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    assert await bench.purge() == 0
    await bench.deliver(outbox, again())
    assert await bench.purge() == 0
    assert (await bench.store.tasks.counts(bench.endpoint_id)).success == 1
    assert await outbox.promote() == 1
    await bench.deliver(outbox)
    assert (await bench.task("t1")).status is TaskStatus.DELIVERED
    assert await bench.purge() == 1


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), TOO_LARGE_TO_JOIN])
async def test_a_kept_task_does_not_expire_during_its_delivery(bench: Bench, outcome: Succeeded) -> None:
    await bench.finish("t1", outcome=outcome, webhook=True)
    names = await bench.data_keys("t1")
    for key in names:
        await bench.probe.ask("PEXPIRE", key, 60_000)
    await bench.purge()
    for key in names:
        assert await bench.probe.ask("PTTL", key) > EXPIRY_SLACK_MS


async def test_a_call_looks_at_a_limited_number_of_kept_tasks_and_the_next_goes_on(bench: Bench) -> None:
    for number in range(2 * KEPT_PAGES):
        await bench.finish(f"kept{number}", webhook=True)
    await bench.finish("last")
    ended = (await bench.task("last")).finished_at_ms
    assert ended is not None
    await _until_later_than(bench, ended)
    purge = bench.store.sweeper.purge
    removed = [await purge(bench.endpoint_id, before_ms=ended + 1, limit=1) for _ in range(3)]
    assert removed == [0, 0, 1]


async def test_tasks_behind_many_that_are_kept_go_in_the_same_call(bench: Bench) -> None:
    for number in range(4):
        await bench.finish(f"kept{number}", webhook=True)
    await bench.finish("t1")
    before = await bench.probe.now_ms() + 1
    await _until_later_than(bench, before)
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=before, limit=2) == 1


@pytest.mark.parametrize("verdict", [DELIVERED, GIVEN_UP])
async def test_a_failed_task_goes_when_its_delivery_has_ended(bench: Bench, verdict: object) -> None:
    await bench.finish("t1", outcome=Failed("no"), webhook=True)
    assert await bench.purge() == 0
    await bench.deliver(await bench.outbox(), verdict)  # type: ignore[arg-type]
    assert await bench.purge() == 1
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts()


async def test_the_retention_of_a_delivered_task_begins_with_the_delivery(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    ended = (await bench.task("t1")).finished_at_ms
    assert ended is not None
    await _until_later_than(bench, ended)
    await bench.deliver(await bench.outbox())
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=ended + 1) == 0
    assert (await bench.task("t1")).status is TaskStatus.DELIVERED


async def test_purges_at_once_count_each_task_once(bench: Bench) -> None:
    for number in range(10):
        await bench.finish(f"t{number}")
    assert sum(await asyncio.gather(*(bench.purge() for _ in range(4)))) == 10
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts()


async def test_a_purged_id_can_be_submitted_again(bench: Bench) -> None:
    first = await bench.finish("t1")
    await bench.purge()
    assert await bench.submit("t1", fingerprint="f" * 32) is Submission.ACCEPTED
    assert (await bench.task("t1")).number > first.number


async def test_a_task_submitted_again_survives_the_purge_of_the_one_before(bench: Bench) -> None:
    """The data of the first task had expired, and only its entries in the lists were left."""
    await bench.finish("t1")
    await bench.probe.ask("DEL", *await bench.data_keys("t1"))
    await bench.submit("t1", input=b'"new"')

    assert await bench.purge() == 1

    assert (await bench.task("t1")).input == b'"new"'
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(queued=1)
    assert (await bench.start(bench.agent())).lease.task_id == "t1"


async def test_a_repeated_purge_does_not_touch_a_task_submitted_in_between(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.purge()
    await bench.submit("t1", input=b'"new"')

    assert await bench.store.sweeper._purge(bench.keys, TaskStatus.SUCCESS, "1", "t1", "1") == "OK"

    task = await bench.task("t1")
    assert (task.state, task.input) == (TaskState.QUEUED, b'"new"')


async def test_after_a_step_back_of_the_clock_nothing_goes_too_early_or_is_stuck(bench: Bench) -> None:
    """Tasks with an end in the future count from the time of detection; later tasks count from their end."""
    hour = 3_600_000
    for number in range(3):
        await bench.finish(f"t{number}")
    await _restamp(bench, [await bench.probe.now_ms() + hour] * 3)
    noticed = await bench.probe.now_ms()
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=noticed) == 0
    after_noticing = await bench.probe.now_ms() + 1
    await _until_later_than(bench, after_noticing)
    await bench.finish("later")

    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=noticed) == 0
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=after_noticing) == 3
    assert (await bench.task("later")).output == b"42"
    assert await bench.purge() == 1
    assert await bench.purge() == 0
    assert "stepped:success" not in await bench.probe.hash(bench.keys.counts)


async def test_what_ended_before_a_step_back_was_noticed_expires_with_what_was_there_before(bench: Bench) -> None:
    """The oldest entry counts from when the step was noticed, and the entries behind it wait for it."""
    await bench.finish("t1")
    await _restamp(bench, [await bench.probe.now_ms() + 3_600_000])
    await bench.finish("t2")
    ended = await bench.probe.now_ms()
    await _until_later_than(bench, ended + 1)
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    await bench.store.sweeper.purge_due(bench.partition, limit=100)
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=ended + 1) == 0
    due = (await bench.probe.scores(bench.partition.due_purges))[bench.endpoint_id]
    retention_ms = 86_400_000
    assert ended + 1 + retention_ms < due <= await bench.probe.now_ms() + retention_ms + 1


async def test_a_clock_that_steps_back_twice_does_not_keep_tasks_forever(bench: Bench) -> None:
    await bench.finish("t1")
    later = await bench.probe.now_ms() + 3_600_000
    await _restamp(bench, [later + 1])
    await bench.probe.ask("HSET", bench.keys.counts, "stepped:success", f"1 {later}")
    assert await bench.store.sweeper.purge(bench.endpoint_id, before_ms=1) == 0
    assert await bench.purge() == 1


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), TOO_LARGE_TO_JOIN])
async def test_data_expires_by_itself_when_no_purge_ever_runs(bench: Bench, outcome: Succeeded) -> None:
    await bench.finish("t1", outcome=outcome)
    retention_ms = 86_400_000
    for key in await bench.data_keys("t1"):
        assert 0 <= retention_ms + EXPIRY_SLACK_MS - await bench.probe.ask("PTTL", key) < 5_000


async def test_a_task_that_has_not_ended_never_expires(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    for key in (bench.keys.task("t1"), bench.keys.body("t1")):
        assert await bench.probe.ask("PTTL", key) == -1
    await bench.settle(agent, started, Succeeded(b"1"))


async def _restamp(bench: Bench, times_ms: list[int]) -> None:
    """Pretend that the successful tasks ended at these times."""
    stream = bench.keys.finished(TaskStatus.SUCCESS)
    entries = await bench.probe.stream(stream)
    await bench.probe.ask("DEL", stream)
    for (entry_id, fields), time_ms in zip(entries.items(), times_ms, strict=True):
        number, _, _ = entry_id.partition("-")
        await bench.probe.ask(
            "XADD", stream, f"{number}-{time_ms}", *(word for pair in fields.items() for word in pair)
        )


async def _until_later_than(bench: Bench, at_ms: int) -> None:
    async def is_later() -> bool:
        return await bench.probe.now_ms() > at_ms

    await wait_until_async(is_later)
