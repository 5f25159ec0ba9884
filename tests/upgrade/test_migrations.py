"""A migration converts all records in limited steps, survives the death of its leader, and then ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from queue_engine.store import processes
from queue_engine.store.keys import FORMAT, META, MIGRATION, PROCESSES
from queue_engine.store.migrations import MIGRATIONS
from queue_engine.store.migrations.migration import Page, Records
from queue_engine.store.migrations.migrator import Migrator, progress_from
from queue_engine.store.processes import LEASE_MS
from queue_engine.store.store import Store, UnfitStore
from tests.servers import StoreServer
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe
from tests.upgrade.made_up import FIELD, STEP, TO, mark_tasks
from tests.waiting import wait_until_async

PAGE = 4
TASKS = PAGE + 2
"""Two pages for each of two endpoints."""


@pytest.fixture
async def upgraded(store_server: StoreServer, store: Store) -> AsyncIterator[Store]:
    """The same store, for a process of the made-up next version."""
    opened = Store(store_server.url, store.sealer, partitions=store.partitions.count, steps=[STEP])
    yield opened
    await opened.close()


@pytest.fixture
async def benches(store: Store, probe: Probe) -> list[Bench]:
    """Two endpoints with tasks, created by the previous version."""
    await store.prepare()
    made = []
    for _ in range(2):
        endpoint = await store.endpoints.create(TENANT, config())
        bench = Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
        await asyncio.gather(*(bench.submit(f"t{number}") for number in range(TASKS)))
        made.append(bench)
    return made


async def unmarked(benches: list[Bench]) -> int:
    keys = [bench.keys.task(f"t{number}") for bench in benches for number in range(TASKS)]
    tasks = [await benches[0].probe.hash(key) for key in keys]
    return sum(FIELD not in task for task in tasks)


async def to_the_end(migrator: Migrator, probe: Probe, *, most: int = 100) -> int:
    """Step until the store has the next format; return how many steps that took."""
    for number in range(1, most):
        await migrator.step()
        if (await probe.hash(META))[FORMAT] == str(TO):
            return number
    raise AssertionError("the migration does not end")


async def test_a_new_store_has_the_newest_format_at_once(store: Store, upgraded: Store, probe: Probe) -> None:
    await upgraded.prepare()
    assert (await probe.hash(META))[FORMAT] == str(TO)
    assert await upgraded.migrator(page_size=PAGE).step() == 0
    assert MIGRATION not in await probe.hash(META)


async def test_a_version_without_a_step_to_do_leaves_the_store_alone(store: Store, probe: Probe) -> None:
    await store.prepare()
    before = await probe.dump()
    assert [await store.migrator(page_size=PAGE).step() for _ in range(3)] == [0, 0, 0]
    assert await probe.dump() == before


async def test_every_task_is_migrated_and_the_format_is_raised_at_the_end(
    upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    await upgraded.prepare()
    migrator = upgraded.migrator(page_size=PAGE)
    seen: list[tuple[int, int, int] | None] = []
    while (meta := await probe.hash(META))[FORMAT] != str(TO) and len(seen) < 100:
        progress = progress_from(meta.get(MIGRATION, "").encode())
        seen.append((progress.round, progress.seen, progress.changed) if progress else None)
        await migrator.step()
    pages = [0, PAGE, TASKS, TASKS + PAGE, 2 * TASKS]
    assert seen == [
        *(None, None),
        *((1, count, count) for count in pages),
        *((2, count, 0) for count in pages),
    ]  # fmt: skip
    assert await unmarked(benches) == 0
    assert (await probe.hash(META))[MIGRATION] == ""
    assert await migrator.step() == 0


async def test_a_migration_changes_nothing_else(upgraded: Store, probe: Probe, benches: list[Bench]) -> None:
    before = (await probe.snapshot()).contents
    await to_the_end(upgraded.migrator(page_size=PAGE), probe)
    after = (await probe.snapshot()).contents
    assert before.keys() == after.keys()
    for name, content in after.items():
        if isinstance(content, dict) and name != META:
            content.pop(FIELD.encode(), None)
        assert name == META or before[name] == content
    assert [fault for bench in benches for fault in await Bench(upgraded, "", probe, _ids(benches)).check()] == []


def _ids(benches: list[Bench]) -> list[str]:
    return [bench.endpoint_id for bench in benches]


@pytest.mark.parametrize("steps_each", [3, 4, 5])
async def test_another_leader_goes_on_where_the_one_before_was_killed(
    upgraded: Store, probe: Probe, benches: list[Bench], steps_each: int
) -> None:
    """Each leader lives for a few steps: two checks, then pages."""
    leaders = 0
    while (await probe.hash(META))[FORMAT] != str(TO):
        leaders += 1
        assert leaders < 10
        migrator = upgraded.migrator(page_size=PAGE)
        for _ in range(steps_each):
            await migrator.step()
    assert leaders > 1
    assert await unmarked(benches) == 0


async def test_a_page_that_was_done_and_not_noted_is_done_once_more(
    upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    done: list[str] = []

    async def dies_once(records: Records, after: str) -> AsyncIterator[Page]:
        async for page in mark_tasks(records, after):
            done.append(page.cursor)
            if len(done) == 2:
                raise ConnectionError("the leader dies before the page is noted")
            yield page

    records = Records(upgraded.redis, upgraded.partitions, upgraded.endpoints.ids, page_size=PAGE)
    migrator = Migrator(upgraded.redis, records, upgraded.processes, [replace(STEP, pages=dies_once)])
    with pytest.raises(ConnectionError):
        await to_the_end(migrator, probe)
    await to_the_end(migrator, probe)
    assert done[1] == done[2]
    assert len(set(done)) == 4
    assert await unmarked(benches) == 0


async def test_two_leaders_at_once_do_no_harm(upgraded: Store, probe: Probe, benches: list[Bench]) -> None:
    first, second = upgraded.migrator(page_size=PAGE), upgraded.migrator(page_size=PAGE)
    await asyncio.gather(to_the_end(first, probe), to_the_end(second, probe))
    assert await unmarked(benches) == 0
    assert (await first.step(), await second.step()) == (0, 0)


async def test_a_task_that_is_removed_during_the_migration_does_not_come_back(
    upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    bench = benches[0]
    await upgraded.tasks.cancel(bench.endpoint_id, "t7")
    await probe.ask("DEL", bench.keys.task("t7"), bench.keys.body("t7"))
    await to_the_end(upgraded.migrator(page_size=PAGE), probe)
    assert await probe.hash(bench.keys.task("t7")) == {}


async def test_what_is_written_in_the_old_format_during_a_round_is_found_by_the_next(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    migrator = upgraded.migrator(page_size=PAGE)
    for _ in range(4):
        await migrator.step()
    await benches[0].submit("late")
    await to_the_end(migrator, probe)
    assert (await probe.hash(benches[0].keys.task("late")))[FIELD] == "1"


async def test_a_migration_waits_for_processes_of_the_version_before(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench], caplog: pytest.LogCaptureFixture
) -> None:
    await store.processes.note("api:old")
    migrator = upgraded.migrator(page_size=PAGE)
    assert [await migrator.step() for _ in range(5)] == [0] * 5
    assert MIGRATION not in await probe.hash(META)
    waiting = [record for record in caplog.records if "waits for processes" in record.getMessage()]
    assert [record.__dict__["processes"] for record in waiting] == [["api:old"]]
    await store.processes.remove("api:old")
    assert await migrator.step() == 0  # the process may only be unable to note itself now
    assert MIGRATION not in await probe.hash(META)
    await to_the_end(migrator, probe)
    assert await unmarked(benches) == 0


async def test_a_process_that_was_killed_holds_a_migration_up_for_its_lease_only(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    await store.processes.note("delivery:dead")
    assert await upgraded.processes.older() == ["delivery:dead"]
    await probe.ask("ZADD", PROCESSES, await probe.now_ms() - 1, f"{store.data_format}:delivery:dead")
    assert await upgraded.processes.older() == []
    assert 0 < await probe.ask("PTTL", PROCESSES) <= 2 * LEASE_MS


async def test_processes_of_the_same_version_are_not_waited_for(upgraded: Store, probe: Probe) -> None:
    await upgraded.processes.note("api:new")
    assert await upgraded.processes.older() == []


async def test_a_process_of_the_version_before_that_starts_as_a_migration_begins_is_seen(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    """The process notes itself after the migrator's check, and its own check has found no migration."""
    migrator = upgraded.migrator(page_size=PAGE)
    assert await migrator.step() == 0
    looks = upgraded.processes.older

    async def late_look() -> list[str]:
        found = await looks()
        await store.processes.note("api:late")
        return found

    upgraded.processes.older = late_look  # type: ignore[method-assign]
    assert await migrator.step() == 0
    assert MIGRATION not in await probe.hash(META)


