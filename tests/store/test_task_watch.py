"""Watching tasks: each end is noted, before, while and after the store is asked, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from queue_engine.config.store_users import AGENT, rules_of
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import Failed, Succeeded, TryAgain
from queue_engine.store.queue import TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreTaskSource
from queue_engine.store.task_watch import TaskWatch, Watched
from tests.servers import StoreServer, valkey_binary
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.probe import Probe
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

USER = "limited-agent"
PASSWORD = "password-of-a-test"


@pytest.fixture
async def watch(bench: Bench) -> AsyncIterator[TaskWatch]:
    """The watch of another process than the one that ends the tasks."""
    store = Store(bench.store.url, Sealer(SECRET_KEY), partitions=bench.store.partitions.count)
    yield store.task_watch
    await store.close()


async def noted(watched: Watched) -> set[str]:
    """Wait until an end is noted."""
    async with asyncio.timeout(GIVE_UP_SECONDS):
        return await watched.next(asyncio.get_running_loop().create_future())


async def watchers(bench: Bench, task_id: str = "t1") -> str:
    """Return the processes that watch a task."""
    return (await bench.probe.hash(bench.keys.task(task_id))).get("watchers", "")


async def is_listening(bench: Bench, task_id: str = "t1") -> None:
    """Wait until a process watches the task and has subscribed to its channel."""

    async def listens() -> bool:
        process = await watchers(bench, task_id)
        reply = await bench.probe.ask("PUBSUB", "SHARDNUMSUB", bench.partition.told(process))
        return bool(process) and reply[1] == 1

    await wait_until_async(listens)


async def succeeds(bench: Bench) -> None:
    await bench.settle(bench.agent(), await bench.start(bench.agent()), Succeeded(b"1"))


async def fails(bench: Bench) -> None:
    await bench.settle(bench.agent(), await bench.start(bench.agent()), Failed("x"))


async def is_cancelled_while_it_waits(bench: Bench) -> None:
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")


async def is_cancelled_while_it_runs(bench: Bench) -> None:
    started = await bench.start(bench.agent())
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert await bench.agent().release(started.lease) == "CANCELLED"


async def is_cancelled_before_its_retry(bench: Bench) -> None:
    started = await bench.start(bench.agent())
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert (await bench.settle(bench.agent(), started, TryAgain("busy", 60))).word == "CANCELLED"


async def expires(bench: Bench) -> None:
    await bench.pass_deadline("t1")
    assert (await bench.sweep()).expired == 1


async def loses_its_workers(bench: Bench) -> None:
    await bench.start(bench.agent())
    assert (await bench.lose("t1", max_lost=0)).dead == 1


async def loses_its_endpoint(bench: Bench) -> None:
    await bench.store.scripts.end_waiting(bench.keys.of_task("t1"), error_text="endpoint deleted")


ENDS = (
    *(succeeds, fails, is_cancelled_while_it_waits, is_cancelled_while_it_runs, is_cancelled_before_its_retry),
    *(expires, loses_its_workers, loses_its_endpoint),
)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.replace("_", "-"))
async def test_each_end_is_noted(bench: Bench, watch: TaskWatch, end: Callable[[Bench], Awaitable[None]]) -> None:
    await bench.submit("t1", queue_ttl_seconds=3600.0)
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await is_listening(bench)
        assert watched.take() == set()
        await end(bench)
        assert await noted(watched) == {"t1"}
    assert await watchers(bench) == "", "an ended task keeps no watchers"


async def test_tasks_that_have_ended_and_that_do_not_exist_are_noted_at_once(bench: Bench, watch: TaskWatch) -> None:
    await bench.finish("t1")
    with watch.watching(bench.endpoint_id, ["t1", "none"]) as watched:
        found = await noted(watched)
        while len(found) < 2:
            found |= await noted(watched)
    assert found == {"t1", "none"}
    assert await watchers(bench) == ""


async def test_an_end_before_the_subscription_is_noted(bench: Bench, watch: TaskWatch) -> None:
    await bench.submit("t1")
    started = await bench.start(bench.agent())
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await wait_until_async(lambda: watchers(bench))
        await bench.settle(bench.agent(), started, Succeeded(b"1"))
        assert await noted(watched) == {"t1"}


async def test_all_that_watch_a_task_are_notified(bench: Bench, watch: TaskWatch) -> None:
    await bench.submit("t1")
    await bench.submit("t2")
    with (
        watch.watching(bench.endpoint_id, ["t1"]) as first,
        watch.watching(bench.endpoint_id, ["t1", "t2"]) as second,
        bench.store.task_watch.watching(bench.endpoint_id, ["t1"]) as third,
    ):
        await wait_until_async(lambda: _count_of(bench, 2))
        await is_cancelled_while_it_waits(bench)
        assert [await noted(one) for one in (first, second, third)] == [{"t1"}] * 3


async def _count_of(bench: Bench, count: int) -> bool:
    return len((await watchers(bench)).split()) == count


async def test_more_processes_than_a_task_names_are_all_notified(bench: Bench, watch: TaskWatch) -> None:
    await bench.submit("t1")
    keys = bench.keys.of_task("t1")
    for number in range(7):
        assert (await bench.store.scripts.watch(keys, process=f"{number:08}")).word == "WAITING"
    assert await watchers(bench) == " ".join(f"{number:08}" for number in range(7))
    assert len(await watchers(bench)) <= 64, "a longer value makes the hash no longer compact"
    await bench.store.scripts.watch(keys, process=f"{3:08}")
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await is_listening(bench)
        assert await watchers(bench) == "*"
        await is_cancelled_while_it_waits(bench)
        assert await noted(watched) == {"t1"}


async def test_a_task_that_is_not_watched_has_no_further_field(bench: Bench) -> None:
    await bench.submit("t1")
    assert "watchers" not in await bench.probe.hash(bench.keys.task("t1"))


async def test_a_wait_ends_with_its_limit(bench: Bench, watch: TaskWatch) -> None:
    await bench.submit("t1")
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        waiting = asyncio.create_task(watched.next(ended))
        await is_listening(bench)
        assert not waiting.done()
        ended.set_result(None)
        assert await waiting == set()
        assert await watched.next(ended) == set()


async def test_an_error_of_the_store_is_no_end(
    bench: Bench, watch: TaskWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the task would be read and asked for again and again, without a pause."""
    await bench.probe.ask("SET", bench.keys.task("t1"), "not a hash")
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        waiting = asyncio.create_task(watched.next(asyncio.get_running_loop().create_future()))
        await wait_until_async(lambda: "a task cannot be watched" in caplog.text)
        assert not waiting.done()
        await bench.probe.ask("DEL", bench.keys.task("t1"))
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert await waiting == {"t1"}


