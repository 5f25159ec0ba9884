"""A small result is stored behind a small body, any other result in its own key. Callers see no difference."""

import json
from dataclasses import dataclass

import pytest

from queue_engine.domain.tasks import Failed, Outcome, Succeeded, TaskState
from queue_engine.store.tasks import Deletion, Rerun
from tests.store.bench import Bench, spec

MAX_JOINED_BYTES = 1024
SPEC_BYTES = 26
"""Bytes of the spec of a task without headers or a webhook."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of an input and of a result; `joined` is True if they are stored together."""

    input: int
    result: int
    joined: bool


SIZES = [
    Sizes(2, 2, True),
    Sizes(2, MAX_JOINED_BYTES, True),
    Sizes(2, MAX_JOINED_BYTES + 1, False),
    Sizes(MAX_JOINED_BYTES - SPEC_BYTES, 2, True),
    Sizes(MAX_JOINED_BYTES - SPEC_BYTES + 1, 2, False),
    Sizes(MAX_JOINED_BYTES - SPEC_BYTES, MAX_JOINED_BYTES, True),
    Sizes(100_000, 100_000, False),
]


def json_of(size: int) -> bytes:
    """Return a JSON text of this number of bytes, at least two."""
    return b'"' + b"x" * (size - 2) + b'"'


async def ended(bench: Bench, sizes: Sizes, *, failed: bool = False) -> None:
    text = json_of(sizes.result)
    outcome: Outcome = Failed(text.decode()) if failed else Succeeded(text)
    await bench.finish("t1", outcome=outcome, spec=spec(), input=json_of(sizes.input))


@pytest.fixture(params=SIZES, ids=lambda sizes: f"{sizes.input}+{sizes.result}")
def sizes(request: pytest.FixtureRequest) -> Sizes:
    given: Sizes = request.param
    return given


async def test_small_ones_are_kept_together(bench: Bench, sizes: Sizes) -> None:
    await ended(bench, sizes)
    length = await bench.probe.ask("STRLEN", bench.keys.body("t1"))
    assert length == SPEC_BYTES + sizes.input + (sizes.result if sizes.joined else 0)
    assert await bench.probe.ask("EXISTS", bench.keys.result("t1")) == (not sizes.joined)


async def test_the_tasks_hash_stays_compact(bench: Bench, sizes: Sizes) -> None:
    await ended(bench, sizes)
    assert await bench.probe.ask("OBJECT", "ENCODING", bench.keys.task("t1")) == b"listpack"


@pytest.mark.parametrize("failed", [False, True])
async def test_a_task_is_read_whole(bench: Bench, sizes: Sizes, failed: bool) -> None:
    await ended(bench, sizes, failed=failed)
    text = json_of(sizes.result)
    expected = (None, text.decode()) if failed else (text, None)
    task = await bench.task("t1")
    assert (task.spec, task.input, (task.output, task.error)) == (spec(), json_of(sizes.input), expected)
    brief = await bench.store.tasks.brief(bench.endpoint_id, "t1")
    assert brief is not None
    assert (brief.spec, brief.error) == (spec(), expected[1])


async def test_the_attempts_tell_the_error(bench: Bench, sizes: Sizes) -> None:
    await ended(bench, sizes, failed=True)
    attempts = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert attempts is not None
    assert [one.error for one in attempts] == [json_of(sizes.result).decode()]


@pytest.mark.parametrize("failed", [False, True])
async def test_a_task_that_runs_again_has_its_input_and_no_result(bench: Bench, sizes: Sizes, failed: bool) -> None:
    await ended(bench, sizes, failed=failed)
    assert await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call") is Rerun.QUEUED
    task = await bench.task("t1")
    assert (task.spec, task.input, task.output, task.error) == (spec(), json_of(sizes.input), None, None)
    assert await bench.probe.ask("PTTL", bench.keys.body("t1")) == -1
    assert not await bench.probe.ask("EXISTS", bench.keys.result("t1"))
    agent = bench.agent()
    started = await bench.start(agent)
    assert (agent.open(started).spec, started.input) == (spec(), json_of(sizes.input))
    await bench.settle(agent, started, Succeeded(b"[2]"))
    task = await bench.task("t1")
    assert (task.input, task.output) == (json_of(sizes.input), b"[2]")


