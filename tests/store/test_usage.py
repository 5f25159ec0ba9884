"""The use of the store by a tenant: bytes, waiting tasks, deliveries and workers, summed over its endpoints."""

from dataclasses import replace

import pytest

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import Cost, Failed, Succeeded, TryAgain
from queue_engine.store.constants import MAX_DELIVERY_RECORDS, MAX_LOG_BYTES, NODE_BYTES, TASK_BYTES
from queue_engine.store.endpoint_index import PAGE_SIZE
from queue_engine.store.store import Store
from queue_engine.store.usage import Usage
from tests.store.bench import DELIVERED, GIVEN_UP, TENANT, TOO_LARGE_TO_JOIN, Bench, again, answer, config, spec
from tests.store.consistency import BLOCK
from tests.store.probe import Probe

MAX_ATTEMPTS = 50
"""Limit of a task's history in the scripts."""


async def _usage(bench: Bench) -> Usage:
    return await bench.store.usage.of(TENANT)


async def _bytes(bench: Bench) -> int:
    """Return the bytes of the tasks, which are those that are left without the endpoint's configuration."""
    config_bytes = await bench.probe.ask("HSTRLEN", bench.keys.endpoint, "config")
    return (await _usage(bench)).stored_bytes - int(config_bytes)


async def test_a_tenant_without_tasks_uses_the_bytes_of_its_configuration(bench: Bench) -> None:
    usage = await _usage(bench)
    assert usage.stored_bytes > 0
    assert replace(usage, stored_bytes=0) == Usage(workers=1)
    assert await bench.store.usage.of("stranger") == Usage()


@pytest.mark.parametrize("outcome", [Succeeded(b"42"), TOO_LARGE_TO_JOIN, Failed("no")])
async def test_a_task_counts_its_input_and_its_result_until_it_is_removed(
    bench: Bench, outcome: Succeeded | Failed
) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, input=b'"' + b"x" * 5000 + b'"')
    before = await _bytes(bench)
    assert before == TASK_BYTES + await bench.probe.ask("STRLEN", bench.keys.body("t1")) > 5000
    await bench.settle(agent, started, outcome)
    result = outcome.output if isinstance(outcome, Succeeded) else outcome.error.encode()
    assert await _bytes(bench) == before + len(result)
    await bench.store.tasks.delete(bench.endpoint_id, "t1")
    assert await _bytes(bench) == 0


async def test_bytes_return_to_zero_after_every_kind_of_end(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("delivered", webhook=True)
    await bench.deliver(outbox)
    await bench.finish("given_up", webhook=True)
    await bench.deliver(outbox, GIVEN_UP)
    await bench.finish("failed", outcome=Failed("no"))
    await bench.finish("again", outcome=TOO_LARGE_TO_JOIN, webhook=True)
    await bench.store.tasks.rerun(bench.endpoint_id, "again", "call")
    await bench.store.tasks.cancel(bench.endpoint_id, "again")
    await bench.deliver(outbox)
    agent = bench.agent()
    started = await bench.submit_and_start("late", agent)
    await bench.settle(agent, started, TryAgain("busy", 60))
    await bench.store.tasks.cancel(bench.endpoint_id, "late")
    assert await _bytes(bench) > 5 * TASK_BYTES
    assert await bench.purge() == 5
    assert await _bytes(bench) == 0
    assert (await _usage(bench)).waiting_deliveries == 0


async def _records(bench: Bench, key: str) -> int:
    return sum(map(len, await bench.probe.ask("LRANGE", key, 0, -1)))


@pytest.mark.parametrize("way", ["purge", "delete"])
async def test_the_records_of_attempts_and_deliveries_count_until_the_task_is_removed(bench: Bench, way: str) -> None:
    """More records than are kept, tries that share one, and a run by hand in between."""
    outbox, agent = await bench.outbox(), bench.agent()
    await bench.submit_and_start("other")
    before = await _bytes(bench)
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True))
    history, ledger = bench.keys.history("t1"), bench.partition.attempts_log(bench.endpoint_id, "t1")
    task_bytes = TASK_BYTES + await bench.probe.ask("STRLEN", bench.keys.body("t1"))
    for length in range(3):
        await bench.settle(agent, started, TryAgain("x" * length, 0, cost=Cost.NOTHING))
        started = await bench.start(agent)
    for _ in range(MAX_ATTEMPTS + 3):
        await bench.release(agent, started)
        started = await bench.start(agent)
    assert await _bytes(bench) == before + task_bytes + await _records(bench, history)
    await bench.settle(agent, started, Succeeded(b"42"))
    for _ in range(MAX_DELIVERY_RECORDS + 1):
        await bench.deliver(outbox, again())
        await outbox.promote()
    kept = await _records(bench, history) + await _records(bench, ledger)
    assert await _bytes(bench) == before + task_bytes + len(b"42") + kept
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    kept = await _records(bench, history) + await _records(bench, ledger)
    assert await _bytes(bench) == before + task_bytes + kept
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.deliver(outbox)
    if way == "purge":
        assert await bench.purge() == 1
    else:
        await bench.store.tasks.delete(bench.endpoint_id, "t1")
    assert await _bytes(bench) == before