async def test_processes_of_the_version_before_start_until_a_migration_begins(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    agent = Store(store.url, store.sealer, partitions=store.partitions.count, is_agent=True)
    migrator = upgraded.migrator(page_size=PAGE)
    try:
        await store.prepare()
        for _ in range(2):
            await migrator.step()
        with pytest.raises(UnfitStore, match=f"is being migrated to format {TO}"):
            await store.prepare()
        await agent.prepare()
        await to_the_end(migrator, probe)
        with pytest.raises(UnfitStore, match=f"holds data of format {TO}"):
            await store.prepare()
        await agent.prepare()
        await upgraded.prepare()
    finally:
        await agent.close()


async def test_a_migration_that_a_newer_version_notes_in_more_words_is_understood(store: Store, probe: Probe) -> None:
    await store.prepare()
    await probe.ask("HSET", META, MIGRATION, f'{{"to": {TO}, "cursor": "1 2-1", "eta": "soon"}}')
    with pytest.raises(UnfitStore, match=f"is being migrated to format {TO}"):
        await store.prepare()


async def test_a_process_stays_noted_beyond_its_lease(
    store: Store, upgraded: Store, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "NOTE_SECONDS", 0.05)
    async with store.noted("api"):
        await store.prepare()
        (name,) = await probe.scores(PROCESSES)

        async def is_noted_again() -> bool:
            return (await probe.scores(PROCESSES))[name] > 1

        await probe.ask("ZADD", PROCESSES, 1, name)
        await wait_until_async(is_noted_again, message="the note is not renewed")


async def test_a_process_notes_itself_before_it_looks_at_the_format(
    store: Store, upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    async with store.noted("api"):
        await store.prepare()
        (name,) = await upgraded.processes.older()
        assert name.startswith("api:")
    assert await upgraded.processes.older() == []


async def test_data_that_is_restored_from_a_backup_is_migrated_again(
    upgraded: Store, probe: Probe, benches: list[Bench]
) -> None:
    migrator = upgraded.migrator(page_size=PAGE)
    await to_the_end(migrator, probe)
    await probe.ask("HSET", META, FORMAT, str(TO - 1))
    await probe.ask("HDEL", benches[0].keys.task("t0"), FIELD)
    await to_the_end(migrator, probe)
    assert await unmarked(benches) == 0


def test_steps_are_numbered_without_a_gap() -> None:
    assert [step.number for step in MIGRATIONS] == list(range(2, 2 + len(MIGRATIONS)))
