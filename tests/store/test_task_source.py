"""The ports of an agent on the store, see `worker_agent/ports.py`."""

from collections.abc import Awaitable, Callable

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal, StartedAttempt, Unreadable
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import ClaimedTask, Lease, Succeeded, TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreLog, StoreTaskSource, StoreWorkerRecord
from tests.ports import free_port
from tests.store.bench import Bench, spec

ADDRESS = "127.0.0.1:9000"
LEASE = Lease("1", "t1", "token")


@pytest.fixture
def source(bench: Bench) -> StoreTaskSource:
    return StoreTaskSource(bench.agent())


async def started_by(source: StoreTaskSource) -> StartedAttempt:
    (claim,) = await source.claim(1)
    attempt = await claim.start(address=ADDRESS)
    assert attempt is not None
    return attempt


async def test_a_task_is_claimed_started_renewed_and_settled(bench: Bench, source: StoreTaskSource) -> None:
    await bench.submit("t1")
    attempt = await started_by(source)
    assert isinstance(attempt.task, ClaimedTask)
    assert attempt.ids == {"endpoint": bench.endpoint_id, "task": "t1", "attempt": 1, "worker": bench.agent().worker_id}
    assert attempt.is_first
    assert not attempt.is_suspect
    assert await source.renew([attempt.lease]) == [Renewal.OK]
    assert (await source.settle(attempt.lease, Succeeded(b"1"))).word == "OK"
    assert (await bench.task("t1")).state is TaskState.SUCCEEDED


async def test_a_repeated_start_is_the_same_attempt(bench: Bench, source: StoreTaskSource) -> None:
    await bench.submit("t1")
    (claim,) = await source.claim(1)
    first, second = await claim.start(address=ADDRESS), await claim.start(address=ADDRESS)
    assert first is not None
    assert second is not None
    assert (first.lease, first.attempt) == (second.lease, second.attempt)


async def test_unstarted_claims_are_those_that_were_claimed_and_not_started(
    bench: Bench, source: StoreTaskSource
) -> None:
    await bench.submit("started")
    attempt = await started_by(source)
    await bench.submit("unstarted")
    assert len(await source.claim(1)) == 1
    (claim,) = await source.unstarted_claims()
    await claim.put_back()
    assert await source.unstarted_claims() == []
    assert await source.release(attempt.lease, called=False) == "OK"
    assert (await bench.task("unstarted")).state is TaskState.QUEUED


async def test_claims_of_a_silent_agent_are_abandoned_after_that_time(bench: Bench, source: StoreTaskSource) -> None:
    await bench.submit("t1")
    assert len(await source.claim(1)) == 1
    other = StoreTaskSource(bench.agent("other"))
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


async def test_a_worker_is_registered_reported_on_and_removed(bench: Bench) -> None:
    record = StoreWorkerRecord(bench.store.workers, endpoint_id=bench.endpoint_id, worker_id="w1")
    report = record.report
    assert await report(WorkerStatus.RUNNING, running_tasks=1, address=ADDRESS, reason="ready", error="") is None
    await record.register()
    desired = await report(WorkerStatus.RUNNING, running_tasks=1, address=ADDRESS, reason="ready", error="")
    assert desired is DesiredState.RUNNING
    (worker,) = await bench.store.workers.of_endpoint(bench.endpoint_id)
    assert (worker.worker_id, worker.running_tasks, worker.address) == ("w1", 1, ADDRESS)
    await record.remove()
    assert await bench.store.workers.of_endpoint(bench.endpoint_id) == []


async def test_a_log_is_kept_for_its_retention(bench: Bench) -> None:
    log = StoreLog(bench.store.logs, endpoint_id=bench.endpoint_id, worker_id="w1", retention_seconds=60)
    await log.append("b1", ["one"])
    key = bench.store.partitions.of(bench.endpoint_id).log("w1")
    assert 0 < await bench.store.redis.pttl(key) <= 60_000


CALLS: dict[str, Callable[[StoreTaskSource, StoreWorkerRecord, StoreLog], Awaitable[object]]] = {
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


@pytest.mark.parametrize("name", list(CALLS))
async def test_a_store_that_is_away_is_unavailable_to_every_call(name: str) -> None:
    away = Store(f"redis://127.0.0.1:{free_port()}/0", Sealer(None))
    source = StoreTaskSource(away.queue(endpoint_id="1", worker_id="w1", lease_ms=1000))
    record = StoreWorkerRecord(away.workers, endpoint_id="1", worker_id="w1")
    log = StoreLog(away.logs, endpoint_id="1", worker_id="w1", retention_seconds=60)
    with pytest.raises(StoreUnavailable):
        await CALLS[name](source, record, log)
    await away.close()
