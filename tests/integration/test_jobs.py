"""Background jobs on a real store, whatever is in their queue."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from queue_engine.aio import end_tasks
from queue_engine.controller.jobs import LEADERS_QUEUE, SHARED_QUEUE, Periodic, run_jobs
from queue_engine.store.redis.client import connect
from tests.servers import StoreServer
from tests.waiting import wait_until_async

QUEUE = "{qe}:jobs:test"


async def test_a_run_that_takes_long_is_not_overtaken_by_the_next_and_holds_up_no_other_job(
    valkey_server: StoreServer,
) -> None:
    release = asyncio.Event()
    begun = rounds = 0

    async def slow() -> None:
        nonlocal begun
        begun += 1
        await release.wait()

    async def quick() -> None:
        nonlocal rounds
        rounds += 1

    jobs = [Periodic("slow", slow, 1), Periodic("quick", quick, 1)]
    running = asyncio.create_task(run_jobs(valkey_server.url, QUEUE, jobs))
    try:
        await wait_until_async(lambda: rounds >= 4)
        assert begun == 1
        release.set()
        await wait_until_async(lambda: begun >= 3)
    finally:
        await end_tasks(running)


async def test_two_controllers_begin_a_shared_job_once_at_a_time(valkey_server: StoreServer) -> None:
    begun: list[int] = []

    def job(controller: int) -> Periodic:
        async def run() -> None:
            begun.append(controller)

        return Periodic("shared", run, 1)

    started_at = asyncio.get_running_loop().time()
    running = [asyncio.create_task(run_jobs(valkey_server.url, QUEUE, [job(number)])) for number in range(2)]
    try:
        await wait_until_async(lambda: len(begun) >= 4)
        assert len(begun) <= asyncio.get_running_loop().time() - started_at + 1
    finally:
        await end_tasks(*running)


async def test_jobs_go_on_when_one_fails(valkey_server: StoreServer) -> None:
    failures = 0

    async def fail() -> None:
        nonlocal failures
        failures += 1
        raise ValueError("meant to fail")

    running = asyncio.create_task(run_jobs(valkey_server.url, QUEUE, [Periodic("fails", fail, 1)]))
    try:
        await wait_until_async(lambda: failures >= 2)
    finally:
        await end_tasks(running)


class SideEffect:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def entry_now(name: str) -> str:
    """An entry's id as arq would make it for a run that is due now."""
    return f"{QUEUE}:{name}:{int(time.time() * 1000)}"


