"""Endpoints are found by the index of their tenant, and the index is restored when entries are missing."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from queue_engine.controller.resync import ENDPOINTS, Resync
from queue_engine.domain.endpoints import DesiredState
from queue_engine.store.endpoint_index import PAGE_SIZE
from queue_engine.store.endpoints import EndpointLimitReached
from queue_engine.store.keys import FORMAT, META, NAMES_INDEXED, endpoint_names_of, endpoints_of
from queue_engine.store.store import Store
from tests.store.bench import TENANT, config
from tests.store.probe import Probe

OTHER = "globex"


async def create(store: Store, count: int, tenant: str = TENANT) -> list[str]:
    """Create endpoints and return their ids, newest first."""
    return [(await store.endpoints.create(tenant, config())).endpoint_id for _ in range(count)][::-1]


async def listed(store: Store, tenant: str = TENANT) -> list[str]:
    return [endpoint.endpoint_id for endpoint in await store.endpoints.of_tenant(tenant)]


async def indexed(probe: Probe, tenant: str = TENANT) -> list[str]:
    """Return the ids in the tenant's index, newest first."""
    return list(await probe.scores(endpoints_of(tenant)))[::-1]


async def test_a_list_of_several_pages_has_every_endpoint_once_newest_first(store: Store) -> None:
    ids = await create(store, 2 * PAGE_SIZE + 1)
    pages = [[one.endpoint_id for one in page] async for page in store.endpoints.pages_of(TENANT)]
    assert [len(page) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 1]
    assert [endpoint_id for page in pages for endpoint_id in page] == ids


async def test_a_list_reads_no_endpoint_of_another_tenant(store: Store, probe: Probe) -> None:
    await create(store, PAGE_SIZE, OTHER)
    mine = await create(store, 3)
    await probe.ask("CONFIG", "RESETSTAT")
    assert await listed(store) == mine
    stats = await store.redis.info("commandstats")
    assert stats["cmdstat_hgetall"]["calls"] == 3
    assert stats["cmdstat_zrevrangebyscore"]["calls"] == 1
    assert "cmdstat_zrange" not in stats


async def test_endpoints_are_found_by_their_exact_name(store: Store, probe: Probe) -> None:
    await Resync(store.endpoints.index).step()  # the indexes of names have all endpoints of an empty store
    await create(store, PAGE_SIZE)
    older, newer, deleted, other = [
        (await store.endpoints.create(tenant, config(name=name))).endpoint_id
        for tenant, name in ((TENANT, "echo"), (TENANT, "echo"), (TENANT, "echo"), (OTHER, "echo"))
    ]
    await store.endpoints.set_desired_state(deleted, TENANT, DesiredState.DELETED)
    await create(store, PAGE_SIZE)
    await probe.ask("CONFIG", "RESETSTAT")
    found = await store.endpoints.named(TENANT, "echo")
    assert [one.endpoint_id for one in found] == [newer, older]
    assert (await store.redis.info("commandstats"))["cmdstat_hgetall"]["calls"] == 3
    assert [one.endpoint_id for one in await store.endpoints.named(OTHER, "echo")] == [other]
    assert await store.endpoints.named(TENANT, "ech") == []
    await store.endpoints.update(older, TENANT, lambda before: replace(before, name="renamed"))
    assert [one.endpoint_id for one in await store.endpoints.named(TENANT, "renamed")] == [older]
    assert [one.endpoint_id for one in await store.endpoints.named(TENANT, "echo")] == [newer]
    assert await names(probe, "echo", "renamed") == {f"echo {newer}", f"echo {deleted}", f"renamed {older}"}
    assert await store.endpoints.remove(deleted)
    assert await names(probe, "echo", "renamed") == {f"echo {newer}", f"renamed {older}"}


async def names(probe: Probe, *wanted: str) -> set[str]:
    """Return the members of these names in the tenant's index of names."""
    members = await probe.scores(endpoint_names_of(TENANT))
    return {member for member in members if member.partition(" ")[0] in wanted}


async def test_a_search_by_name_reads_no_endpoint_with_another_name(store: Store, probe: Probe) -> None:
    await Resync(store.endpoints.index).step()
    await create(store, 3 * PAGE_SIZE)
    endpoint = await store.endpoints.create(TENANT, config(name="echo"))
    await probe.ask("CONFIG", "RESETSTAT")
    assert [one.endpoint_id for one in await store.endpoints.named(TENANT, "echo")] == [endpoint.endpoint_id]
    stats = await store.redis.info("commandstats")
    assert stats["cmdstat_hgetall"]["calls"] == 1
    assert stats["cmdstat_hget"]["calls"] == 1


