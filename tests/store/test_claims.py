"""The agent's calls: an attempt begins once, is kept by heartbeats, and ends once."""

import asyncio
from collections.abc import Awaitable

import pytest
from redis.exceptions import ResponseError

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal, Settled
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import (
    AttemptOutcome,
    DeliveryStatus,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TaskState,
    TaskStatus,
    TryAgain,
)
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.store import Store
from tests.store.bench import LONG_LEASE_MS, TENANT, Bench, spec
from tests.waiting import wait_until_async


async def test_a_start_gives_the_attempt_all_it_needs(bench: Bench) -> None:
    await bench.submit("t1", input=b"[1]")
    started = await bench.start(bench.agent("a1"), address="10.1.2.3:9000")

    task = bench.agent().open(started)
    assert (task.lease.endpoint_id, task.lease.task_id) == (bench.endpoint_id, "t1")
    assert (started.attempt, started.lost, started.max_attempts) == (1, 0, 5)
    assert (task.attempt, task.timeout_seconds) == (1, 3600.0)
    assert (task.input, task.number) == (b"[1]", (await bench.task("t1")).number)
    assert started.queued_at_ms <= started.started_at_ms
    recorded = await bench.task("t1")
    assert (recorded.state, recorded.attempts) == (TaskState.RUNNING, 1)
    assert (recorded.worker_id, recorded.worker_url) == ("a1", "http://10.1.2.3:9000/run")
    assert recorded.started_at_ms == started.started_at_ms


async def test_a_start_holds_the_task_for_one_lease(bench: Bench) -> None:
    started = await bench.submit_and_start("t1", bench.agent(lease_ms=7_000))
    leases = await bench.probe.scores(bench.partition.leases)
    assert leases == {bench.member("t1"): started.started_at_ms + 7_000}


async def test_a_second_start_of_the_same_entry_is_stale(bench: Bench) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    await bench.submit("t1")
    (entry,) = await first.claim(1, block_ms=1)
    (same,) = await second.claim_abandoned(10, idle_ms=0)
    assert await first.start(entry, address="x:1") is not None
    assert await second.start(same, address="y:1") is None
    task = await bench.task("t1")
    assert (task.worker_id, task.attempts) == ("a1", 1)


async def test_of_many_starts_at_once_one_begins(bench: Bench) -> None:
    await bench.submit("t1")
    (entry,) = await bench.agent().claim(1, block_ms=1)
    copies = [Entry(entry.stream, entry.entry_id, entry.task_id) for _ in range(20)]
    agents = [bench.agent(f"a{number}") for number in range(20)]
    starts = await asyncio.gather(*(one.start(copy, address="x:1") for one, copy in zip(agents, copies, strict=True)))
    assert sum(start is not None for start in starts) == 1
    assert (await bench.task("t1")).attempts == 1