async def runs_on(server: StoreServer, poison: Poison, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Poison the queue, and wait until a periodic job has run twice after that; returns the log."""
    rounds = 0

    async def quick() -> None:
        nonlocal rounds
        rounds += 1

    async with connect(server.url) as redis:
        await poison(redis, tmp_path / "made")
        running = asyncio.create_task(run_jobs(server.url, QUEUE, [Periodic("quick", quick, 1)]))
        try:
            await wait_until_async(lambda: rounds >= 2)
            assert not (tmp_path / "made").exists()
            await wait_until_async(lambda: _no_poison_in(redis), message="poison stays in the queue")
        finally:
            await end_tasks(running)
    return caplog.text


async def _no_poison_in(redis: Redis) -> bool:
    return not await redis.zcount(QUEUE, "-inf", 1)


async def pickled_job(redis: Redis, folder: Path, name: str = "quick") -> None:
    """A pickle in place of an entry of today."""
    entry = entry_now(name)
    await redis.set(f"arq:job:{entry}", pickle.dumps({"f": SideEffect(folder), "a": (), "k": {}, "t": None, "et": 1}))
    await redis.zadd(QUEUE, {entry: 1})


async def pickled_argument(redis: Redis, folder: Path) -> None:
    entry = entry_now("quick")
    whole: dict[str, object] = {
        "f": f"{QUEUE}:quick",
        "a": (SideEffect(folder),),
        "k": {},
        "t": None,
        "et": 1_795_000_000_000,
    }
    await redis.set(f"arq:job:{entry}", pickle.dumps(whole))
    await redis.zadd(QUEUE, {entry: 1})


async def pickled_under_any_name(redis: Redis, folder: Path) -> None:
    await redis.set("arq:job:anything", pickle.dumps({"f": SideEffect(folder), "a": (), "k": {}, "t": None, "et": 1}))
    await redis.zadd(QUEUE, {"anything": 1})


async def pickled_result(redis: Redis, folder: Path) -> None:
    await pickled_job(redis, folder)
    for name in await redis.keys("arq:job:*"):
        await redis.set(name.replace(b"arq:job:", b"arq:result:"), pickle.dumps(SideEffect(folder)))
    await redis.set("arq:abort", pickle.dumps(SideEffect(folder)))
    await redis.set(f"{QUEUE}:health", pickle.dumps(SideEffect(folder)))


async def name_that_is_no_text(redis: Redis, _folder: Path) -> None:
    await redis.zadd(QUEUE, {b"\xff\xfe\x00": 1})


async def queue_that_is_a_string(redis: Redis, _folder: Path) -> None:
    await redis.set(QUEUE, "not a queue")


async def entry_that_is_a_list(redis: Redis, _folder: Path) -> None:
    entry = entry_now("quick")
    await redis.rpush(f"arq:job:{entry}", "x")  # type: ignore[misc]
    await redis.zadd(QUEUE, {entry: 1})


async def tries_that_are_a_list(redis: Redis, _folder: Path) -> None:
    entry = entry_now("quick")
    await redis.set(f"arq:job:{entry}", "{}")
    await redis.rpush(f"arq:retry:{entry}", "x")  # type: ignore[misc]
    await redis.zadd(QUEUE, {entry: 1})


async def aborts_that_are_a_string(redis: Redis, _folder: Path) -> None:
    await redis.set("arq:abort", "x")


async def score_without_a_number(redis: Redis, _folder: Path) -> None:
    await redis.zadd(QUEUE, {entry_now("quick"): float("-inf")})


async def crowd_that_never_runs(redis: Redis, _folder: Path) -> None:
    await redis.zadd(QUEUE, {f"never-{number}": 0 for number in range(500)})


async def flood(redis: Redis, _folder: Path) -> None:
    """More than could be dropped page by page in time."""
    for first in range(0, 100_000, 10_000):
        await redis.zadd(QUEUE, {f"junk-{number}": number % 2 for number in range(first, first + 10_000)})


Poison = Callable[[Redis, Path], Awaitable[None]]
POISONS: list[Poison] = [
    pickled_job, pickled_argument, pickled_under_any_name, pickled_result, name_that_is_no_text, queue_that_is_a_string,
    entry_that_is_a_list, tries_that_are_a_list, aborts_that_are_a_string, score_without_a_number,
    crowd_that_never_runs, flood,
]  # fmt: skip


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
async def test_a_poisoned_queue_runs_no_code_and_stops_no_job(
    valkey_server: StoreServer, poison: Poison, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = await runs_on(valkey_server, poison, tmp_path, caplog)
    if poison is not aborts_that_are_a_string or "pause" in log:
        assert any(word in log for word in ("refused", "dropped", "deleted")), log


async def late_pickle(redis: Redis, folder: Path) -> None:
    entry = f"{QUEUE}:quick:{int(time.time() * 1000) - 120_000}"
    await redis.set(f"arq:job:{entry}", pickle.dumps({"f": SideEffect(folder), "a": (), "k": {}, "t": None, "et": 1}))
    await redis.zadd(QUEUE, {entry: 1})


@pytest.mark.parametrize("poison", [pickled_job, pickled_under_any_name, late_pickle])
async def test_the_warning_about_a_pickled_entry_says_that_it_is_a_pickle(
    valkey_server: StoreServer, poison: Poison, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await runs_on(valkey_server, poison, tmp_path, caplog)
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert any("it is a pickle, and no pickle is ever loaded" in one for one in warnings), warnings


async def test_an_unknown_entry_is_dropped_with_its_name_as_the_reason(
    valkey_server: StoreServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await runs_on(valkey_server, name_that_is_no_text, tmp_path, caplog)
    assert "entries of the job queue are dropped, each because no job of ours has its name" in caplog.text


GOOD: dict[str, object] = {"f": f"{QUEUE}:quick", "a": [], "k": {}, "t": None, "et": 1_795_000_000_000}
WRONG: list[dict[str, object]] = [
    {"f": "os.system"}, {"f": ["x"]}, {"f": {}}, {"f": None}, {"a": ["x"]}, {"a": 5}, {"k": {"x": 1}}, {"t": "x"},
    {"t": 10**30}, {"et": "now"}, {"et": 10**30}, {"et": True}, {"et": -1}, {"et": 1e3},
]  # fmt: skip
REFUSED = [
    "null", "[]", "1", "{", "{}", "[" * 100_000, '{"f": ' * 400, '{"f": ' * 100, "\x00", " " * 10_000, "x" * 5_000_000,
    *(json.dumps(GOOD | wrong) for wrong in WRONG),
]  # fmt: skip


async def test_entries_of_a_controller_whose_clock_is_behind_are_removed_without_a_warning(
    valkey_server: StoreServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late_ms = int(time.time() * 1000) - 120_000
    late = f"{QUEUE}:quick:{late_ms}"

    async def poison(redis: Redis, _folder: Path) -> None:
        await redis.zadd(QUEUE, {late: late_ms})

    await runs_on(valkey_server, poison, tmp_path, caplog)
    dropped = [record for record in caplog.records if "dropped" in record.getMessage()]
    assert [record for record in dropped if record.levelno >= logging.WARNING] == []


async def test_entries_that_are_no_call_of_ours_are_refused_and_removed(
    valkey_server: StoreServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def poison(redis: Redis, _folder: Path) -> None:
        now_ms = int(time.time() * 1000)
        for number, entry in enumerate(REFUSED):
            entry_id = f"{QUEUE}:quick:{now_ms - number}"
            await redis.set(f"arq:job:{entry_id}", entry)
            await redis.zadd(QUEUE, {entry_id: 1})

    log = await runs_on(valkey_server, poison, tmp_path, caplog)
    assert log.count("an entry of the job queue is refused: ") == len(REFUSED)
    assert "Traceback" not in log
    assert "background jobs pause" not in log


async def test_the_queue_of_older_controllers_is_neither_read_nor_changed(
    valkey_server: StoreServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Older controllers run beside newer ones while an upgrade rolls out; their jobs have the same names."""
    old = f"sweep:{int(time.time() * 1000)}"
    kept = pickle.dumps({"f": SideEffect(tmp_path / "made"), "a": (), "k": {}, "t": None, "et": 1})
    ran = 0

    async def sweep() -> None:
        nonlocal ran
        ran += 1

    async with connect(valkey_server.url) as redis:
        await redis.set(f"arq:job:{old}", kept)
        for queue in ("{qe}:jobs", "{qe}:jobs:leader"):
            await redis.zadd(queue, {old: 1})
        jobs = [Periodic("sweep", sweep, 1)]
        running = [asyncio.create_task(run_jobs(valkey_server.url, q, jobs)) for q in (SHARED_QUEUE, LEADERS_QUEUE)]
        try:
            await wait_until_async(lambda: ran >= 4)
        finally:
            await end_tasks(*running)
        assert await redis.get(f"arq:job:{old}") == kept
        for queue in ("{qe}:jobs", "{qe}:jobs:leader"):
            assert await redis.zrange(queue, 0, -1) == [old.encode()]
    assert not (tmp_path / "made").exists()
    assert "dropped" not in caplog.text
