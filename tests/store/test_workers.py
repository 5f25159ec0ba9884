"""Workers: records made by the controller and reports of their agents."""

import asyncio

import pytest

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.keys import FORMAT, META
from queue_engine.store.sweeper import Tidied
from queue_engine.store.task_source import StoreWorkerRecord
from tests.store.bench import TENANT, Bench
from tests.waiting import wait_until_async


async def test_a_new_worker_is_initializing(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True, revision=2)
    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert (worker.worker_id, worker.endpoint_id) == ("w1", bench.endpoint_id)
    assert (worker.status, worker.managed, worker.revision) == (WorkerStatus.INITIALIZING, True, 2)
    assert (worker.restarts, worker.running_tasks, worker.error, worker.address) == (0, 0, None, None)


async def test_recording_a_worker_again_changes_nothing(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await _report(bench, "w1", WorkerStatus.RUNNING)
    before = await bench.store.workers.get(bench.endpoint_id, "w1")
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False, revision=9)
    assert await bench.store.workers.get(bench.endpoint_id, "w1") == before


async def test_an_agents_report_is_recorded(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False)
    assert await _report(bench, "w1", WorkerStatus.RUNNING, running_tasks=3) is DesiredState.RUNNING
    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert (worker.status, worker.running_tasks, worker.address) == (WorkerStatus.RUNNING, 3, "127.0.0.1:9000")
    assert not worker.managed
    assert worker.last_heartbeat_at_ms is not None
    assert abs(await bench.probe.now_ms() - worker.last_heartbeat_at_ms) < 5_000


async def test_the_report_of_a_worker_that_is_not_there_is_refused(bench: Bench) -> None:
    assert await _report(bench, "w1", WorkerStatus.RUNNING) is None
    assert await bench.store.workers.get(bench.endpoint_id, "w1") is None
    assert await bench.store.workers.of_endpoint(bench.endpoint_id) == []


async def test_no_worker_is_recorded_for_an_endpoint_that_is_not_there(bench: Bench) -> None:
    before = await bench.probe.keys()
    await bench.store.workers.put("999", "w1", managed=True)
    assert await bench.probe.keys() == before


async def test_a_report_returns_the_desired_state_of_the_endpoint(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    for wanted in (DesiredState.STOPPED, DesiredState.RUNNING, DesiredState.DELETED):
        await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, wanted)
        assert await _report(bench, "w1", WorkerStatus.RUNNING) is wanted