async def test_an_entry_of_an_attempt_before_starts_nothing(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    assert await agent.start(entry, address="x:1") is not None
    await bench.lose("t1")
    copy = Entry(entry.stream, entry.entry_id, entry.task_id)
    assert await agent.start(copy, address="x:1") is None
    assert (await bench.task("t1")).state is TaskState.QUEUED


async def test_a_start_repeated_after_a_lost_reply_is_the_same_attempt(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    first = await agent.start(entry, address="x:1")
    assert first is not None
    assert await agent.start(entry, address="x:1") == first
    assert (await bench.task("t1")).attempts == 1


async def test_an_entry_without_a_task_starts_nothing_and_goes(bench: Bench) -> None:
    await bench.probe.ask("XADD", bench.keys.queue, "*", "t", "nobody")
    await bench.probe.ask("RPUSH", bench.keys.bell, "1")
    (entry,) = await bench.agent().claim(10, block_ms=1)
    assert await bench.agent().start(entry, address="x:1") is None
    assert await bench.probe.stream(bench.keys.queue) == {}


@pytest.mark.parametrize("garbage", [("x", "y"), ("t", b"\xff\xfe"), ("t", "a:b"), ("t", "")])
async def test_invalid_queue_entries_are_removed_and_block_no_agent(
    bench: Bench, garbage: tuple[str, str | bytes]
) -> None:
    agent = bench.agent()
    await bench.probe.ask("XADD", bench.keys.queue, "*", *garbage)
    await bench.submit("t1")
    entries = await agent.claim(10, block_ms=1)
    starts = [await agent.start(entry, address="x:1") for entry in entries]
    assert [one.lease.task_id for one in starts if one] == ["t1"]
    assert await bench.probe.stream(bench.keys.queue) == {}


@pytest.mark.parametrize("garbage", [("x", "y"), ("t", b"\xff\xfe")])
async def test_invalid_entries_of_a_dead_agent_block_no_other_agent(
    bench: Bench, garbage: tuple[str, str | bytes]
) -> None:
    await bench.probe.ask("XADD", bench.keys.queue, "*", *garbage)
    await bench.submit("t1")
    await bench.agent("dead").claim(10, block_ms=1)
    heir = bench.agent("heir")
    starts = [await heir.start(entry, address="x:1") for entry in await heir.claim_abandoned(10, idle_ms=0)]
    assert [one.lease.task_id for one in starts if one] == ["t1"]
    assert await bench.probe.pending(bench.keys.queue, "agents") == {}


# Attempts that begin and end together


async def test_attempts_that_begin_and_end_at_once_share_a_script_call(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(30):
        await bench.submit(f"t{number}", input=b"[%d]" % number, spec=spec(webhook=number % 2 == 0))
    entries = await agent.claim(30, block_ms=1)
    before = await calls_of_scripts(bench)
    started = await asyncio.gather(*(agent.start(entry, address="x:1") for entry in entries))
    settled = await asyncio.gather(*(agent.settle(one.lease, Succeeded(b"1")) for one in started if one is not None))
    assert await calls_of_scripts(bench) - before <= 4  # each may have to be loaded first
    assert [one.input for one in started if one is not None] == [b"[%d]" % number for number in range(30)]
    assert {one.word for one in settled} == {"OK"}
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert (counts.queued, counts.running, counts.success) == (0, 0, 30)
    assert len(await bench.probe.stream(bench.partition.outbox)) == 15


async def test_attempts_that_begin_and_end_together_have_results_of_their_own(bench: Bench) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    for task_id in ("fenced", "gone", "twice", "fine"):
        await bench.submit(task_id)
    entries = await first.claim(4, block_ms=1)
    started = await asyncio.gather(*(first.start(entry, address="x:1") for entry in (*entries, entries[0])))
    leases = [one.lease for one in started if one is not None]
    assert [lease.task_id for lease in leases] == ["fenced", "gone", "twice", "fine", "fenced"]
    await bench.lose("fenced")
    await bench.start(second)
    assert (await first.settle(leases[1], Succeeded(b"1"))).word == "OK"
    await bench.purge()
    assert (await first.settle(leases[2], Succeeded(b"1"))).word == "OK"

    settled = await asyncio.gather(*(first.settle(lease, Succeeded(b"2")) for lease in leases[:4]))

    assert [one.word for one in settled] == ["FENCED", "GONE", "ALREADY", "OK"]
    assert [bool(one.created_at_ms) for one in settled] == [False, False, False, True]
    assert (await bench.task("twice")).output == b"1"


async def test_large_inputs_are_not_returned_together(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(5):
        await bench.submit(f"t{number}", input=b'"%s"' % (b"%d" % number * 700_000))
    entries = await agent.claim(5, block_ms=1)
    started = await asyncio.gather(*(agent.start(entry, address="x:1") for entry in entries))
    assert [bytes(one.input[1:2]) for one in started if one is not None] == [b"0", b"1", b"2", b"3", b"4"]
    assert (await bench.store.tasks.counts(bench.endpoint_id)).running == 5


@pytest.mark.parametrize("step", ["start", "settle"])
async def test_a_task_that_cannot_be_read_fails_alone(bench: Bench, step: str) -> None:
    agent = bench.agent()
    for task_id in ("t1", "broken", "t2"):
        await bench.submit(task_id)
    entries = await agent.claim(3, block_ms=1)
    leases = [Lease(bench.endpoint_id, entry.task_id, entry.token) for entry in entries]
    key = bench.keys.task("broken")
    if step == "settle":
        await asyncio.gather(*(agent.start(entry, address="x:1") for entry in entries))
    await bench.probe.ask("RENAME", key, f"{key}:kept")
    await bench.probe.ask("SET", key, "no hash")
    calls: list[Awaitable[object]] = [
        agent.start(entry, address="x:1") if step == "start" else agent.settle(lease, Succeeded(b"1"))
        for entry, lease in zip(entries, leases, strict=True)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, Started | Settled) for one in results] == [True, False, True]
    assert isinstance(results[1], ResponseError)
    await bench.probe.ask("RENAME", f"{key}:kept", key)
    if step == "start":
        await agent.start(entries[1], address="x:1")


# Heartbeats


async def test_a_heartbeat_renews_every_lease(bench: Bench) -> None:
    agent = bench.agent()
    leases = [(await bench.submit_and_start(task_id, agent)).lease for task_id in ("t1", "t2", "t3")]
    for task_id in ("t1", "t2"):
        await bench.run_out(task_id)

    assert await agent.renew(leases) == [Renewal.OK] * 3

    now = await bench.probe.now_ms()
    ends = (await bench.probe.scores(bench.partition.leases)).values()
    assert all(now < end <= now + LONG_LEASE_MS for end in ends)
    assert (await bench.sweep()).requeued == 0


async def test_no_leases_are_renewed_by_an_empty_heartbeat(bench: Bench) -> None:
    assert await bench.agent().renew([]) == []


async def test_an_attempt_whose_task_another_has_started_is_fenced(bench: Bench) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    lost = await bench.submit_and_start("t1", first)
    await bench.lose("t1")
    held = await bench.start(second)

    assert await first.renew([lost.lease]) == [Renewal.FENCED]
    assert await second.renew([held.lease]) == [Renewal.OK]


async def test_the_task_of_an_unknown_lease_does_not_exist(bench: Bench) -> None:
    lease = Lease(bench.endpoint_id, "nobody", "0" * 32)
    assert await bench.agent().renew([lease]) == [Renewal.GONE]
    assert await bench.probe.scores(bench.partition.leases) == {}


async def test_a_heartbeat_returns_a_result_for_each_task(bench: Bench) -> None:
    agent, other = bench.agent("a1"), bench.agent("a2")
    fine = await bench.submit_and_start("t1", agent)
    fenced = await bench.submit_and_start("t2", agent)
    await bench.lose("t2")
    await bench.start(other)
    back = await bench.submit_and_start("t3", agent)
    await bench.lose("t3")
    gone = Lease(bench.endpoint_id, "nobody", "0" * 32)

    words = await agent.renew([fine.lease, fenced.lease, gone, back.lease])

    assert words == [Renewal.OK, Renewal.FENCED, Renewal.GONE, Renewal.READOPTED]


async def test_a_lost_task_that_no_agent_has_started_again_is_readopted(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    assert (await bench.task("t1")).lost == 1

    assert await agent.renew([started.lease]) == [Renewal.READOPTED]

    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.RUNNING, 1, 0)
    assert await bench.probe.stream(bench.keys.retry_queue) == {}
    assert await agent.renew([started.lease]) == [Renewal.OK]


async def test_an_entry_that_was_read_before_a_readoption_starts_nothing(bench: Bench) -> None:
    agent, other = bench.agent("a1"), bench.agent("a2")
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    (entry,) = await other.claim(1, block_ms=1)
    assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    assert await other.start(entry, address="x:1") is None
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"


async def test_a_readoption_reaches_an_entry_that_was_put_back(bench: Bench) -> None:
    agent, other = bench.agent("a1"), bench.agent("a2")
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    (entry,) = await other.claim(1, block_ms=1)
    await other.put_back(entry)
    assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    assert await other.claim(1, block_ms=1) == []


async def test_only_the_attempt_that_lost_the_task_readopts_it(bench: Bench) -> None:
    agent, other = bench.agent("a1"), bench.agent("a2")
    first = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    second = await bench.start(other)
    await bench.lose("t1")
    assert await agent.renew([first.lease]) == [Renewal.FENCED]
    assert await other.renew([second.lease]) == [Renewal.READOPTED]


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), TryAgain("busy", 60.0)])
async def test_a_heartbeat_after_the_end_of_an_attempt_is_fenced(bench: Bench, outcome: Outcome) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, outcome)
    before = await bench.task("t1")
    assert await agent.renew([started.lease]) == [Renewal.FENCED]
    assert await bench.task("t1") == before


