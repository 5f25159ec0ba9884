"""A recorded dump can be restored into any kind of store, moved to the present."""

from pathlib import Path
from typing import Any

from queue_engine.store.keys import LEADER
from queue_engine.store.store import Store
from tests.store.probe import Probe
from tests.upgrade import dumps
from tests.upgrade.conftest import FORMAT_1, FORMAT_1_VIEWS

RESTORED_WITHIN_MS = 60_000
MAX_BYTES = 300_000


async def test_a_restored_dump_is_the_data_that_was_recorded(
    store: Store, probe: Probe, format1: dumps.Dump, tmp_path: Path
) -> None:
    began_ms = await probe.now_ms()
    moved = await dumps.restore(store.redis, format1)
    await dumps.write(store.redis, tmp_path / "again.jsonl")
    again = dumps.read(tmp_path / "again.jsonl")
    expected = [_lasting(dumps.mapped(record, moved)) for record in format1.records]
    assert [_lasting(record) for record in again.records] == expected
    assert began_ms <= int(moved(str(format1.recorded_at_ms))) <= again.recorded_at_ms


async def test_a_restored_key_lives_as_long_as_it_would_have(store: Store, probe: Probe, format1: dumps.Dump) -> None:
    await dumps.restore(store.redis, format1)
    expiring = {record["key"]: record["ttl_ms"] for record in format1.records if "ttl_ms" in record}
    body = next(key for key in expiring if ":b:" in key)
    assert expiring[body] - RESTORED_WITHIN_MS < await probe.ask("PTTL", body) <= expiring[body]
    assert await probe.ask("PTTL", "{qe}:meta") == -1


def test_only_what_can_be_a_time_is_moved() -> None:
    moved = dumps.mover(1_795_815_631_184, 1_800_000_000_000)
    assert moved("1795815631184 3-1795815631185 {1795815631183}") == "1800000000000 3-1800000000001 {1799999999999}"
    unmoved = "17958156311840 a1795815631184 1695815631184 1795815631.184 v1.1795815631184"
    assert moved(unmoved) == unmoved


def test_a_dump_keeps_its_lengths_when_a_port_is_replaced(format1: dumps.Dump) -> None:
    replaced = format1.replaced({":65001": ":54321"})
    lengths = [len(str(record)) for record in format1.records]
    assert [len(str(record)) for record in replaced.records] == lengths
    assert ":65001" not in str(replaced.records)


def test_the_dump_holds_tasks_in_every_state(format1: dumps.Dump) -> None:
    states = {record["value"]["state"] for record in format1.records if "}:t:" in record["key"]}
    assert states == {
        "queued", "scheduled", "running", "succeeded", "failed", "cancelled", "expired", "timed_out", "dead",
    }  # fmt: skip


async def test_a_dead_leader_still_leads_in_the_dump(store: Store, probe: Probe, format1: dumps.Dump) -> None:
    await dumps.restore(store.redis, format1)
    assert 0 < await probe.ask("PTTL", LEADER) <= 10_000


def test_the_dump_is_small_enough_to_be_read() -> None:
    assert FORMAT_1.stat().st_size + FORMAT_1_VIEWS.stat().st_size <= MAX_BYTES


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without values that change with time: the TTL of a key and the idle time of an entry."""
    if record["type"] != "stream":
        return {name: part for name, part in record.items() if name != "ttl_ms"}
    groups = [
        group | {"pending": [{**one, "idle_ms": None} for one in group["pending"]]}
        for group in record["value"]["groups"]
    ]
    return {"key": record["key"], "type": "stream", "value": record["value"] | {"groups": groups}}