async def test_a_managed_worker_that_is_being_stopped_does_not_say_that_it_runs(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await _mark(bench, "w1", WorkerStatus.STOPPING)
    for status in (WorkerStatus.INITIALIZING, WorkerStatus.RUNNING):
        assert await _report(bench, "w1", status)
        assert await _status(bench, "w1") is WorkerStatus.STOPPING
    assert await _report(bench, "w1", WorkerStatus.STOPPED)
    assert await _status(bench, "w1") is WorkerStatus.STOPPED


async def test_a_failed_worker_is_failed_until_it_runs(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await _mark(bench, "w1", WorkerStatus.FAILED, error="exited with status 3", restarted=True)
    await _report(bench, "w1", WorkerStatus.INITIALIZING)
    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert (worker.status, worker.error, worker.restarts) == (WorkerStatus.FAILED, "exited with status 3", 1)

    await _report(bench, "w1", WorkerStatus.RUNNING)

    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert (worker.status, worker.error, worker.restarts) == (WorkerStatus.RUNNING, None, 1)


async def test_a_start_forgets_what_agents_of_earlier_ones_said_and_refuses_them(bench: Bench) -> None:
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "w1", managed=True)
    first = await workers.begin_start(bench.endpoint_id, "w1")
    assert first == 1
    assert await _report(bench, "w1", WorkerStatus.RUNNING, run=1) is DesiredState.RUNNING
    assert await workers.begin_start(bench.endpoint_id, "w1") == 2
    worker = await workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert worker.last_heartbeat_at_ms is None
    assert worker.started_at_ms is not None
    assert await _report(bench, "w1", WorkerStatus.RUNNING, run=1) is None
    worker = await workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert worker.last_heartbeat_at_ms is None
    assert await _report(bench, "w1", WorkerStatus.RUNNING, run=2) is DesiredState.RUNNING


async def test_only_the_first_start_clears_the_error(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    for expected in (None, "why"):
        await _mark(bench, "w1", WorkerStatus.INITIALIZING, error="why")
        await bench.store.workers.begin_start(bench.endpoint_id, "w1")
        worker = await bench.store.workers.get(bench.endpoint_id, "w1")
        assert worker is not None
        assert worker.error == expected


async def test_a_worker_that_is_not_there_is_not_started(bench: Bench) -> None:
    before = await bench.probe.keys()
    assert await bench.store.workers.begin_start(bench.endpoint_id, "w1") is None
    assert await bench.probe.keys() == before


async def test_a_status_of_an_unknown_worker_is_not_recorded(bench: Bench) -> None:
    await _mark(bench, "w1", WorkerStatus.FAILED)
    assert await bench.store.workers.of_endpoint(bench.endpoint_id) == []


async def test_workers_are_listed_oldest_first_by_endpoint(bench: Bench) -> None:
    for name in ("w1", "w2", "w3"):
        await bench.store.workers.put(bench.endpoint_id, name, managed=True)
    await bench.probe.ask("HSET", bench.keys.worker("w3"), "created", 1)
    found = await bench.store.workers.of_endpoint(bench.endpoint_id)
    assert [worker.worker_id for worker in found] == ["w3", "w1", "w2"]


async def test_a_removed_worker_is_forgotten(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.agent("w1").claim(1, block_ms=1)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    assert await bench.store.workers.get(bench.endpoint_id, "w1") is None
    assert not [name for name in await bench.probe.keys() if "w1" in name]
    assert await bench.probe.ask("XINFO", "CONSUMERS", bench.keys.queue, "agents") == []


async def test_what_a_removed_worker_had_read_is_not_lost(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.submit("t1")
    await bench.agent("w1").claim(1, block_ms=1)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    heir = bench.agent("w2")
    (entry,) = await heir.claim_abandoned(10, idle_ms=0)
    assert await heir.start(entry, address="x:1") is not None


def _record(bench: Bench, run: int = 0) -> StoreWorkerRecord:
    return StoreWorkerRecord(bench.store.workers, endpoint_id=bench.endpoint_id, worker_id="w1", run=run)


async def _tell(record: StoreWorkerRecord) -> DesiredState | None:
    """Send the report of an idle agent."""
    return await record.report(WorkerStatus.RUNNING, running_tasks=0, address="x:1", reason="", error="")


async def _scripts(bench: Bench) -> int:
    stats = await bench.probe.redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def _heard(bench: Bench) -> int:
    """Return the time of the worker's latest heartbeat."""
    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert worker.last_heartbeat_at_ms is not None
    return worker.last_heartbeat_at_ms


async def test_a_report_that_changes_nothing_runs_no_script_and_is_a_heartbeat(bench: Bench) -> None:
    record = _record(bench)
    await record.register()
    assert await _tell(record) is DesiredState.RUNNING
    before, scripts = await _heard(bench), await _scripts(bench)
    assert abs(await bench.probe.now_ms() - before) < 5_000

    async def is_later() -> bool:
        return await bench.probe.now_ms() > before

    await wait_until_async(is_later)
    assert await _tell(record) is DesiredState.RUNNING
    assert await _scripts(bench) == scripts
    assert before < await _heard(bench) <= await bench.probe.now_ms()


async def test_a_changed_report_is_recorded_at_once(bench: Bench) -> None:
    record = _record(bench)
    await record.register()
    await _tell(record)
    await record.report(WorkerStatus.RUNNING, running_tasks=2, address="x:1", reason="", error="")
    worker = await bench.store.workers.get(bench.endpoint_id, "w1")
    assert worker is not None
    assert worker.running_tasks == 2


@pytest.mark.parametrize("change", ["marked", "failed", "removed", "started again", "queued", "stopped"])
async def test_a_heartbeat_becomes_a_report_when_the_record_or_the_queue_has_changed(bench: Bench, change: str) -> None:
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "w1", managed=True)
    record = _record(bench, run=await workers.begin_start(bench.endpoint_id, "w1") or 0)
    assert await _tell(record) is DesiredState.RUNNING
    if change in ("marked", "failed"):
        await _mark(bench, "w1", WorkerStatus.FAILED, error="why" if change == "failed" else "")
    elif change == "removed":
        await workers.remove(bench.endpoint_id, "w1")
    elif change == "started again":
        await workers.begin_start(bench.endpoint_id, "w1")
    elif change == "queued":
        await bench.submit("t1")
        await bench.probe.ask("DEL", bench.keys.bell)
    else:
        await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    expected = {"removed": None, "started again": None, "stopped": DesiredState.STOPPED}
    assert await _tell(record) is expected.get(change, DesiredState.RUNNING)
    worker = await workers.get(bench.endpoint_id, "w1")
    if change == "started again":  # the heartbeat of the earlier start does not count
        assert worker is not None
        assert worker.last_heartbeat_at_ms is None
    elif change == "queued":
        assert await bench.probe.ask("LLEN", bench.keys.bell) == 1
    elif change != "removed":
        assert worker is not None
        assert (worker.status, worker.error) == (WorkerStatus.RUNNING, None)


async def test_agents_send_no_heartbeats_while_controllers_of_an_earlier_version_may_run(bench: Bench) -> None:
    await bench.probe.ask("HSET", META, FORMAT, 1)
    record = _record(bench)
    await record.register()
    await _tell(record)
    scripts = await _scripts(bench)
    await _tell(record)
    assert await _scripts(bench) == scripts + 1


async def _report(
    bench: Bench, worker_id: str, status: WorkerStatus, *, running_tasks: int = 0, run: int = 0
) -> DesiredState | None:
    return await bench.store.workers.report(
        bench.endpoint_id, worker_id, status, running_tasks=running_tasks, address="127.0.0.1:9000", run=run
    )


async def _mark(
    bench: Bench, worker_id: str, status: WorkerStatus, *, error: str = "", restarted: bool = False
) -> None:
    await bench.store.workers.mark(
        bench.endpoint_id, worker_id, status, reason="a test", error=error, restarted=restarted
    )


async def test_the_reason_of_a_start_is_removed_unless_another_error_was_recorded_since(bench: Bench) -> None:
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "w1", managed=True)

    async def error_after(*, error: str = "", outdated_error: str = "") -> str | None:
        status = WorkerStatus.INITIALIZING
        await workers.mark(bench.endpoint_id, "w1", status, reason="", error=error, outdated_error=outdated_error)
        worker = await workers.get(bench.endpoint_id, "w1")
        assert worker is not None
        return worker.error

    assert await error_after(error="pulling 1 of 8 GB") == "pulling 1 of 8 GB"
    assert await error_after(error="pulling 2 of 8 GB", outdated_error="pulling 1 of 8 GB") == "pulling 2 of 8 GB"
    assert await error_after(outdated_error="pulling 1 of 8 GB") == "pulling 2 of 8 GB"
    assert await error_after() == "pulling 2 of 8 GB"
    assert await error_after(outdated_error="pulling 2 of 8 GB") is None


async def _status(bench: Bench, worker_id: str) -> WorkerStatus | None:
    worker = await bench.store.workers.get(bench.endpoint_id, worker_id)
    return worker.status if worker else None


async def test_the_name_of_an_agent_goes_when_others_have_taken_over_what_it_had_read(bench: Bench) -> None:
    """The worker was removed while it still had an entry."""
    await bench.store.workers.put(bench.endpoint_id, "dead", managed=False)
    await bench.submit("t1")
    assert await bench.agent("dead").claim(1, block_ms=1)
    await bench.store.workers.remove(bench.endpoint_id, "dead")
    assert await bench.store.sweeper.tidy(bench.endpoint_id) == Tidied(forgotten=0, left=1)
    heir = bench.agent("heir")
    await bench.store.workers.put(bench.endpoint_id, "heir", managed=False)
    [entry] = await heir.claim_abandoned(1, idle_ms=0)
    await heir.start(entry, address="x:1")

    assert await bench.store.sweeper.tidy(bench.endpoint_id) == Tidied(forgotten=1, left=0)

    assert await _agents_of(bench, bench.keys.queue) == {"heir"}
    assert await bench.store.sweeper.tidy(bench.endpoint_id) == Tidied(forgotten=0, left=0)


async def test_an_agent_whose_name_was_forgotten_while_it_waits_gets_the_next_task(bench: Bench) -> None:
    agent = bench.agent("unknown")
    reading = asyncio.create_task(agent.claim(1, block_ms=60_000))

    async def waits() -> bool:
        return int((await bench.store.redis.info("clients"))["blocked_clients"]) == 1

    await wait_until_async(waits)
    await bench.store.sweeper.tidy(bench.endpoint_id)
    assert await _agents_of(bench, bench.keys.queue) == set()
    await bench.submit("t1")
    [entry] = await reading
    started = await agent.start(entry, address="x:1")
    assert started is not None
    assert started.lease.task_id == "t1"


async def _agents_of(bench: Bench, stream: str) -> set[str]:
    return {one["name"].decode() for one in await bench.store.redis.xinfo_consumers(stream, "agents")}
