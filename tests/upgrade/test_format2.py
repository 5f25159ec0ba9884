"""Data that was recorded in format 2 has all indexes but that of given-up deliveries, and can be used."""

from pathlib import Path

import pytest

from queue_engine.store.keys import FORMAT, META
from queue_engine.store.store import Store
from tests.store.bench import Bench
from tests.store.probe import Probe
from tests.upgrade import dumps

FORMAT_2 = Path(__file__).with_name("format2.jsonl")


@pytest.fixture
def format2() -> dumps.Dump:
    return dumps.read(FORMAT_2)


async def test_recorded_data_is_consistent_and_lacks_no_other_index_entry(
    store: Store, probe: Probe, format2: dumps.Dump
) -> None:
    await dumps.restore(store.redis, format2)
    await store.prepare()
    assert (await probe.hash(META))[FORMAT] == "2"
    ids = await store.endpoints.ids()
    build = store.given_up_build()
    while await build.step():
        continue
    assert await Bench(store, "", probe, ids, has_use=False).check() == []
    assert await store.endpoints.index.restore(ids) == len(ids)  # the streams of tasks that are taken out of lanes
    assert await store.endpoints.index.restore(ids) == 0


async def test_recorded_endpoints_are_listed_by_tenant(store: Store, format2: dumps.Dump) -> None:
    await dumps.restore(store.redis, format2)
    names = {
        tenant: {one.config.name for one in await store.endpoints.of_tenant(tenant)} for tenant in ("default", "other")
    }
    assert {"main", "keyless", "impatient"} <= names["default"]
    assert names["other"] == {"theirs"}
