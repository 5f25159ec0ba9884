"""Long inputs and outputs are read in parts, and never mixed with those of another task or run."""

import pytest

from queue_engine.domain.tasks import LongText, LongTexts, Succeeded
from queue_engine.store.tasks import PART_BYTES, Deletion
from tests.store.bench import Bench

LIMIT = 1000
INPUT = b'"' + bytes(ord("a") + at % 26 for at in range(2 * PART_BYTES)) + b'"'
OUTPUT = b'"' + bytes(ord("A") + at % 26 for at in range(PART_BYTES + 5)) + b'"'


async def finished(bench: Bench, task_id: str = "t1", output: bytes = OUTPUT) -> None:
    agent = bench.agent()
    await bench.submit(task_id, input=INPUT)
    await bench.settle(agent, await bench.start(agent), Succeeded(output))


async def read(bench: Bench, task_id: str = "t1") -> LongTexts:
    task = await bench.store.tasks.get(bench.endpoint_id, task_id, max_bytes=LIMIT)
    assert task is not None
    assert task.long is not None
    return task.long


async def whole(text: LongText | None) -> bytes:
    assert text is not None
    found = b""
    while len(found) < text.size:
        part = await text.read(len(found))
        assert 0 < len(part) <= PART_BYTES
        found += part
    return found


async def test_the_parts_are_the_texts(bench: Bench) -> None:
    await finished(bench)
    long = await read(bench)
    assert await whole(long.input) == INPUT
    assert await whole(long.output) == OUTPUT


async def test_a_waiting_task_has_no_output(bench: Bench) -> None:
    await bench.submit("t1", input=INPUT)
    long = await read(bench)
    assert await whole(long.input) == INPUT
    assert long.output is None


@pytest.mark.parametrize("output", [b"1", OUTPUT])
async def test_a_task_within_the_limit_is_read_at_once(bench: Bench, output: bytes) -> None:
    await finished(bench, output=output)
    task = await bench.store.tasks.get(bench.endpoint_id, "t1", max_bytes=len(INPUT) + len(output))
    assert task is not None
    assert (bytes(task.input), task.output) == (INPUT, output)  # type: ignore[arg-type]


async def test_a_deleted_task_has_no_further_parts_even_when_its_id_is_used_again(bench: Bench) -> None:
    await finished(bench)
    long = await read(bench)
    assert long.output is not None
    assert await bench.store.tasks.delete(bench.endpoint_id, "t1") is Deletion.DELETED
    assert (await long.input.read(0), await long.output.read(0)) == (b"", b"")
    await finished(bench)
    assert (await long.input.read(0), await long.output.read(0)) == (b"", b"")


async def test_a_task_that_runs_again_has_no_further_parts_of_its_output(bench: Bench) -> None:
    await finished(bench)
    long = await read(bench)
    assert long.output is not None
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    assert await long.output.read(0) == b""
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Succeeded(OUTPUT.lower()))
    assert await long.output.read(0) == b""
    assert await whole(long.input) == INPUT