async def _append(bench: Bench, worker: str, *lines: str, retention_ms: int = 60_000) -> None:
    batch = f"{worker} {len(lines[0]) if lines else 0}"
    await bench.store.workers.put(bench.endpoint_id, worker, managed=True)
    assert await bench.store.logs.append(bench.endpoint_id, worker, batch, lines, retention_ms=retention_ms)
    await bench.store.workers.remove(bench.endpoint_id, worker)


async def _nodes(bench: Bench, *workers: str) -> int:
    """Return the bytes of the nodes of these logs."""
    facts = [await bench.probe.redis.xinfo_stream(bench.keys.log(worker)) for worker in workers]
    return NODE_BYTES * sum(int(found["radix-tree-keys"]) for found in facts)


async def test_the_logs_of_workers_count_until_they_are_dropped(bench: Bench) -> None:
    before = (await _usage(bench)).stored_bytes
    await _append(bench, "w1", *["x" * 1000] * 100)
    await _append(bench, "w1", *["y" * 2000] * 100)
    await _append(bench, "w2", "short")
    await _append(bench, "w2")
    counted = (await _usage(bench)).stored_bytes - before
    assert counted == await _nodes(bench, "w1", "w2") > 300_000
    await bench.store.logs.delete_endpoint(bench.endpoint_id)
    assert (await _usage(bench)).stored_bytes == before


