"""A task expires after its queue TTL, unless it runs or waits because of a lost worker or a drain."""

from queue_engine.domain.endpoints import EndpointConfig
from queue_engine.domain.tasks import TaskState, TaskStatus, TryAgain
from tests.store.bench import TENANT, Bench, config, spec


async def let_it_pass(bench: Bench, task_id: str = "t1") -> None:
    """Set the deadline of a waiting task into the past."""
    assert await bench.probe.ask("ZADD", bench.partition.deadlines, "XX", "CH", 1, bench.member(task_id)) == 1


async def test_a_task_that_waits_too_long_ends_as_expired(bench: Bench) -> None:
    await bench.submit("t1", queue_ttl_seconds=30, spec=spec(webhook=True))
    assert (await bench.sweep()).expired == 0
    await let_it_pass(bench)
    assert (await bench.sweep()).expired == 1
    assert (await bench.sweep()).expired == 0
    task = await bench.task("t1")
    assert (task.state, task.status) == (TaskState.EXPIRED, TaskStatus.FAILED)
    assert task.error == "the task waited for longer than its queue TTL of 30 s"
    assert await bench.agent().claim(10, block_ms=1) == []
    assert len(await (await bench.outbox()).read(10, block_ms=1)) == 1


async def test_the_deadline_is_counted_from_the_submit(bench: Bench) -> None:
    await bench.submit("t1", queue_ttl_seconds=30)
    deadlines = await bench.probe.scores(bench.partition.deadlines)
    assert deadlines == {bench.member("t1"): (await bench.task("t1")).created_at_ms + 30_000}


async def test_a_running_task_is_not_ended(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit_and_start("t1", agent, queue_ttl_seconds=30)
    assert await bench.probe.scores(bench.partition.deadlines) == {}
    # A sweep may have found the task just before it was started.
    await bench.probe.ask("ZADD", bench.partition.deadlines, 1, bench.member("t1"))
    assert (await bench.sweep()).expired == 0
    assert (await bench.task("t1")).state is TaskState.RUNNING


async def test_a_wait_for_another_attempt_counts(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, queue_ttl_seconds=30)
    await bench.settle(agent, started, TryAgain("busy", 60))
    await let_it_pass(bench)
    assert (await bench.sweep()).expired == 1
    assert await bench.probe.scores(bench.partition.due) == {}


async def test_the_wait_of_an_agent_that_called_no_container_counts(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, queue_ttl_seconds=30)
    await agent.release(started.lease, called=False)
    created_ms = (await bench.task("t1")).created_at_ms
    assert await bench.probe.scores(bench.partition.deadlines) == {bench.member("t1"): created_ms + 30_000}
    await let_it_pass(bench)
    assert (await bench.sweep()).expired == 1


async def test_time_that_the_engine_took_does_not_count(bench: Bench) -> None:
    agent = bench.agent()
    lost = await bench.submit_and_start("t1", agent, queue_ttl_seconds=30)
    released = await bench.submit_and_start("t2", agent, queue_ttl_seconds=30)
    await bench.lose("t1")
    await agent.release(released.lease)
    assert await bench.probe.scores(bench.partition.deadlines) == {}
    assert lost.lease.task_id == "t1"


async def test_an_endpoint_has_a_ttl_for_all_its_tasks(bench: Bench) -> None:
    with_ttl = config(queue_ttl_seconds=7)
    await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda _: with_ttl)
    await bench.submit("t1")
    await bench.submit("t2", queue_ttl_seconds=60)
    assert [(await bench.task(name)).queue_ttl_seconds for name in ("t1", "t2")] == [7, 60]


async def test_without_a_ttl_a_task_waits_forever(bench: Bench) -> None:
    await bench.submit("t1")
    assert (await bench.task("t1")).queue_ttl_seconds is None
    assert await bench.probe.scores(bench.partition.deadlines) == {}


async def test_a_task_may_have_a_timeout_of_its_own(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", timeout_seconds=5)
    assert (await bench.start(agent)).timeout_seconds == 5
    await bench.submit("t2")
    assert (await bench.start(agent)).timeout_seconds == EndpointConfig.execution_timeout_seconds