# Attempts that begin ahead of a free slot


async def test_an_attempt_whose_call_had_not_begun_costs_nothing_when_its_worker_is_lost(bench: Bench) -> None:
    agent = bench.agent()
    for _ in range(3):
        await bench.submit("t1", queue_ttl_seconds=60)
        await begin_ahead(bench, agent)
        assert (await bench.lose("t1", max_lost=0)).requeued == 1
        task = await bench.task("t1")
        assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 0, 0)
        assert list(await bench.probe.scores(bench.partition.deadlines)) == [bench.member("t1")]
    assert await bench.store.tasks.attempts(bench.endpoint_id, "t1") == []
    started = await bench.start(agent)
    assert (started.attempt, started.lost, started.is_first) == (1, 0, True)
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    history = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert history is not None
    assert [(one.number, one.outcome) for one in history] == [(1, AttemptOutcome.OK)]


async def test_an_attempt_whose_call_has_begun_counts_as_lost(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    started = await begin_ahead(bench, agent)
    assert await agent.renew([started.lease], begun=1) == [Renewal.OK]
    await bench.lose("t1")
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 1, 1)


async def test_a_renewal_of_an_attempt_that_waits_does_not_make_it_count(bench: Bench) -> None:
    agent = bench.agent()
    for task_id in ("t1", "t2"):
        await bench.submit(task_id)
    called, waiting = await begin_ahead(bench, agent), await begin_ahead(bench, agent)
    assert await agent.renew([called.lease, waiting.lease], begun=1) == [Renewal.OK] * 2
    for task_id in ("t1", "t2"):
        await bench.run_out(task_id)
    await bench.sweep()
    assert [(await bench.task(task_id)).lost for task_id in ("t1", "t2")] == [1, 0]


async def test_a_task_is_spared_a_limited_number_of_times(bench: Bench) -> None:
    """A task may kill its worker in the moment before the engine learns of the call."""
    agent = bench.agent()
    await bench.submit("t1")
    for _ in range(4):
        await begin_ahead(bench, agent)
        await bench.lose("t1", max_lost=0)
    task = await bench.task("t1")
    assert (task.state, task.lost) == (TaskState.DEAD, 1)