@pytest.mark.parametrize("size", [1000, 2000])
async def test_the_history_holds_the_beginning_of_a_long_error(bench: Bench, size: int) -> None:
    error = f"{'a' * 512}{'b' * (size - 512)}"
    await bench.finish("t1", outcome=Failed(error))
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    attempts = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert attempts is not None
    assert [one.error for one in attempts] == ["a" * 512]


async def test_nothing_stays_of_a_task_that_is_purged(bench: Bench, sizes: Sizes) -> None:
    await ended(bench, sizes)
    assert await bench.purge() == 1
    assert await bench.probe.ask("EXISTS", bench.keys.task("t1"), bench.keys.body("t1"), bench.keys.result("t1")) == 0


async def test_nothing_stays_of_a_task_that_is_deleted(bench: Bench, sizes: Sizes) -> None:
    await ended(bench, sizes)
    assert await bench.store.tasks.delete(bench.endpoint_id, "t1") is Deletion.DELETED
    assert await bench.probe.ask("EXISTS", bench.keys.task("t1"), bench.keys.body("t1"), bench.keys.result("t1")) == 0


async def test_a_webhook_gets_the_result(bench: Bench, sizes: Sizes) -> None:
    given = spec(webhook=True)
    await bench.finish("t1", outcome=Succeeded(json_of(sizes.result)), spec=given, input=json_of(sizes.input))
    outbox = await bench.outbox()
    entry = (await outbox.read(1, block_ms=1))[0]
    opened = await outbox.open(entry)
    assert opened is not None
    assert json.loads(opened.body)["result"] == json.loads(json_of(sizes.result))


@pytest.mark.parametrize("longer_by", [-3, 0, 200])
async def test_a_spec_of_another_length_moves_nothing_else(bench: Bench, sizes: Sizes, longer_by: int) -> None:
    await ended(bench, sizes)
    body = await bench.probe.ask("GET", bench.keys.body("t1"))
    old = body[:SPEC_BYTES]
    new = old.replace(b"/run", b"/" + b"r" * (3 + longer_by))
    assert (await bench.store.scripts.reseal_spec(bench.keys.of_task("t1"), before=old, after=new)).word == "OK"
    task = await bench.task("t1")
    assert (len(task.spec.process_uri), task.input, task.output) == (
        4 + longer_by, json_of(sizes.input), json_of(sizes.result),
    )  # fmt: skip


async def test_a_result_does_not_replace_a_missing_body(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.probe.ask("DEL", bench.keys.body("t1"))
    await bench.recount_bytes()
    await bench.settle(agent, started, Failed("no", TaskState.FAILED))
    assert await bench.probe.ask("GET", bench.keys.result("t1")) == b"no"
    assert await bench.probe.ask("DEL", bench.keys.task("t1"), bench.keys.result("t1")) == 2
    await bench.purge()


async def test_a_body_that_was_left_behind_is_no_part_of_a_new_task(bench: Bench) -> None:
    """The old body's expiry must not apply to the new body."""
    await bench.probe.ask("SET", bench.keys.body("t1"), b"old", "PX", 60_000)
    await bench.submit("t1", input=b'"new"')
    assert (await bench.task("t1")).input == b'"new"'
    assert await bench.probe.ask("PTTL", bench.keys.body("t1")) == -1


@pytest.mark.parametrize("size", [3, MAX_JOINED_BYTES + 1])
async def test_an_end_that_nothing_forbids_replaces_the_result(bench: Bench, size: int) -> None:
    """The fence prevents a second end. If it failed, the result would be one of the two, and the input unchanged."""
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    await bench.probe.ask("HSET", bench.keys.task("t1"), "state", "running")
    await bench.settle(agent, started, Succeeded(json_of(size)))
    task = await bench.task("t1")
    assert (task.input, task.output) == (b'{"n": 1}', json_of(size))
    await bench.probe.ask("FLUSHALL")