async def test_a_log_that_is_cut_counts_what_is_left(bench: Bench) -> None:
    before = (await _usage(bench)).stored_bytes
    line = "x" * (NODE_BYTES - 500)
    for batch in range(MAX_LOG_BYTES // NODE_BYTES // 500 + 1):
        await _append(bench, "w1", *[line + "y" * batch] * 500)
    counted = (await _usage(bench)).stored_bytes - before
    assert counted == await _nodes(bench, "w1") <= MAX_LOG_BYTES


@pytest.mark.parametrize("is_counted", [True, False], ids=["expired", "never counted"])
async def test_the_round_through_all_endpoints_corrects_the_count_of_logs(bench: Bench, is_counted: bool) -> None:
    """A log expires without a script, and a process of an earlier version counts none."""
    before = (await _usage(bench)).stored_bytes
    await _append(bench, "w1", "kept")
    await _append(bench, "w2", "expires")
    await bench.probe.ask("DEL", bench.keys.log("w2"))
    if not is_counted:
        await bench.probe.ask("HDEL", bench.keys.counts, "logs")
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert (await _usage(bench)).stored_bytes == before + await _nodes(bench, "w1")
    await bench.probe.ask("DEL", bench.keys.log("w1"), bench.keys.logs)
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert (await _usage(bench)).stored_bytes == before


async def test_dropping_the_logs_of_a_removed_endpoint_leaves_no_counts(bench: Bench) -> None:
    await _append(bench, "w1", "line")
    await bench.probe.ask("DEL", bench.keys.endpoint, bench.keys.counts)
    await bench.store.logs.delete_endpoint(bench.endpoint_id)
    assert await bench.probe.ask("EXISTS", bench.keys.counts) == 0


async def test_counting_the_logs_of_a_removed_endpoint_again_leaves_no_counts(bench: Bench) -> None:
    await bench.probe.ask("DEL", bench.keys.endpoint, bench.keys.counts)
    await bench.store.scripts.recount_logs(bench.keys, worker_logs=[], worker_ids=[])
    assert await bench.probe.ask("EXISTS", bench.keys.counts) == 0


async def test_a_task_whose_data_has_expired_is_subtracted(bench: Bench) -> None:
    await bench.finish("t1", outcome=TOO_LARGE_TO_JOIN)
    await bench.probe.ask("DEL", *await bench.data_keys("t1"))
    await bench.purge()
    assert await _bytes(bench) == 0


async def _end_with_records(bench: Bench, task_id: str) -> int:
    """Run a task with a webhook twice, and give its delivery up. Return the bytes of its records."""
    agent, outbox = bench.agent(), await bench.outbox()
    started = await bench.submit_and_start(task_id, agent, spec=spec(webhook=True))
    await bench.release(agent, started)
    await bench.settle(agent, await bench.start(agent), Succeeded(b"42"))
    await bench.deliver(outbox, GIVEN_UP)
    sizes = [await _records(bench, name) for name in _lists(bench, task_id)]
    assert all(sizes)
    return sum(sizes)


def _lists(bench: Bench, task_id: str) -> tuple[str, str]:
    return bench.keys.history(task_id), bench.partition.attempts_log(bench.endpoint_id, task_id)


async def _expire(bench: Bench, task_id: str) -> None:
    await bench.probe.ask("DEL", *await bench.data_keys(task_id), *_lists(bench, task_id))


async def test_the_records_of_an_expired_task_are_subtracted_with_the_last_task_of_its_block(bench: Bench) -> None:
    """A block has 64 tasks in the order of creation. Another block keeps the endpoint from having no tasks at all."""
    size = await _end_with_records(bench, "expired")
    running = await bench.submit_and_start("second", bench.agent())
    for number in range(BLOCK - 1):
        await bench.submit(f"t{number}")
    for number in range(BLOCK - 2):
        await bench.store.tasks.cancel(bench.endpoint_id, f"t{number}")
    await _expire(bench, "expired")
    assert await bench.purge() == BLOCK - 1
    left = [TASK_BYTES + await bench.probe.ask("STRLEN", bench.keys.body(name)) for name in ("second", f"t{BLOCK - 2}")]
    assert await _bytes(bench) == sum(left) + size
    await bench.settle(bench.agent(), running, Succeeded(b"42"))
    assert await bench.purge() == 1
    assert await _bytes(bench) == left[1]


async def test_sums_of_records_that_an_earlier_version_has_left_are_removed_when_there_is_no_task(
    bench: Bench,
) -> None:
    await bench.finish("t1")
    await bench.purge()
    await bench.probe.ask("HSET", bench.keys.counts, "records:7", 300)
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert not [name for name in await bench.probe.hash(bench.keys.counts) if name.startswith("records:")]


async def test_tasks_of_an_earlier_version_do_not_make_the_bytes_negative(bench: Bench) -> None:
    await bench.submit("old", input=b'"' + b"x" * 3000 + b'"')
    await bench.probe.ask("HDEL", bench.keys.counts, "bytes")
    await bench.store.tasks.cancel(bench.endpoint_id, "old")
    await bench.store.tasks.delete(bench.endpoint_id, "old")
    assert await _bytes(bench) == 0
    await bench.submit("new")
    assert await _bytes(bench) >= TASK_BYTES


async def _strip_bytes(bench: Bench, status: str) -> None:
    """Make the entries of an index those of version 0.2, which keeps no bytes of a task in them."""
    stream = bench.keys.finished(status)
    entries = await bench.probe.stream(stream)
    await bench.probe.ask("DEL", stream)
    for entry_id, fields in entries.items():
        await bench.probe.ask("XADD", stream, entry_id, "t", fields["t"], "n", fields["n"])


async def _finish_in_old_agent(bench: Bench, *, webhook: bool = False) -> None:
    """End a task as an agent of version 0.2 does, which does not count the output."""
    await bench.finish("old", outcome=TOO_LARGE_TO_JOIN, webhook=webhook)
    await bench.probe.ask("HINCRBY", bench.keys.counts, "bytes", -len(TOO_LARGE_TO_JOIN.output))
    await _strip_bytes(bench, "SUCCESS")


@pytest.mark.parametrize("way", ["purge", "delete", "rerun", "deliver"])
async def test_a_task_that_ended_in_an_agent_of_an_earlier_version_is_subtracted(bench: Bench, way: str) -> None:
    outbox = await bench.outbox()
    await bench.submit_and_start("other")
    before = await _bytes(bench)
    await _finish_in_old_agent(bench, webhook=way == "deliver")
    assert await _bytes(bench) > before
    if way == "deliver":
        await bench.deliver(outbox)
    if way == "rerun":
        await bench.store.tasks.rerun(bench.endpoint_id, "old", "call")
        await bench.store.tasks.cancel(bench.endpoint_id, "old")
    if way in ("deliver", "purge"):
        assert await bench.purge() == 1
    else:
        await bench.store.tasks.delete(bench.endpoint_id, "old")
    assert await _bytes(bench) == before


@pytest.mark.parametrize("outcome", [Succeeded(b"42"), TOO_LARGE_TO_JOIN])
async def test_a_task_that_a_process_of_an_earlier_version_has_delivered_is_subtracted(
    bench: Bench, outcome: Succeeded
) -> None:
    outbox = await bench.outbox()
    await bench.submit_and_start("other")
    before = await _bytes(bench)
    await bench.finish("t1", outcome=outcome, webhook=True)
    await bench.deliver(outbox)
    await _strip_bytes(bench, "DELIVERED")
    assert await bench.purge() == 1
    assert await _bytes(bench) == before


async def test_an_expired_task_of_an_agent_of_an_earlier_version_is_subtracted_without_its_input(bench: Bench) -> None:
    await bench.submit_and_start("other")
    await _finish_in_old_agent(bench)
    before = await _bytes(bench)
    input_bytes = await bench.probe.ask("STRLEN", bench.keys.body("old"))
    await bench.probe.ask("DEL", *await bench.data_keys("old"))
    await bench.purge()
    assert await _bytes(bench) == before - TASK_BYTES
    await bench.probe.ask("HINCRBY", bench.keys.counts, "bytes", -input_bytes)


async def test_a_task_from_before_bytes_were_counted_is_not_subtracted(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("old", agent)
    await bench.probe.ask("HDEL", bench.keys.counts, "bytes", "counted_from")
    await bench.submit("new")
    before = await _bytes(bench)
    await bench.settle(agent, started, Succeeded(b"42"))
    await bench.probe.ask("HINCRBY", bench.keys.counts, "bytes", -2)
    await _strip_bytes(bench, "SUCCESS")
    assert await bench.purge() == 1
    assert await _bytes(bench) == before


@pytest.mark.parametrize("way", ["purge", "delete", "resync"])
async def test_an_endpoint_without_tasks_uses_nothing(bench: Bench, way: str) -> None:
    await bench.finish("t1")
    if way == "resync":
        await bench.purge()
    await bench.probe.ask("HINCRBY", bench.keys.counts, "bytes", 5000)
    await bench.probe.ask("HINCRBY", bench.keys.counts, "deliveries", 2)
    if way == "purge":
        await bench.purge()
    elif way == "delete":
        await bench.store.tasks.delete(bench.endpoint_id, "t1")
    else:
        await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert (await _bytes(bench), (await _usage(bench)).waiting_deliveries) == (0, 0)


async def test_queued_and_scheduled_tasks_wait(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("scheduled", agent)
    assert (await _usage(bench)).waiting_tasks == 0
    await bench.settle(agent, started, TryAgain("busy", 60))
    await bench.submit("queued")
    assert (await _usage(bench)).waiting_tasks == 2


async def test_a_delivery_waits_from_the_end_of_its_task_until_it_has_ended(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    assert (await _usage(bench)).waiting_deliveries == 1
    await bench.deliver(outbox, again())
    assert (await _usage(bench)).waiting_deliveries == 1
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    assert (await _usage(bench)).waiting_deliveries == 0
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert (await _usage(bench)).waiting_deliveries == 1
    await bench.deliver(outbox, DELIVERED)
    assert (await _usage(bench)).waiting_deliveries == 0


@pytest.mark.parametrize("ends_by", ["delivery", "deletion"])
async def test_a_delivery_that_an_earlier_version_has_created_is_not_subtracted(bench: Bench, ends_by: str) -> None:
    outbox = await bench.outbox()
    await bench.finish("old", webhook=True)
    await bench.probe.ask("HDEL", bench.keys.delivery("old"), "counted")
    await bench.probe.ask("HINCRBY", bench.keys.counts, "deliveries", -1)
    (entry,) = await outbox.read(10, block_ms=1)
    await outbox.open(entry)
    await bench.finish("new", webhook=True)
    if ends_by == "delivery":
        assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    else:
        await bench.store.tasks.delete(bench.endpoint_id, "old")
    assert (await _usage(bench)).waiting_deliveries == 1


async def test_workers_of_deleted_endpoints_are_not_wanted_and_those_of_stopped_ones_are(
    store: Store, probe: Probe
) -> None:
    stopped = await store.endpoints.create(TENANT, config(workers=3))
    deleted = await store.endpoints.create(TENANT, config(workers=5))
    await store.endpoints.set_desired_state(stopped.endpoint_id, TENANT, DesiredState.STOPPED)
    await store.endpoints.set_desired_state(deleted.endpoint_id, TENANT, DesiredState.DELETED)
    assert (await store.usage.of(TENANT)).workers == 3


async def test_all_endpoints_of_a_tenant_count_and_no_others(store: Store, probe: Probe) -> None:
    count = PAGE_SIZE + 3
    own = [(await store.endpoints.create(TENANT, config(workers=2))).endpoint_id for _ in range(count)]
    other = await store.endpoints.create("other", config(workers=50))
    for endpoint_id in (own[0], own[-1]):
        await Bench(store, endpoint_id, probe).submit("t")
    await store.endpoints.index.note(TENANT, other.endpoint_id, "other")  # as an interrupted creation may leave it
    usage = await store.usage.of(TENANT)
    assert (usage.workers, usage.waiting_tasks) == (2 * count, 2)


async def test_the_memory_limit_of_the_store_is_read(store: Store, probe: Probe) -> None:
    assert await store.max_memory() == 0
    await probe.ask("CONFIG", "SET", "maxmemory", 123_000_000)
    try:
        assert await store.max_memory() == 123_000_000
    finally:
        await probe.ask("CONFIG", "SET", "maxmemory", 0)


async def test_the_limit_of_connections_is_read(store: Store, probe: Probe) -> None:
    configured = (await probe.redis.config_get("maxclients"))["maxclients"]
    assert await store.max_clients() == int(configured)


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_spec_that_is_sealed_again_with_another_length_changes_no_bytes_of_others(
    bench: Bench, has_ended: bool
) -> None:
    await bench.submit("other")
    before = await _bytes(bench)
    await bench.submit("t1")
    if has_ended:
        await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    length = int((await bench.probe.hash(bench.keys.task("t1")))["spec"])
    old = (await bench.probe.ask("GET", bench.keys.body("t1")))[:length]
    new = old.replace(b"/run", b"/a-longer-path")
    assert (await bench.store.scripts.reseal_spec(bench.keys.of_task("t1"), before=old, after=new)).word == "OK"
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.store.tasks.delete(bench.endpoint_id, "t1")
    assert await _bytes(bench) == before