@pytest.mark.parametrize("left_by", ["release", "loss"])
async def test_the_mark_of_an_attempt_does_not_spare_a_later_one(bench: Bench, left_by: str) -> None:
    """An agent of an earlier version leaves the mark where it is when it begins the next attempt."""
    agent, key = bench.agent(), bench.keys.task("t1")
    await bench.submit("t1")
    started = await begin_ahead(bench, agent)
    mark = await bench.probe.ask("HGET", key, "ahead")
    if left_by == "release":
        assert await agent.release(started.lease) == "OK"
    else:
        await bench.lose("t1", max_lost=0)
    await bench.start(agent)
    await bench.probe.ask("HSET", key, "ahead", mark)
    await bench.lose("t1", max_lost=0)
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.DEAD, 1, 1)


@pytest.mark.parametrize("back_by", ["renewal", "success", "retry"])
async def test_an_attempt_that_was_spared_is_readopted_by_its_agent(bench: Bench, back_by: str) -> None:
    agent = bench.agent()
    await bench.submit("t1", queue_ttl_seconds=60)
    started = await begin_ahead(bench, agent)
    await bench.lose("t1")
    if back_by == "renewal":
        assert await agent.renew([started.lease], begun=1) == [Renewal.READOPTED]
    elif back_by == "success":
        assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    else:
        assert (await bench.settle(agent, started, TryAgain("busy", 60.0))).word == "OK"
    task = await bench.task("t1")
    assert (task.attempts, task.lost) == (1, 0)
    waits = back_by == "retry"
    assert list(await bench.probe.scores(bench.partition.deadlines)) == [bench.member("t1")] * waits


async def test_a_cancelled_task_whose_call_had_not_begun_ends_without_an_attempt(bench: Bench) -> None:
    await bench.submit("t1")
    await begin_ahead(bench, bench.agent())
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.lose("t1")
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.CANCELLED, 0, 0)
    assert await bench.store.tasks.attempts(bench.endpoint_id, "t1") == []


async def test_a_spared_task_that_ends_while_it_waits_has_no_attempt(bench: Bench) -> None:
    await bench.submit("t1")
    await begin_ahead(bench, bench.agent())
    await bench.lose("t1")
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert (await bench.task("t1")).state is TaskState.CANCELLED
    assert await bench.store.tasks.attempts(bench.endpoint_id, "t1") == []


# Ends


async def test_a_success_records_the_output_to_the_byte(bench: Bench) -> None:
    task = await bench.finish("t1", outcome=Succeeded(b'{"x": 1e999,  "x":0.10}'))
    assert (task.state, task.status) == (TaskState.SUCCEEDED, TaskStatus.SUCCESS)
    assert (task.output, task.error) == (b'{"x": 1e999,  "x":0.10}', None)
    assert (task.delivery_status, task.delivery_attempts) == (DeliveryStatus.INIT, 0)
    assert task.finished_at_ms == task.updated_at_ms
    assert task.finished_at_ms is not None
    assert task.started_at_ms is not None
    assert task.finished_at_ms >= task.started_at_ms


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.TIMED_OUT])
async def test_a_failure_records_its_reason(bench: Bench, state: TaskState) -> None:
    task = await bench.finish("t1", outcome=Failed("the container answered 500: \ufffd", state))
    assert (task.state, task.status) == (state, TaskStatus.FAILED)
    assert (task.output, task.error) == (None, "the container answered 500: \ufffd")


async def test_an_error_with_invalid_text_is_recorded(bench: Bench) -> None:
    assert (await bench.finish("t1", outcome=Failed("bad \ud800 text"))).error == "bad ? text"


async def test_the_end_tells_the_times_of_the_task(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    settled = await bench.settle(agent, started, Succeeded(b"1"))
    task = await bench.task("t1")
    assert (settled.created_at_ms, settled.started_at_ms) == (started.queued_at_ms, started.started_at_ms)
    assert settled.now_ms == task.finished_at_ms


async def test_an_end_that_is_repeated_changes_nothing(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True))
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    before = await bench.probe.dump()

    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "ALREADY"
    assert (await bench.settle(agent, started, Failed("too late"))).word == "ALREADY"

    assert await bench.probe.dump() == before


async def test_the_result_of_an_attempt_is_refused_once_another_has_begun(bench: Bench) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    lost = await bench.submit_and_start("t1", first)
    await bench.lose("t1")
    held = await bench.start(second)
    assert held.attempt == 2
    assert held.lost == 1
    for outcome in (Succeeded(b'"old"'), Failed("old"), TryAgain("old", 1.0)):
        assert (await bench.settle(first, lost, outcome)).word == "FENCED"
    assert await first.release(lost.lease) == "FENCED"

    assert (await bench.settle(second, held, Succeeded(b'"new"'))).word == "OK"

    assert (await bench.settle(first, lost, Succeeded(b'"old"'))).word == "FENCED"
    assert (await bench.task("t1")).output == b'"new"'


