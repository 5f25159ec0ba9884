"""The ports of an agent, see `worker_agent/ports.py`: one suite for the store and the API."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal, StartedAttempt, Unreadable
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import (
    AttemptOutcome,
    ClaimedTask,
    Cost,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TaskState,
    TryAgain,
)
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreTaskSource
from tests.store.bench import Bench, spec
from tests.store.ways import LOG_SECONDS, Way, lossy_way_of, way_of, way_to_nothing
from worker_agent.ports import Claim, LogSink, TaskSource, WorkerRecord, until_available

ADDRESS = "127.0.0.1:9000"
LEASE = Lease("1", "t1", "0" * 32)
KINDS = ("store", "api")

Result = TypeVar("Result")


@pytest.fixture(params=KINDS)
async def way(request: pytest.FixtureRequest, bench: Bench) -> AsyncIterator[Way]:
    async with way_of(request.param, bench) as found:
        yield found


@pytest.fixture
def source(way: Way) -> TaskSource:
    return way.source()


async def claimed_by(source: TaskSource, count: int) -> list[Claim]:
    """Claim this number of tasks. A claim may return fewer than wait."""
    claims: list[Claim] = []
    while len(claims) < count:
        claims += await source.claim(count - len(claims))
    return claims


async def started_by(source: TaskSource) -> StartedAttempt:
    (claim,) = await source.claim(1)
    attempt = await claim.start(address=ADDRESS)
    assert attempt is not None
    return attempt


async def test_a_task_is_claimed_started_renewed_and_settled(bench: Bench, source: TaskSource) -> None:
    await bench.submit("t1", input=b'{"n": 12345678901234567890}', spec=spec(headers={"Authorization": "Bearer a"}))
    attempt = await started_by(source)
    assert isinstance(attempt.task, ClaimedTask)
    assert attempt.ids == {"endpoint": bench.endpoint_id, "task": "t1", "attempt": 1, "worker": "a1"}
    assert attempt.is_first
    assert not attempt.is_suspect
    task = attempt.task
    assert (bytes(task.input), task.spec.headers) == (b'{"n": 12345678901234567890}', {"Authorization": "Bearer a"})
    assert (task.spec.worker_port, task.spec.process_uri, task.lease) == (8000, "/run", attempt.lease)
    assert list(await source.renew([attempt.lease])) == [Renewal.OK]
    settled = await source.settle(attempt.lease, Succeeded(b"1"))
    assert settled.word == "OK"
    assert settled.created_at_ms == attempt.queued_at_ms
    found = await bench.task("t1")
    assert (found.state, found.output, found.worker_address) == (TaskState.SUCCEEDED, b"1", ADDRESS)


async def test_a_repeated_call_has_the_effect_of_one(bench: Bench, source: TaskSource) -> None:
    await bench.submit("t1")
    (claim,) = await source.claim(1)
    first, second = await claim.start(address=ADDRESS), await claim.start(address=ADDRESS)
    assert first is not None
    assert second is not None
    assert (first.lease, first.attempt) == (second.lease, second.attempt)
    assert [await source.release(first.lease, called=True) for _ in range(2)] == ["OK", "ALREADY"]
    again = await started_by(source)
    assert [(await source.settle(again.lease, Succeeded(b"1"))).word for _ in range(2)] == ["OK", "ALREADY"]


async def test_unstarted_claims_are_those_that_were_claimed_and_not_started(bench: Bench, source: TaskSource) -> None:
    await bench.submit("started")
    attempt = await started_by(source)
    await bench.submit("unstarted")
    assert len(await source.claim(1)) == 1
    (claim,) = await source.unstarted_claims()
    await claim.put_back()
    assert list(await source.unstarted_claims()) == []
    assert await source.release(attempt.lease, called=False) == "OK"
    assert (await bench.task("unstarted")).state is TaskState.QUEUED


async def test_a_claim_that_is_cancelled_keeps_no_task(bench: Bench, way: Way) -> None:
    source, other = way.source("a1"), way.source("a2")
    waiting = asyncio.create_task(source.claim(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await bench.submit("t1")
    for claim in await source.unstarted_claims():
        await claim.put_back()
    (claim,) = await claimed_by(other, 1)
    assert await claim.start(address=ADDRESS) is not None


async def test_a_claim_that_waits_gets_the_task_that_comes(bench: Bench, source: TaskSource) -> None:
    waiting = asyncio.create_task(source.claim(1))
    await asyncio.sleep(0)
    await bench.submit("t1")
    assert len(await waiting) == 1


async def test_many_attempts_are_started_and_settled_at_the_same_time(bench: Bench, source: TaskSource) -> None:
    """More than one batch, with inputs and outputs of all sizes."""
    count = 150
    sizes = [50] * (count - 3) + [70_000, 300_000, 1_000_000]
    for number, size in enumerate(sizes):
        await bench.submit(f"t{number}", input=b'"' + b"x" * size + b'"')
    claims = await claimed_by(source, count)
    started = await asyncio.gather(*(claim.start(address=ADDRESS) for claim in claims))
    tasks = [one.task for one in started if one is not None and isinstance(one.task, ClaimedTask)]
    assert sorted(len(task.input) - 2 for task in tasks) == sorted(sizes)
    settled = await asyncio.gather(*(source.settle(task.lease, Succeeded(bytes(task.input))) for task in tasks))
    assert {one.word for one in settled} == {"OK"}
    largest = await bench.task(f"t{count - 1}")
    assert largest.output == b'"' + b"x" * 1_000_000 + b'"'


@pytest.mark.parametrize(
    ("outcome", "word", "state", "error"),
    [
        (Failed("it is broken \ud800"), "OK", TaskState.FAILED, "it is broken ?"),
        (Failed("too slow", TaskState.TIMED_OUT), "OK", TaskState.TIMED_OUT, "too slow"),
        (TryAgain("once more", 3600.0), "OK", TaskState.SCHEDULED, "once more"),
        (TryAgain("busy", 3600.0, AttemptOutcome.BUSY, Cost.BUSY, "", 7.0), "OK", TaskState.SCHEDULED, "busy"),
    ],
)
async def test_every_outcome_is_recorded(
    bench: Bench, source: TaskSource, outcome: Outcome, word: str, state: TaskState, error: str
) -> None:
    await bench.submit("t1")
    attempt = await started_by(source)
    assert (await source.settle(attempt.lease, outcome)).word == word
    found = await bench.task("t1")
    assert found.state is state
    noted = [one.error for one in await bench.store.tasks.attempts(bench.endpoint_id, "t1") or ()]
    assert error in (found.error, *noted)


async def test_an_attempt_without_a_lease_is_fenced(bench: Bench, way: Way) -> None:
    await bench.submit("t1")
    attempt = await started_by(way.source("a1"))
    forged = Lease(bench.endpoint_id, "t1", "f" * 32)
    gone = Lease(bench.endpoint_id, "another", "f" * 32)
    other = way.source("a2")
    assert list(await other.renew([forged, attempt.lease, gone])) == [Renewal.FENCED, Renewal.OK, Renewal.GONE]
    assert (await other.settle(forged, Succeeded(b"1"))).word == "FENCED"
    assert await other.release(forged, called=True) == "FENCED"
    assert (await bench.task("t1")).state is TaskState.RUNNING


async def test_a_cancelled_task_is_told_by_its_renewal(bench: Bench, source: TaskSource) -> None:
    await bench.submit("t1")
    attempt = await started_by(source)
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert list(await source.renew([attempt.lease], begun=1)) == [Renewal.CANCEL]


async def test_the_api_tells_of_a_cancelled_task_at_once(bench: Bench) -> None:
    async with way_of("api", bench) as way:
        source = way.source()
        assert list(await source.cancelled()) == []  # the place from which the next call continues
        await bench.submit("t1")
        await started_by(source)
        waiting = asyncio.create_task(source.cancelled())
        await bench.store.tasks.cancel(bench.endpoint_id, "t1")
        assert list(await waiting) == ["t1"]


async def test_an_agent_on_the_store_learns_of_a_cancelled_task_at_once(bench: Bench) -> None:
    """Also of one that was cancelled before it asked, and only of its own."""
    source, other = (StoreTaskSource(bench.agent(name)) for name in ("a1", "a2"))
    await bench.submit("t1")
    await bench.submit("t2")
    for one in (source, other):
        await started_by(one)
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    assert list(await source.cancelled()) == ["t1"]
    waiting = asyncio.create_task(source.cancelled())
    await bench.store.tasks.cancel(bench.endpoint_id, "t2")
    assert list(await waiting) == []
    assert list(await other.cancelled()) == ["t2"]


async def test_claims_of_a_silent_agent_are_abandoned_after_that_time(bench: Bench) -> None:
    """Only on the store: an API puts the claims of dead agents back itself."""
    source, other = StoreTaskSource(bench.agent()), StoreTaskSource(bench.agent("other"))
    await bench.submit("t1")
    assert len(await source.claim(1)) == 1
    assert await other.claim_abandoned(1, unstarted_seconds=3600) == []
    assert len(await other.claim_abandoned(1, unstarted_seconds=0)) == 1


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["no key", "another key"])
async def test_headers_sealed_with_a_key_in_use_can_be_opened_by_other_agents(bench: Bench, key: bytes | None) -> None:
    await bench.store.prepare()  # notes the key
    await bench.submit("t1", spec=spec(headers={"A": "b"}))
    stranger = Store(bench.store.url, Sealer(key), partitions=bench.store.partitions.count)
    assert await unreadable(bench, stranger) is True
    await stranger.close()


async def test_headers_sealed_with_a_key_no_longer_in_use_can_be_opened_by_no_agent(bench: Bench) -> None:
    forgotten = Store(bench.store.url, Sealer(bytes(32)), partitions=bench.store.partitions.count)
    await forgotten.tasks.enqueue(bench.new_task("t1", spec=spec(headers={"A": "b"})))
    await forgotten.close()
    assert await unreadable(bench, bench.store) is False


async def unreadable(bench: Bench, store: Store) -> bool:
    """Start the waiting task, whose headers this store cannot open. Return True if only its key is missing."""
    claims = store.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
    attempt = await started_by(StoreTaskSource(claims))
    assert isinstance(attempt.task, Unreadable)
    assert attempt.task.reason
    return attempt.task.is_key_missing


async def test_a_worker_is_registered_reported_on_and_removed(bench: Bench, way: Way) -> None:
    record = way.record()
    report = record.report
    assert await report(WorkerStatus.RUNNING, running_tasks=1, address=ADDRESS, reason="ready", error="") is None
    await record.register()
    desired = await report(WorkerStatus.RUNNING, running_tasks=1, address=ADDRESS, reason="ready", error="")
    assert desired is DesiredState.RUNNING
    (worker,) = await bench.store.workers.of_endpoint(bench.endpoint_id)
    assert (worker.worker_id, worker.running_tasks, worker.address) == ("w1", 1, ADDRESS)
    await record.remove()
    assert await bench.store.workers.of_endpoint(bench.endpoint_id) == []


async def test_a_log_is_kept_for_its_retention(bench: Bench, way: Way) -> None:
    log = way.log()
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    for _ in range(2):  # the second call is the first one, repeated
        await log.append("b1", ["one", "two"])
    key = bench.store.partitions.of(bench.endpoint_id).log("w1")
    assert 0 < await bench.store.redis.pttl(key) <= LOG_SECONDS * 1000
    assert await bench.store.redis.xlen(key) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_whose_reply_is_lost_can_be_repeated(bench: Bench, kind: str) -> None:
    async with lossy_way_of(kind, bench) as (way, proxy):
        source, record, log = way.source(), way.record(), way.log()

        async def repeated(call: Callable[[], Awaitable[Result]]) -> Result:
            proxy.replies_to_lose = 1
            return await until_available(call, "test")

        await bench.submit("t1")
        (claim,) = await repeated(lambda: claimed_by(source, 1))
        attempt = await repeated(lambda: claim.start(address=ADDRESS))
        assert attempt is not None
        assert list(await repeated(lambda: source.renew([attempt.lease]))) == [Renewal.OK]
        settled = await repeated(lambda: source.settle(attempt.lease, Succeeded(b"1")))
        assert settled.word in ("OK", "ALREADY")
        await repeated(record.register)
        await repeated(lambda: log.append("b1", ["one"]))
        await repeated(record.remove)
        assert proxy.lost == 7
        task = await bench.task("t1")
        assert (task.state, task.attempts, task.output) == (TaskState.SUCCEEDED, 1, b"1")
        assert list(await source.unstarted_claims()) == []


CALLS: dict[str, Callable[[TaskSource, WorkerRecord, LogSink], Awaitable[object]]] = {
    "claim": lambda source, record, log: source.claim(1),
    "claim_abandoned": lambda source, record, log: source.claim_abandoned(1, unstarted_seconds=1),
    "unstarted_claims": lambda source, record, log: source.unstarted_claims(),
    "renew": lambda source, record, log: source.renew([LEASE]),
    "settle": lambda source, record, log: source.settle(LEASE, Succeeded(b"1")),
    "release": lambda source, record, log: source.release(LEASE, called=True),
    "register": lambda source, record, log: record.register(),
    "remove": lambda source, record, log: record.remove(),
    "append": lambda source, record, log: log.append("b1", ["one"]),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in CALLS if (kind, name) != ("api", "claim_abandoned")],
)
async def test_an_engine_that_is_away_is_unavailable_to_every_call(name: str, kind: str) -> None:
    async with way_to_nothing(kind) as way:
        source = way.source()
        if name == "unstarted_claims" and kind == "api":
            # Without a claim whose response was lost, there is nothing to ask for.
            await asyncio.gather(source.claim(1), return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await CALLS[name](source, way.record(), way.log())
