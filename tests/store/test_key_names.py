"""Scripts find the ids of tasks in their keys, for any ids and any number of partitions."""

import pytest

from queue_engine.store.keys import EndpointKeys, Partition, member
from queue_engine.store.scripts import load_library, make_script
from tests.store.bench import Bench

NAMES = """\
-- Return what a task's key and its delivery's say.
--
-- keys of a task: task, delivery
-- replies:
--   OK: member text, task_id text, delivery_id text
local member, task_id = names_of(task)
return { 'OK', member, task_id, id_of_delivery(delivery) }
"""


@pytest.mark.parametrize("partition", [0, 7, 99, 1023])
@pytest.mark.parametrize("task_id", ["a", "t", ":t:x", "w:s:1:2", "a:b", "ü-1", "x" * 200])
async def test_ids_are_found_in_keys(bench: Bench, partition: int, task_id: str) -> None:
    keys = EndpointKeys(Partition(partition), "123").of_task(task_id)
    text = make_script("example", NAMES, load_library()).text
    found = await bench.probe.ask("EVAL", text, 2, keys.task, keys.delivery)
    assert found == [b"OK", member("123", task_id).encode(), task_id.encode(), f"t:123:{task_id}".encode()]