async def test_a_result_is_accepted_when_the_lease_has_expired_before_the_sweep(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.run_out("t1")
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    assert (await bench.sweep()).work == 0


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Succeeded(b"1"), "succeeded"), (Failed("no"), "failed"), (TryAgain("busy", 60), "scheduled")],
)
async def test_a_result_is_accepted_when_the_task_was_requeued_and_not_started(
    bench: Bench, outcome: Outcome, state: str
) -> None:
    agent, other = bench.agent("a1"), bench.agent("a2")
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True))
    await bench.lose("t1")
    (entry,) = await other.claim(1, block_ms=1)

    assert (await bench.settle(agent, started, outcome)).word == "OK"

    assert await other.start(entry, address="x:1") is None
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (state, 1, 0)
    assert (await bench.settle(agent, started, outcome)).word == "ALREADY"


async def test_the_result_of_a_removed_task_is_refused(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    await bench.purge()
    keys = await bench.probe.keys()
    for outcome in (Succeeded(b"1"), TryAgain("busy", 1.0)):
        assert (await bench.settle(agent, started, outcome)).word == "GONE"
    assert await agent.release(started.lease) == "GONE"
    assert await bench.probe.keys() == keys


async def test_an_end_with_a_webhook_puts_one_delivery_into_the_outbox(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    await bench.finish("t2", webhook=False)
    entries = await bench.probe.stream(bench.partition.outbox)
    assert [fields["d"] for fields in entries.values()] == [f"t:{bench.endpoint_id}:t1"]
    assert [fields["h"] for fields in entries.values()] == ["https://hooks.example:443"]


# Retries and releases


async def test_a_task_that_is_put_off_waits_for_its_time(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    assert (await bench.settle(agent, started, TryAgain("busy", 60.0))).word == "OK"

    task = await bench.task("t1")
    assert (task.state, task.status, task.attempts) == (TaskState.SCHEDULED, TaskStatus.PROCESSING, 1)
    assert await bench.probe.scores(bench.partition.due) == {bench.member("t1"): task.updated_at_ms + 60_000}
    assert (await bench.sweep()).work == 0
    assert await agent.claim(1, block_ms=1) == []


async def test_a_task_whose_wait_is_over_is_started_again(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 60.0))
    await bench.make_due("t1")
    assert (await bench.sweep()).promoted == 1
    assert (await bench.sweep()).promoted == 0

    second = await bench.start(agent)

    assert (second.attempt, second.lost) == (2, 0)
    assert second.lease.token != started.lease.token
    assert (await bench.settle(agent, started, Succeeded(b'"old"'))).word == "FENCED"


async def test_a_repeated_retry_changes_nothing(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 60.0))
    before = await bench.probe.dump()
    assert (await bench.settle(agent, started, TryAgain("busy", 60.0))).word == "ALREADY"
    assert await bench.probe.dump() == before

    await bench.make_due("t1")
    await bench.sweep()
    assert (await bench.settle(agent, started, TryAgain("busy", 60.0))).word == "ALREADY"
    assert (await bench.task("t1")).state is TaskState.QUEUED


async def test_tasks_that_come_back_are_read_before_new_ones(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("old", agent)
    await bench.submit("new")
    await agent.release(started.lease)
    assert [entry.task_id for entry in await agent.claim(2, block_ms=1)] == ["old", "new"]


async def test_a_release_costs_no_budget(bench: Bench) -> None:
    agent = bench.agent()
    for _ in range(3):
        await bench.submit("t1")
        started = await bench.start(agent)
        assert (started.attempt, started.lost) == (1, 0)
        assert await agent.release(started.lease) == "OK"
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 0, 0)


async def test_a_release_before_the_call_leaves_no_trace_in_the_history(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    started = await bench.start(agent)
    assert await agent.release(started.lease, called=False) == "OK"
    assert await agent.release(started.lease, called=False) == "ALREADY"
    history = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert history is not None
    assert [(one.number, one.outcome) for one in history] == [(1, AttemptOutcome.LOST)]
    again = await bench.start(agent)
    assert (again.attempt, again.lost) == (2, 1)
    history = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert history is not None
    assert [(one.number, one.outcome) for one in history] == [(1, AttemptOutcome.LOST), (2, AttemptOutcome.RUNNING)]


async def test_a_release_that_is_repeated_changes_nothing(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await agent.release(started.lease)
    before = await bench.probe.dump()
    assert await agent.release(started.lease) == "ALREADY"
    assert await bench.probe.dump() == before


async def test_a_released_task_cannot_be_ended_or_readopted_by_who_released_it(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await agent.release(started.lease)
    assert await agent.renew([started.lease]) == [Renewal.FENCED]
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "FENCED"
    assert (await bench.task("t1")).state is TaskState.QUEUED


async def test_a_fenced_attempt_stays_fenced_when_its_successor_hands_the_task_back(
    bench: Bench,
) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    lost = await bench.submit_and_start("t1", first)
    await bench.lose("t1")
    held = await bench.start(second)
    await second.release(held.lease)
    assert await first.renew([lost.lease]) == [Renewal.FENCED]
    assert (await bench.settle(first, lost, Succeeded(b"1"))).word == "FENCED"
    assert (await bench.task("t1")).state is TaskState.QUEUED


async def test_a_release_after_the_lease_was_lost_leaves_the_task_in_the_queue(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    assert await agent.release(started.lease) == "FENCED"
    assert (await bench.start(agent)).attempt == 2


async def test_an_entry_that_is_put_back_is_read_by_another(bench: Bench) -> None:
    first, second = bench.agent("a1"), bench.agent("a2")
    await bench.submit("t1")
    (entry,) = await first.claim(1, block_ms=1)
    await first.put_back(entry)
    await first.put_back(entry)  # as after a lost reply
    (back,) = await second.claim(10, block_ms=1)
    assert back.task_id == "t1"
    started = await second.start(back, address="x:1")
    assert started is not None
    assert started.attempt == 1


async def test_putting_back_an_entry_of_a_task_that_has_started_does_nothing(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.start(entry, address="x:1")
    await agent.put_back(entry)
    assert (await bench.task("t1")).state is TaskState.RUNNING
    assert await agent.claim(1, block_ms=1) == []


async def test_an_entry_is_not_confused_with_one_of_the_same_id_in_the_other_queue(bench: Bench) -> None:
    """An entry that is put back in the millisecond of its task's submission gets the same id in the other queue."""
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    await bench.probe.ask("XACK", bench.keys.queue, "agents", entry.entry_id)
    await bench.probe.ask("XDEL", bench.keys.queue, entry.entry_id)
    await bench.probe.ask("XADD", bench.keys.retry_queue, entry.entry_id, "t", "t1")

    await agent.put_back(entry)
    assert await agent.start(entry, address="x:1") is None

    assert len(await bench.probe.stream(bench.keys.retry_queue)) == 1
    assert (await bench.start(agent)).attempt == 1


# Claims, and entries of dead agents


async def test_each_entry_is_read_by_one_agent(bench: Bench) -> None:
    for number in range(10):
        await bench.submit(f"t{number}")
    agents = [bench.agent(f"a{number}") for number in range(5)]
    reads = await asyncio.gather(*(agent.claim(2, block_ms=1) for agent in agents))
    assert sorted(entry.task_id for entries in reads for entry in entries) == [f"t{number}" for number in range(10)]


async def test_claims_while_many_tasks_wait_get_as_many_as_asked_for_in_order(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(9):
        await bench.submit(f"t{number}")
    claimed: list[str] = []
    for size in (2, 2, 3, 3):  # the first comes after a bell, the others at once
        entries = await agent.claim(size, block_ms=1)
        claimed += [entry.task_id for entry in entries]
        assert len(entries) == min(size, 9 - (len(claimed) - len(entries)))
    assert claimed == [f"t{number}" for number in range(9)]
    assert await agent.claim(3, block_ms=1) == []


async def test_a_claim_while_many_tasks_wait_takes_retried_tasks_first(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(6):
        await bench.submit(f"t{number}")
    first, second = await agent.claim(2, block_ms=1)
    await agent.put_back(first)
    await agent.put_back(second)
    assert [entry.task_id for entry in await agent.claim(3, block_ms=1)] == ["t0", "t1", "t2"]
    assert {entry.stream for entry in await agent.unstarted()} == {bench.keys.queue, bench.keys.retry_queue}


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_neither_queue_waits_for_the_other_to_be_empty(bench: Bench, size: int) -> None:
    agent = bench.agent()
    for number in range(20):
        await bench.submit(f"retried-{number}")
    for entry in await agent.claim(20, block_ms=1):
        await agent.put_back(entry)
    for number in range(20):
        await bench.submit(f"new-{number}")

    claimed = [entry.task_id for _ in range(12 // size) for entry in await agent.claim(size, block_ms=1)]

    assert claimed[0] == "retried-0"
    retried = [task_id for task_id in claimed if task_id.startswith("retried")]
    new = [task_id for task_id in claimed if task_id.startswith("new")]
    assert retried == [f"retried-{number}" for number in range(6)]
    assert new == [f"new-{number}" for number in range(6)]


@pytest.mark.parametrize(("retried", "new"), [(1, 9), (9, 1), (0, 9), (9, 0)])
async def test_a_queue_leaves_places_that_it_cannot_fill_to_the_other_one(bench: Bench, retried: int, new: int) -> None:
    agent = bench.agent()
    for number in range(max(retried, 1)):
        await bench.submit(f"retried-{number}")
    entries = await agent.claim(max(retried, 1), block_ms=1)
    for entry in entries[:retried]:
        await agent.put_back(entry)
    for number in range(new):
        await bench.submit(f"new-{number}")
    for _ in range(2):  # the turns of both queues
        assert len(await agent.claim(4, block_ms=1)) == 4


async def test_a_queue_without_its_group_costs_the_entries_of_the_other_one_no_time(bench: Bench) -> None:
    agent = bench.agent()
    for task_id in ("t1", "t2"):
        await bench.submit(task_id)
    for entry in await agent.claim(2, block_ms=1):
        await agent.put_back(entry)
    await bench.probe.ask("XGROUP", "DESTROY", bench.keys.queue, "agents")

    claimed = await agent.claim(1, block_ms=1) or await agent.claim(1, block_ms=1)

    assert [entry.task_id for entry in claimed] == ["t1"]
    assert [entry.task_id for entry in await agent.unstarted()] == ["t1"]


async def test_a_claim_returns_what_a_cancelled_claim_has_claimed(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(5):
        await bench.submit(f"t{number}")
    assert len(await agent.claim(1, block_ms=1)) == 1
    cancelled = asyncio.create_task(agent.claim(2, block_ms=1))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    assert cancelled.cancelled()
    assert [entry.task_id for entry in await agent.claim(2, block_ms=1)] == ["t1", "t2"]


async def test_a_read_back_has_the_entries_of_a_cancelled_claim_that_the_store_executes_later(
    store: Store, bench: Bench, sealer: Sealer
) -> None:
    slow = Store(store.url, sealer, partitions=store.partitions.count, max_connections=1)
    agent = slow.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=LONG_LEASE_MS)
    try:
        for task_id in ("t1", "t2"):
            await bench.submit(task_id)
        assert len(await agent.claim(1, block_ms=1)) == 1
        connection = await slow.redis.connection_pool.get_connection()  # the only one of the scripts
        claiming = asyncio.create_task(agent.claim(1, block_ms=1))
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait({claiming})
        reading = asyncio.create_task(agent.unstarted())
        await asyncio.wait({reading}, timeout=0.2)
        assert not reading.done()
        await slow.redis.connection_pool.release(connection)
        assert [entry.task_id for entry in await reading] == ["t1", "t2"]
    finally:
        await slow.close()


async def test_a_claim_after_the_queue_is_empty_waits_for_a_task(bench: Bench) -> None:
    async def is_blocked() -> bool:
        return int((await bench.probe.redis.info("clients"))["blocked_clients"]) == 1

    agent = bench.agent()
    await bench.submit("t1")
    assert len(await agent.claim(1, block_ms=1)) == 1
    reading = asyncio.create_task(agent.claim(1, block_ms=5_000))
    await wait_until_async(is_blocked)
    await bench.submit("t2")
    assert [entry.task_id for entry in await asyncio.wait_for(reading, 4)] == ["t2"]


async def test_a_blocked_read_ends_when_a_task_comes(bench: Bench) -> None:
    async def is_blocked() -> bool:
        return int((await bench.probe.redis.info("clients"))["blocked_clients"]) == 1

    reading = asyncio.create_task(bench.agent().claim(1, block_ms=5_000))
    await wait_until_async(is_blocked)
    await bench.submit("t1")
    assert [entry.task_id for entry in await asyncio.wait_for(reading, 4)] == ["t1"]


async def test_entries_of_a_dead_agent_are_claimed_by_another(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.agent("dead").claim(1, block_ms=1)
    heir = bench.agent("heir")
    assert await heir.claim(1, block_ms=1) == []
    (entry,) = await heir.claim_abandoned(10, idle_ms=0)
    assert await heir.start(entry, address="x:1") is not None


async def test_entries_of_a_living_agent_are_not_claimed_by_another(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.agent("living").claim(1, block_ms=1)
    assert await bench.agent("heir").claim_abandoned(10, idle_ms=60_000) == []


async def test_claiming_abandoned_entries_reaches_entries_behind_those_of_living_agents(bench: Bench) -> None:
    for number in range(60):
        await bench.submit(f"t{number}")
    living, dead, heir = bench.agent("living"), bench.agent("dead"), bench.agent("heir")
    await living.claim(50, block_ms=1)
    left_behind = await dead.claim(10, block_ms=1)
    await _age(bench, "dead", [entry.entry_id for entry in left_behind])

    taken: list[Entry] = []
    for _ in range(20):
        taken += await heir.claim_abandoned(1, idle_ms=60_000)

    assert {entry.task_id for entry in taken} == {entry.task_id for entry in left_behind}


async def test_one_look_reaches_entries_behind_those_of_living_agents(bench: Bench) -> None:
    for number in range(41):
        await bench.submit(f"t{number}")
    living, dead, heir = bench.agent("living"), bench.agent("dead"), bench.agent("heir")
    await living.claim(40, block_ms=1)
    (left_behind,) = await dead.claim(1, block_ms=1)
    await _age(bench, "dead", [left_behind.entry_id])
    assert await heir.claim_abandoned(1, idle_ms=60_000) == [left_behind]


async def test_an_agent_does_not_search_for_abandoned_entries_while_none_can_be(bench: Bench) -> None:
    async def calls() -> int:
        stats = await bench.probe.redis.info("commandstats")
        return int(sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "xautoclaim")))

    agent = bench.agent("heir")
    await agent.claim_abandoned(10, idle_ms=3_600_000)  # loads the script
    before = await calls()
    for _ in range(10):
        assert await agent.claim_abandoned(10, idle_ms=3_600_000) == []
    assert await calls() == before


async def test_an_entry_that_is_abandoned_after_a_search_found_none_is_claimed_in_time(bench: Bench) -> None:
    heir = bench.agent("heir")
    assert await heir.claim_abandoned(10, idle_ms=50) == []
    await bench.submit("t1")
    await bench.agent("dead").claim(1, block_ms=1)

    async def is_found() -> bool:
        return [entry.task_id for entry in await heir.claim_abandoned(10, idle_ms=50)] == ["t1"]

    await wait_until_async(is_found)


async def test_an_entry_taken_from_an_agent_that_lives_is_begun_once(bench: Bench) -> None:
    """The agent was only slow. The first agent to start gets the task, and the entry of the other agent is stale."""
    for task_id in ("t1", "t2"):
        await bench.submit(task_id)
    slow, heir = bench.agent("slow"), bench.agent("heir")
    read = await slow.claim(2, block_ms=1)
    taken = await heir.claim_abandoned(2, idle_ms=0)
    assert await slow.start(read[0], address="x:1") is not None
    assert await heir.start(taken[0], address="x:1") is None
    assert await heir.start(taken[1], address="x:1") is not None
    assert await slow.start(read[1], address="x:1") is None
    assert await slow.unstarted() == await heir.unstarted() == []
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert (counts.queued, counts.running) == (0, 2)


async def test_an_entry_put_back_after_it_was_taken_waits_once(bench: Bench) -> None:
    await bench.submit("t1")
    slow, heir = bench.agent("slow"), bench.agent("heir")
    (read,) = await slow.claim(1, block_ms=1)
    (taken,) = await heir.claim_abandoned(1, idle_ms=0)
    await slow.put_back(read)
    assert await heir.start(taken, address="x:1") is None
    (again,) = await heir.claim(1, block_ms=1)
    assert await heir.start(again, address="x:1") is not None


async def test_an_agent_finds_again_what_it_has_read_and_not_started(bench: Bench) -> None:
    agent = bench.agent("a1")
    for task_id in ("t1", "t2"):
        await bench.submit(task_id)
    entries = await agent.claim(2, block_ms=1)
    await agent.start(entries[0], address="x:1")
    assert [(entry.task_id, entry.entry_id) for entry in await agent.unstarted()] == [("t2", entries[1].entry_id)]
    assert await bench.agent("a2").unstarted() == []


@pytest.mark.parametrize("call", ["claim", "claim_abandoned"])
async def test_an_agent_makes_its_groups_when_the_store_came_back_without_them(bench: Bench, call: str) -> None:
    agent = bench.agent()
    await bench.probe.ask("DEL", bench.keys.queue, bench.keys.retry_queue)
    assert await agent.unstarted() == []
    assert await _call(agent, call) == []

    await bench.submit("t1")
    assert [entry.task_id for entry in await agent.claim(1, block_ms=1)] == ["t1"]


@pytest.mark.parametrize("call", ["claim", "claim_abandoned"])
async def test_an_agent_that_outlives_its_endpoint_leaves_no_queues(bench: Bench, call: str) -> None:
    agent = bench.agent()
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    bench.endpoint_ids.clear()
    assert await _call(agent, call) == []
    assert [name for name in await bench.probe.keys() if name.startswith(f"{bench.partition.tag}:q:")] == []


async def test_entries_from_before_the_groups_were_made_again_are_read(bench: Bench) -> None:
    for stream in (bench.keys.queue, bench.keys.retry_queue):
        await bench.probe.ask("XGROUP", "DESTROY", stream, "agents")
    await bench.submit("t1")
    assert [entry.task_id for entry in await bench.agent().claim(1, block_ms=1)] == ["t1"]


async def _call(agent: TaskQueue, name: str) -> list[Entry]:
    if name == "claim":
        return await agent.claim(1, block_ms=1)
    return await agent.claim_abandoned(1, idle_ms=0)


async def begin_ahead(bench: Bench, agent: TaskQueue) -> Started:
    """Claim a task and start its attempt while no slot is free."""
    (entry,) = await agent.claim(1, block_ms=1)
    started = await agent.start(entry, address="x:1", is_ahead=True)
    assert started is not None
    return started


async def calls_of_scripts(bench: Bench) -> int:
    stats = await bench.probe.redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def _age(bench: Bench, consumer: str, entry_ids: list[str]) -> None:
    """Pretend that `consumer` read these entries an hour ago."""
    await bench.probe.ask("XCLAIM", bench.keys.queue, "agents", consumer, 0, *entry_ids, "IDLE", 3_600_000)