async def test_a_task_that_runs_again_is_watched_again(bench: Bench, watch: TaskWatch) -> None:
    await bench.finish("t1")
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await noted(watched)
        await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
        watched.ask("t1")
        await is_listening(bench)
        assert watched.take() == set()
        await is_cancelled_while_it_waits(bench)
        assert await noted(watched) == {"t1"}


async def test_an_end_during_a_lost_connection_is_noted(bench: Bench, watch: TaskWatch) -> None:
    """Its message is lost, so the watch must ask again."""
    for number in range(5):  # the end comes before the next subscription in most rounds
        task_id = f"t{number}"
        await bench.submit(task_id)
        with watch.watching(bench.endpoint_id, [task_id]) as watched:
            await is_listening(bench, task_id)
            await bench.probe.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await bench.store.tasks.cancel(bench.endpoint_id, task_id)
            assert await noted(watched) == {task_id}


async def test_ends_around_a_restart_of_the_store_are_noted(tmp_path: Path) -> None:
    """A part of 200 tasks ends right before a kill of the store, and the others after it."""
    names = [f"t{number}" for number in range(200)]
    with StoreServer(valkey_binary(), tmp_path, options=("--appendonly", "yes", "--appendfsync", "always")) as server:
        store, other = (Store(server.url, Sealer(SECRET_KEY), partitions=4) for _ in range(2))
        endpoint = await store.endpoints.create(TENANT, config())
        bench = Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])
        await asyncio.gather(*map(bench.submit, names))
        with other.task_watch.watching(bench.endpoint_id, names) as watched:
            await is_listening(bench, names[-1])
            for name in names[:100]:
                await store.tasks.cancel(bench.endpoint_id, name)
            server.kill()
            await asyncio.to_thread(server.start)
            for name in names[100:]:
                await store.tasks.cancel(bench.endpoint_id, name)
            found: set[str] = set()
            while len(found) < len(names):
                found |= await noted(watched)
        await other.close()
        await store.close()


@pytest.fixture
async def limited_agent(bench: Bench, store_server: StoreServer) -> AsyncIterator[Callable[[str], TaskQueue]]:
    """Make an agent whose user of the store has some rules."""
    await bench.store.prepare()
    stores: list[Store] = []

    def make(rules: str) -> TaskQueue:
        reply = store_server.command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rules.split())
        assert reply == "+OK"
        url = store_server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")
        stores.append(Store(url, Sealer(None), partitions=bench.store.partitions.count, is_agent=True))
        return stores[-1].queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)

    yield make
    for store in stores:
        await store.close()
    store_server.command("ACL", "DELUSER", USER)


async def test_an_agent_publishes_the_end_of_a_task(
    bench: Bench, watch: TaskWatch, limited_agent: Callable[[str], TaskQueue]
) -> None:
    agent = limited_agent(rules_of(AGENT))
    started = await bench.submit_and_start("t1", agent)
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await is_listening(bench)
        assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
        assert await noted(watched) == {"t1"}


async def test_the_end_by_an_agent_that_may_not_publish_is_recorded(
    bench: Bench, watch: TaskWatch, limited_agent: Callable[[str], TaskQueue]
) -> None:
    """Its user of the store has the rules of an earlier version, which allow no read of cancellations either."""
    rules = rules_of(AGENT).replace("(+spublish &{p??}:told:*)", "").replace("(+xread %R~{p??}:cancels)", "")
    agent = limited_agent(rules)
    started = await bench.submit_and_start("t1", agent)
    cancelled = asyncio.create_task(StoreTaskSource(agent).cancelled())
    with watch.watching(bench.endpoint_id, ["t1"]) as watched:
        await is_listening(bench)
        assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
        assert (await bench.task("t1")).output == b"1"
        watched.ask("t1")
        assert await noted(watched) == {"t1"}
    assert not cancelled.done()
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