async def test_the_name_of_another_endpoint_is_skipped_and_removed(store: Store, probe: Probe) -> None:
    await Resync(store.endpoints.index).step()
    mine = (await store.endpoints.create(TENANT, config(name="echo"))).endpoint_id
    (theirs,) = await create(store, 1, OTHER)
    for endpoint_id, name in (("999", "echo"), (theirs, "echo"), (mine, "former")):
        await store.endpoints.index.note_name(TENANT, endpoint_id, name)
    assert [one.endpoint_id for one in await store.endpoints.named(TENANT, "echo")] == [mine]
    assert await store.endpoints.named(TENANT, "former") == []
    assert await names(probe, "echo", "former") == {f"echo {mine}"}


async def test_a_name_that_is_taken_back_while_it_is_forgotten_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process renames the endpoint back, before the first one removes the former name."""
    await Resync(store.endpoints.index).step()
    endpoint_id = (await store.endpoints.create(TENANT, config(name="echo"))).endpoint_id
    forget_name = store.endpoints.index.forget_name

    async def forget_after_it_is_back(tenant: str, ids: Sequence[str], name: str) -> None:
        monkeypatch.setattr(store.endpoints.index, "forget_name", forget_name)
        await store.endpoints.update(endpoint_id, TENANT, lambda before: replace(before, name="echo"))
        await forget_name(tenant, ids, name)

    monkeypatch.setattr(store.endpoints.index, "forget_name", forget_after_it_is_back)
    await store.endpoints.update(endpoint_id, TENANT, lambda before: replace(before, name="renamed"))
    assert [one.endpoint_id for one in await store.endpoints.named(TENANT, "echo")] == [endpoint_id]
    assert await store.endpoints.named(TENANT, "renamed") == []


async def test_endpoints_from_before_the_index_of_names_are_found_during_and_after_a_round(
    store: Store, probe: Probe
) -> None:
    ids = [(await store.endpoints.create(TENANT, config(name="echo"))).endpoint_id for _ in range(3)][::-1]
    await create(store, ENDPOINTS)
    await probe.ask("DEL", endpoint_names_of(TENANT))
    await probe.ask("HDEL", META, NAMES_INDEXED)

    async def found() -> list[str]:
        return [one.endpoint_id for one in await store.endpoints.named(TENANT, "echo")]

    resync = Resync(store.endpoints.index)
    assert await found() == ids
    await resync.step()
    assert await found() == ids
    await resync.step()
    assert await probe.ask("HGET", META, NAMES_INDEXED) == b"1"
    assert await found() == ids


async def test_a_round_whose_begin_was_not_noted_does_not_complete_the_index_of_names(
    store: Store, probe: Probe
) -> None:
    """As one that a controller of an earlier version has begun."""
    await create(store, 3)
    await store.endpoints.index.note_place("15 0 0")
    await Resync(store.endpoints.index).step()
    assert await probe.ask("HGET", META, NAMES_INDEXED) is None


async def test_a_deleted_endpoint_is_not_listed_and_leaves_the_index_when_it_is_removed(
    store: Store, probe: Probe
) -> None:
    newer, older = await create(store, 2)
    await store.endpoints.set_desired_state(older, TENANT, DesiredState.DELETED)
    assert await listed(store) == [newer]
    assert await indexed(probe) == [newer, older]
    assert await store.endpoints.remove(older)
    assert await indexed(probe) == [newer]
    assert await store.endpoints.remove(older)


async def test_an_id_without_an_endpoint_is_skipped_and_removed(store: Store, probe: Probe) -> None:
    (mine,) = await create(store, 1)
    (theirs,) = await create(store, 1, OTHER)
    await store.endpoints.index.note(TENANT, "999", "n")
    await store.endpoints.index.note(TENANT, theirs, "n")
    assert await listed(store) == [mine]
    assert await indexed(probe) == [mine]
    assert await listed(store, OTHER) == [theirs]


async def test_a_list_between_the_note_and_the_endpoint_does_not_lose_the_endpoint(
    store: Store, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_endpoint = store.scripts.create_endpoint

    async def create_after_a_list(*keys: object, **given: object) -> object:
        assert await listed(store) == []
        assert await indexed(probe) == []
        return await create_endpoint(*keys, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(store.scripts, "create_endpoint", create_after_a_list)
    ids = await create(store, 1)
    assert await listed(store) == ids


async def test_an_endpoint_that_is_stored_while_a_list_removes_its_id_is_not_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, endpoint_id = store.endpoints.index.forget, await store.endpoints.new_id()
    await store.endpoints.index.note(TENANT, endpoint_id, "n")

    async def forget_after_the_endpoint_is_stored(tenant: str, ids: Sequence[str]) -> None:
        await store.endpoints.create(TENANT, config(), endpoint_id)
        await forget(tenant, ids)

    monkeypatch.setattr(store.endpoints.index, "forget", forget_after_the_endpoint_is_stored)
    assert await listed(store) == []
    assert await listed(store) == [endpoint_id]


async def test_a_tenant_at_its_limit_creates_no_endpoint(store: Store, probe: Probe) -> None:
    async def create_one(tenant: str = TENANT) -> None:
        await store.endpoints.create(tenant, config(), limit=2)

    await create_one()
    await create_one()
    with pytest.raises(EndpointLimitReached):
        await create_one()
    await create_one(OTHER)
    ids = await listed(store)
    assert len(ids) == len(await indexed(probe)) == 2
    assert await store.endpoints.index.note(TENANT, ids[0], "n", limit=2)
    assert not await store.endpoints.index.note(TENANT, "999", "n", limit=2)
    assert await store.endpoints.index.note(TENANT, "999", "n", limit=0)


async def all_pages(store: Store) -> list[list[str]]:
    pages, cursor = [], ""
    while (page := await store.endpoints.index.page(cursor)) is not None:
        assert len(page.ids) <= PAGE_SIZE
        pages.append(list(page.ids))
        cursor = page.cursor
    return pages


async def test_an_id_whose_endpoint_was_never_stored_does_not_count_towards_the_limit(
    store: Store, probe: Probe
) -> None:
    for lost in range(PAGE_SIZE + 1):
        await store.endpoints.index.note(TENANT, str(1000 + lost), "n")
    (mine,) = await create(store, 1)
    created = await store.endpoints.create(TENANT, config(), limit=2)
    assert await indexed(probe) == [created.endpoint_id, mine]
    with pytest.raises(EndpointLimitReached):
        await store.endpoints.create(TENANT, config(), limit=2)


@pytest.mark.parametrize("same_time", [False, True], ids=["at different times", "all at the same time"])
async def test_pages_of_all_endpoints_have_each_endpoint_once(store: Store, probe: Probe, same_time: bool) -> None:
    ids = await create(store, 60) + await create(store, 40, OTHER)
    for partition in store.partitions.all() if same_time else ():
        for number in range(2 * PAGE_SIZE + 10):  # more than two pages in one partition
            await probe.ask("ZADD", partition.endpoints, 5, f"{partition.index}9{number:03}")
    pages = await all_pages(store)
    found = [endpoint_id for page in pages for endpoint_id in page]
    assert len(found) == len(set(found))
    assert set(ids) <= set(found)
    assert len(found) == (len(ids) if not same_time else len(ids) + 4 * (2 * PAGE_SIZE + 10))


async def test_a_page_that_begins_after_a_removed_endpoint_goes_on(store: Store) -> None:
    assert await all_pages(store) == []
    await create(store, 3)
    page = await store.endpoints.index.page()
    assert page is not None
    for endpoint_id in page.ids:
        await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)
        await store.endpoints.remove(endpoint_id)
    rest = await all_pages(store)
    assert sum(map(len, rest)) == 3 - len(page.ids)


async def test_an_endpoint_is_put_back_among_the_deletions(store: Store, probe: Probe) -> None:
    (endpoint_id,) = await create(store, 1)
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)
    deletions = store.partitions.of(endpoint_id).partition.deletions
    assert set(await probe.scores(deletions)) == {endpoint_id}
    await probe.ask("DEL", deletions)
    assert [await store.endpoints.index.restore([endpoint_id]) for _ in range(2)] == [1, 0]
    assert set(await probe.scores(deletions)) == {endpoint_id}
    assert await store.endpoints.remove(endpoint_id)
    assert await probe.scores(deletions) == {}


async def test_missing_entries_are_restored_once(store: Store, probe: Probe) -> None:
    mine, theirs = await create(store, 3), await create(store, 2, OTHER)
    await probe.ask("ZREM", endpoints_of(TENANT), mine[1])
    await probe.ask("DEL", endpoints_of(OTHER))
    index = store.endpoints.index
    assert await index.restore([*mine, *theirs, "999"]) == 3
    assert await index.restore([*mine, *theirs, "999"]) == 0
    assert (await listed(store), await listed(store, OTHER)) == (mine, theirs)


async def make_format_1(store: Store, probe: Probe) -> None:
    """Change the data to format 1, in which there are no indexes."""
    await store.prepare()
    await probe.ask("HSET", META, FORMAT, 1)
    await probe.ask("DEL", endpoints_of(TENANT), endpoints_of(OTHER))


async def test_data_of_format_1_is_listed_without_the_index(store: Store, probe: Probe) -> None:
    mine, theirs = await create(store, 3), await create(store, 2, OTHER)
    await make_format_1(store, probe)
    new = await create(store, 1)
    assert await listed(store) == [*new, *mine]
    assert await listed(store, OTHER) == theirs


async def test_the_migration_to_format_2_makes_the_indexes(store: Store, probe: Probe) -> None:
    mine, theirs = await create(store, 30), await create(store, 2, OTHER)
    await make_format_1(store, probe)
    migrator = store.migrator()
    for _ in range(100):
        await migrator.step()
    assert (await probe.hash(META))[FORMAT] == "2"
    assert (await indexed(probe), await indexed(probe, OTHER)) == (mine, theirs)
    assert (await listed(store), await listed(store, OTHER)) == (mine, theirs)


async def test_the_migration_corrects_the_counts_that_a_mixed_version_delete_has_left(
    store: Store, probe: Probe
) -> None:
    """A controller of format 1 removes an endpoint with the counts of its workers, and not those of the partition."""
    kept, removed = await create(store, 2)
    for endpoint_id in (kept, removed):
        await store.workers.put(endpoint_id, "w1", managed=True)
    keys = store.partitions.of(removed)
    await probe.ask("DEL", keys.endpoint, keys.counts, keys.workers, keys.worker("w1"))
    await probe.ask("ZREM", keys.partition.endpoints, removed)
    assert (await store.sweeper.workers())["INITIALIZING"] == 2
    await make_format_1(store, probe)
    migrator = store.migrator()
    for _ in range(100):
        await migrator.step()
    assert (await probe.hash(META))[FORMAT] == "2"
    assert (await store.sweeper.workers())["INITIALIZING"] == 1


async def test_the_resync_restores_every_entry_some_at_a_time(store: Store, probe: Probe) -> None:
    mine = await create(store, 3 * ENDPOINTS)
    resync = Resync(store.endpoints.index)
    for _ in range(2):  # a second round begins with the first endpoint again
        await probe.ask("DEL", endpoints_of(TENANT))
        restored = [0]
        while restored[-1] < len(mine):
            assert await resync.step() == 0
            restored.append(len(await indexed(probe)))
        assert all(0 < later - earlier < 2 * ENDPOINTS for earlier, later in pairwise(restored))
        assert await indexed(probe) == mine
        await resync.step()  # to the end, if the last step did not reach it


async def test_a_new_leader_goes_on_with_the_resync_of_the_former_one(store: Store, probe: Probe) -> None:
    mine = await create(store, 3 * ENDPOINTS)
    await probe.ask("DEL", endpoints_of(TENANT))
    for _ in mine:
        await Resync(store.endpoints.index).step()
        if await indexed(probe) == mine:
            break
    assert await indexed(probe) == mine


async def test_the_resync_is_faster_while_processes_of_format_1_may_write(store: Store, probe: Probe) -> None:
    mine = await create(store, 3 * ENDPOINTS)
    await make_format_1(store, probe)
    await Resync(store.endpoints.index).step()
    assert await indexed(probe) == mine


async def test_a_change_of_an_endpoint_does_not_move_it_in_the_list(store: Store) -> None:
    ids = await create(store, 3)
    await store.endpoints.update(ids[2], TENANT, lambda one: replace(one, name="renamed"))
    await store.endpoints.set_desired_state(ids[1], TENANT, DesiredState.STOPPED)
    assert await listed(store) == ids


@pytest.mark.parametrize(("desired", "has_worker", "is_due"), [(0, False, False), (1, False, True), (0, True, True)])
async def test_the_resync_has_workers_looked_at_where_there_are_or_should_be_any(
    store: Store, probe: Probe, desired: int, has_worker: bool, is_due: bool
) -> None:
    endpoint_id = (await store.endpoints.create(TENANT, config(workers=desired))).endpoint_id
    if has_worker:
        await store.workers.put(endpoint_id, "w1", managed=False)
    checks = store.partitions.of(endpoint_id).partition.due_checks
    await probe.ask("DEL", checks)
    await store.endpoints.index.restore([endpoint_id])
    assert (endpoint_id in await probe.scores(checks)) is is_due
