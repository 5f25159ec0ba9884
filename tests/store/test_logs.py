"""Logs of workers: readers get each line once and in order during writes. Size and retention are limited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.logs import MAX_BATCH_LINES, LogLine, LogPage, LogQuery, Place
from queue_engine.store.calls import Scripts
from queue_engine.store.constants import MAX_ENDED_LOGS, MAX_LINES, MAX_LOG_BYTES, NODE_BYTES
from queue_engine.store.logs import EMPTY, Appended, LogStore
from queue_engine.store.script_runner import ScriptRunner
from queue_engine.store.store import Store
from tests.examples import examples
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.proxy import LossyProxy

DAY_MS = 86_400_000
MANY = examples(150, deadline=None, suppress_health_check=list(HealthCheck))


async def append(bench: Bench, *lines: str, worker: str = "w1", batch: str = "b1", retention_ms: int = DAY_MS) -> bool:
    async with a_worker(bench, worker):
        return await bench.store.logs.append(bench.endpoint_id, worker, batch, lines, retention_ms=retention_ms)


@asynccontextmanager
async def a_worker(bench: Bench, worker: str = "w1") -> AsyncIterator[None]:
    """Let the worker exist within the block."""
    exists = await bench.store.workers.get(bench.endpoint_id, worker) is not None
    await bench.store.workers.put(bench.endpoint_id, worker, managed=True)
    yield
    if not exists:
        await bench.store.workers.remove(bench.endpoint_id, worker)


async def page(bench: Bench, worker: str = "w1", **query: Any) -> LogPage:
    found = await bench.store.logs.page(bench.endpoint_id, worker, LogQuery(**({"size": 100} | query)))
    assert found is not None
    return found


def texts(found: LogPage) -> list[str]:
    return [line.text for line in found.lines]


async def test_lines_come_back_in_order_with_the_stores_time(bench: Bench) -> None:
    before = await bench.probe.now_ms()
    await append(bench, "one", "two", batch="b1")
    await append(bench, "größer", batch="b2")
    found = await page(bench)
    assert texts(found) == ["one", "two", "größer"]
    assert not found.has_more
    after = await bench.probe.now_ms()
    assert all(before <= line.place.time_ms <= after for line in found.lines)
    assert texts(await page(bench, backward=True)) == ["größer", "two", "one"]


async def test_a_batch_that_is_sent_again_is_there_once(bench: Bench) -> None:
    assert await append(bench, "one", "two", batch="b1")
    assert await append(bench, "one", "two", batch="b1")
    assert await append(bench, "one", batch="b2")
    assert texts(await page(bench)) == ["one", "two", "one"]


async def test_a_batch_whose_reply_is_lost_is_there_once(bench: Bench, sealer: Sealer) -> None:
    async with LossyProxy(bench.store.url) as proxy, a_worker(bench):
        far = Store(proxy.url, sealer, partitions=bench.store.partitions.count)
        await far.logs.append(bench.endpoint_id, "w1", "b1", ["one"], retention_ms=DAY_MS)
        proxy.replies_to_lose = 1
        await far.logs.append(bench.endpoint_id, "w1", "b2", ["two", "three"], retention_ms=DAY_MS)
        assert proxy.lost == 1
        await far.close()
    assert texts(await page(bench)) == ["one", "two", "three"]


async def append_after(bench: Bench, after: str, batch: str, *lines: str) -> Appended:
    async with a_worker(bench):
        return await bench.store.logs.append_after(bench.endpoint_id, "w1", after, batch, lines, retention_ms=DAY_MS)


async def test_of_two_writers_that_continue_a_log_one_appends(bench: Bench) -> None:
    assert await bench.store.logs.last_batch(bench.endpoint_id, "w1") == EMPTY
    assert await append_after(bench, EMPTY, "b1", "one", "two") is Appended.OK
    assert await append_after(bench, EMPTY, "other", "one") is Appended.MOVED
    assert await append_after(bench, EMPTY, "b1", "one", "two") is Appended.ALREADY
    assert await append_after(bench, "b1", "b2", "three") is Appended.OK
    assert await append_after(bench, "b1", "other", "three", "four") is Appended.MOVED
    assert await bench.store.logs.last_batch(bench.endpoint_id, "w1") == "b2"
    assert texts(await page(bench)) == ["one", "two", "three"]
    assert await bench.store.logs.last_lines(bench.endpoint_id, "w1", 2) == [("b2", "three"), ("b1", "two")]
    assert (await bench.store.logs.last_lines(bench.endpoint_id, "w1", 9))[2:] == [("", "one")]


async def test_a_log_of_a_deleted_endpoint_is_not_continued(bench: Bench) -> None:
    gone = bench.store.logs.append_after("4711", "w1", EMPTY, "b1", ["line"], retention_ms=DAY_MS)
    assert await gone is Appended.GONE


async def test_workers_do_not_see_each_others_lines(bench: Bench) -> None:
    await append(bench, "mine", worker="w1")
    await append(bench, "yours", worker="w2")
    assert texts(await page(bench, "w1")) == ["mine"]
    assert texts(await page(bench, "w2")) == ["yours"]


async def test_nothing_is_known_of_a_worker_that_never_was(bench: Bench) -> None:
    assert await bench.store.logs.page(bench.endpoint_id, "w1", LogQuery(size=1)) is None


async def test_a_worker_that_has_written_nothing_has_an_empty_log(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    assert await page(bench, "w1") == LogPage((), False, None)
    await bench.store.workers.remove(bench.endpoint_id, "w1")


async def test_the_log_outlives_its_worker_and_then_goes(bench: Bench) -> None:
    keys = bench.keys
    await append(bench, "line", retention_ms=60_000)
    for key in (keys.log("w1"), keys.logs):
        assert 55_000 < await bench.probe.ask("PTTL", key) <= 60_000


async def test_a_sign_of_life_keeps_the_log_of_a_quiet_worker(bench: Bench) -> None:
    await append(bench, "line", retention_ms=60_000)
    await append(bench, batch="", retention_ms=600_000)
    assert await bench.probe.ask("PTTL", bench.keys.log("w1")) > 60_000
    assert texts(await page(bench)) == ["line"]
    await append(bench, worker="never-wrote", batch="")
    assert await bench.probe.ask("EXISTS", bench.keys.log("never-wrote")) == 0
    assert await bench.probe.ask("ZSCORE", bench.keys.logs, "never-wrote") is None


async def test_the_oldest_lines_go_when_there_are_too_many(bench: Bench) -> None:
    for batch in range(MAX_LINES // MAX_BATCH_LINES + 3):
        await append(bench, *(f"line {batch} {number}" for number in range(MAX_BATCH_LINES)), batch=f"b{batch}")
    length = await bench.probe.ask("XLEN", bench.keys.log("w1"))
    assert MAX_LINES <= length <= MAX_LINES + 200
    [last] = (await page(bench, size=1, backward=True)).lines
    assert last.text == f"line {batch} {MAX_BATCH_LINES - 1}"


async def test_the_oldest_lines_go_when_they_are_too_long(bench: Bench) -> None:
    limit = MAX_LOG_BYTES + 100 * NODE_BYTES
    for batch in range(3 * MAX_LOG_BYTES // NODE_BYTES // 100):
        await append(bench, *("x" * 4096 for _ in range(100)), batch=f"b{batch}")
        assert await bench.probe.ask("MEMORY", "USAGE", bench.keys.log("w1"), "SAMPLES", 0) < 1.5 * limit
    assert await bench.probe.ask("XLEN", bench.keys.log("w1")) >= MAX_LOG_BYTES / NODE_BYTES / 2


async def test_the_logs_of_ended_workers_are_kept_up_to_a_number(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "lives", managed=True)
    await append(bench, "quiet", worker="lives")
    for number in range(MAX_ENDED_LOGS + 10):
        await append(bench, "crash", worker=f"w{number}")
    await append(bench, "quiet", worker="lives", batch="b2")  # when all others have ended
    kept = {name for name in await bench.probe.keys() if name.startswith(bench.keys.log(""))}
    assert bench.keys.log("lives") in kept
    assert len(kept) == MAX_ENDED_LOGS + 1
    assert bench.keys.log(f"w{MAX_ENDED_LOGS + 9}") in kept
    await bench.store.workers.remove(bench.endpoint_id, "lives")


async def test_a_container_may_write_before_its_worker_is_registered(bench: Bench) -> None:
    """The first lines are those that matter when a container crashes at once."""
    assert await bench.store.logs.append(bench.endpoint_id, "w1", "b1", ["no such model"], retention_ms=DAY_MS)
    async with a_worker(bench):
        assert texts(await page(bench)) == ["no such model"]


async def test_an_endpoint_that_was_deleted_leaves_nothing(bench: Bench) -> None:
    assert not await bench.store.logs.append("4711", "w1", "b1", ["line"], retention_ms=DAY_MS)
    assert not {name for name in await bench.probe.keys() if ":log" in name}


async def test_the_logs_of_an_endpoint_can_be_deleted(bench: Bench) -> None:
    other = await bench.store.endpoints.create(TENANT, config())
    bench.endpoint_ids.append(other.endpoint_id)
    await append(Bench(bench.store, other.endpoint_id, bench.probe, bench.endpoint_ids), "other")
    for number in range(130):
        await append(bench, "line", worker=f"w{number}")
    await bench.store.logs.delete_endpoint(bench.endpoint_id)
    await bench.store.logs.delete_endpoint(bench.endpoint_id)
    left = {name for name in await bench.probe.keys() if ":log" in name}
    keys = bench.store.partitions.of(other.endpoint_id)
    assert left == {keys.log("w1"), keys.logs}


# Pages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["5-0", "5-1", "5-2", "7-0", "9-0"]),
        ({"start_ms": 5, "end_ms": 5}, ["5-0", "5-1", "5-2"]),
        ({"start_ms": 6, "end_ms": 8}, ["7-0"]),
        ({"start_ms": -4, "end_ms": 7}, ["5-0", "5-1", "5-2", "7-0"]),
        ({"end_ms": -1}, []),
        ({"start_ms": 10}, []),
        ({"after": Place(5, 1)}, ["5-2", "7-0", "9-0"]),
        ({"after": Place(5, 1), "start_ms": 7}, ["7-0", "9-0"]),
        ({"after": Place(8, 5), "start_ms": 3}, ["9-0"]),
        ({"after": Place(2**63 - 1, 2**63 - 1)}, []),
        ({"after": Place(0, 0)}, ["5-0", "5-1", "5-2", "7-0", "9-0"]),
        ({"backward": True}, ["9-0", "7-0", "5-2", "5-1", "5-0"]),
        ({"backward": True, "after": Place(5, 2)}, ["5-1", "5-0"]),
        ({"backward": True, "after": Place(9, 0), "end_ms": 6}, ["5-2", "5-1", "5-0"]),
        ({"backward": True, "after": Place(5, 2), "end_ms": 5}, ["5-1", "5-0"]),
        ({"backward": True, "after": Place(7, 0), "start_ms": 5, "end_ms": 9}, ["5-2", "5-1", "5-0"]),
        ({"backward": True, "after": Place(0, 0)}, []),
        ({"keyword": "5-"}, ["5-0", "5-1", "5-2"]),
    ],
)
async def test_a_page_has_what_the_query_asks_for(bench: Bench, query: dict[str, Any], expected: list[str]) -> None:
    for place in ("5-0", "5-1", "5-2", "7-0", "9-0"):
        await bench.probe.ask("XADD", bench.keys.log("w1"), place, "l", place)
    assert texts(await page(bench, **query)) == expected


@pytest.mark.parametrize(("keyword", "text"), [("ERROR", "an Error"), ("straße", "STRASSE 5"), ("é", "caf\u00c9")])
async def test_a_keyword_is_found_in_any_case(bench: Bench, keyword: str, text: str) -> None:
    await append(bench, "other", text, "nothing")
    assert texts(await page(bench, keyword=keyword)) == [text]


async def test_a_reader_that_follows_is_not_given_the_same_place_to_search_again(bench: Bench) -> None:
    await append(bench, "a", "b", "c")
    [last] = (await page(bench, size=1, backward=True)).lines
    empty = await page(bench, keyword="nowhere")
    assert (empty.lines, empty.next) == ((), last.place)
    again = await page(bench, keyword="nowhere", after=last.place)
    assert again == LogPage((), False, last.place)


Steps = list[int | list[tuple[int, int, bool]]]
"""Steps: a number reads a page of that size; a list appends lines: ms since the line before, offset step, has the
keyword."""

steps: st.SearchStrategy[Steps] = st.lists(
    st.one_of(
        st.integers(1, 7),
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=40),
    ),
    max_size=25,
)


@dataclass
class Writer:
    """Writes lines with explicit ids, many of them in one millisecond."""

    store: Store
    key: str
    place: Place = field(default_factory=lambda: Place(5, 0))
    lines: list[LogLine] = field(default_factory=list)

    async def write(self, batch: list[tuple[int, int, bool]]) -> None:
        pipeline = self.store.redis.pipeline(transaction=False)
        for later_ms, step, marked in batch:
            offset = step if later_ms else self.place.offset + step
            self.place = Place(self.place.time_ms + later_ms, offset)
            line = LogLine(self.place, f"{'A KEY' if marked else 'line'} {len(self.lines)}")
            self.lines.append(line)
            pipeline.xadd(self.key, {"l": line.text}, id=f"{self.place.time_ms}-{self.place.offset}")
        await pipeline.execute()


@dataclass
class Reader:
    """Reads page after page in one direction, from the place that the previous page returned."""

    logs: LogStore
    endpoint_id: str
    worker_id: str
    query: dict[str, Any]
    after: Place | None = None
    seen: list[LogLine] = field(default_factory=list)

    async def read(self, size: int) -> bool:
        query = LogQuery(size=size, after=self.after, **self.query)
        found = await self.logs.page(self.endpoint_id, self.worker_id, query)
        if found is None:
            return False
        assert len(found.lines) <= size
        self.seen += found.lines
        self.after = found.next
        return found.has_more


@pytest.mark.parametrize("chunk_lines", [3, 500])
def test_every_line_comes_once_and_in_order_beside_other_writers(store_url: str, chunk_lines: int) -> None:
    with asyncio.Runner() as runner:
        store = Store(store_url, Sealer(SECRET_KEY), partitions=1)
        logs = LogStore(
            store.redis, Scripts(ScriptRunner(store.redis).submit), store.partitions, chunk_lines=chunk_lines
        )
        try:
            _check_walks(runner.run, store, logs)
        finally:
            runner.run(store.close())


def _check_walks(run: Callable[[Coroutine[Any, Any, None]], None], store: Store, logs: LogStore) -> None:
    windows = st.tuples(st.none() | st.integers(0, 60), st.none() | st.integers(0, 60))

    @MANY
    @given(steps=steps, keyword=st.sampled_from(["", "a key"]), backward=st.booleans(), window=windows)
    def walk(steps: Steps, keyword: str, backward: bool, window: tuple[int | None, int | None]) -> None:
        query = {"keyword": keyword, "backward": backward, "start_ms": window[0], "end_ms": window[1]}
        run(_walk(store, Reader(logs, "1", "w1", query), steps))

    walk()


async def _walk(store: Store, reader: Reader, steps: Steps) -> None:
    key = store.partitions.of("1").log("w1")
    await store.redis.delete(key)
    writer = Writer(store, key)
    there_at_first: int | None = None
    for step in steps:
        if isinstance(step, int):
            await reader.read(step)
            if there_at_first is None and reader.after is not None:
                there_at_first = len(writer.lines)
        else:
            await writer.write(step)
    if there_at_first is None:
        there_at_first = len(writer.lines)
    while await reader.read(3):
        pass
    asked = LogQuery(size=1, **reader.query)
    lines = [line for line in writer.lines if _is_asked_for(line, asked)]
    if asked.backward:
        lines = [line for line in reversed(lines) if line in writer.lines[:there_at_first]]
    assert reader.seen == lines


def _is_asked_for(line: LogLine, asked: LogQuery) -> bool:
    early = asked.start_ms is not None and line.place.time_ms < asked.start_ms
    late = asked.end_ms is not None and line.place.time_ms > asked.end_ms
    return not early and not late and asked.wants(line.text)
