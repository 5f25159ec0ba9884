"""A task that does not run tells why: each situation, built with real processes, containers and store."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_engine.domain.principals import Role
from queue_engine.domain.waiting import WaitingCode
from queue_engine.domain.workers import WorkerStatus
from tests.api_server import SECRET_KEY, TASK, RunningApi
from tests.integration.parts import HttpServer, Program, Programs, Reply, Request, programs_on
from tests.servers import StoreServer
from tests.waiting import wait_until_async

CRASHING = "echo out of order >&2; exit 3"
NEVER_READY = "exec sleep 600"
CONTROLLER = {"QUEUE_ENGINE_LEASE_SECONDS": "1", "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "1"}
LOCAL = {
    "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
    "expose": {"port": 8000, "protocol": "HTTP"},
}
RUN_SECONDS = 0.2
STEADY_TASKS = 160
SLOTS = 4


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path, SECRET_KEY) as started:
        yield started


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that lets held calls of containers go on. It is set at the end of the test."""
    opened = threading.Event()
    yield opened
    opened.set()


async def waiting_of(api: RunningApi, endpoint_id: str, task_id: str, **query: int) -> dict[str, Any] | None:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}", params=query)
    assert answer.status_code == 200, answer.text
    waiting: dict[str, Any] | None = answer.json()["data"]["waiting"]
    return waiting


async def waits_for(api: RunningApi, endpoint_id: str, task_id: str, code: WaitingCode) -> dict[str, Any]:
    """Wait until the task waits for this reason. Workers' reports may be some seconds old."""
    seen: list[Any] = []

    async def found() -> dict[str, Any] | None:
        waiting = await waiting_of(api, endpoint_id, task_id)
        seen.append(waiting and waiting["code"])
        return waiting if waiting is not None and waiting["code"] == code else None

    waiting: dict[str, Any] | None
    try:
        waiting = await wait_until_async(found, message=f"the code is not {code}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it was {dict.fromkeys(seen)}") from None
    assert waiting is not None
    assert waiting["asOf"] >= waiting["since"] > 1_700_000_000_000
    return waiting


async def submit(api: RunningApi, endpoint_id: str, *task_ids: str, **fields: Any) -> None:
    for task_id in task_ids:
        answer = await api.submit(endpoint_id, taskId=task_id, **fields)
        assert answer.status_code == 200, answer.text


async def runs(api: RunningApi, endpoint_id: str, task_id: str) -> None:
    async def running() -> bool:
        task = await api.store.tasks.brief(endpoint_id, task_id)
        return task is not None and task.state == "running"

    await wait_until_async(running, message=f"{task_id} does not run")


def held(gate: threading.Event) -> Callable[[Request], Reply]:
    return lambda _: Reply(hold=gate)


async def agent_runs(api: RunningApi, programs: Programs, endpoint_id: str, container: HttpServer) -> Program:
    agent = programs.agent(endpoint_id, container.url)

    async def is_running() -> bool:
        workers = await api.store.workers.of_endpoint(endpoint_id)
        return [worker.status for worker in workers] == [WorkerStatus.RUNNING]

    await wait_until_async(is_running, message="the worker does not run")
    return agent


async def test_a_store_that_refuses_writes(api: RunningApi, valkey_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint(workers=0)
    await submit(api, endpoint_id, "t1")
    valkey_server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.STORE_READ_ONLY)
    finally:
        valkey_server.command("CONFIG", "SET", "min-replicas-to-write", "0")
    assert waiting["message"] == (
        "No task can begin, because the store does not take writes: it refuses writes (NOREPLICAS)."
    )
    await waits_for(api, endpoint_id, "t1", WaitingCode.NO_WORKERS)


async def test_a_store_at_its_memory_limit_still_begins_tasks(api: RunningApi, valkey_server: StoreServer) -> None:
    endpoint_id = await api.create_endpoint(workers=0)
    await submit(api, endpoint_id, "t1")
    valkey_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        waiting = await waiting_of(api, endpoint_id, "t1")
    finally:
        valkey_server.command("CONFIG", "SET", "maxmemory", "0")
    assert waiting is not None
    assert waiting["code"] == WaitingCode.NO_WORKERS


async def test_a_task_whose_time_has_not_come(api: RunningApi, programs: Programs, container: HttpServer) -> None:
    endpoint_id = await api.create_endpoint()
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t1", delaySeconds=3600)
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.SCHEDULED)
    assert waiting["message"] in ("The task is scheduled, and is queued in 60 min.",)
    task = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/t1")).json()["data"]
    assert waiting["until"] == task["runAt"]


async def test_a_retry_that_is_not_due(api: RunningApi, programs: Programs, container: HttpServer) -> None:
    endpoint_id = await api.create_endpoint(retryOn=["500"], retryDelaysSeconds=[600])
    container.answer = lambda _: Reply(status=500, body=b"out of order")
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t1")
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.BACKOFF)
    assert waiting["message"].startswith("Attempt 1 ended as error: the worker's container answered 500: out of order.")
    assert 400_000 < waiting["until"] - waiting["asOf"] <= 720_000


async def test_a_stopped_endpoint(
    api: RunningApi, programs: Programs, container: HttpServer, gate: threading.Event
) -> None:
    endpoint_id = await api.create_endpoint()
    container.answer = held(gate)
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t1", "t2")
    await runs(api, endpoint_id, "t1")
    assert await waiting_of(api, endpoint_id, "t1") is None
    assert (await api.client.post(f"/v2/serverless/{endpoint_id}/stop")).status_code == 200
    await waits_for(api, endpoint_id, "t2", WaitingCode.ENDPOINT_STOPPED)
    assert await waiting_of(api, endpoint_id, "t1") is None


async def test_a_paused_queue(api: RunningApi, programs: Programs, container: HttpServer) -> None:
    endpoint_id = await api.create_endpoint()
    await agent_runs(api, programs, endpoint_id, container)
    assert (await api.client.post(f"/v2/serverless/{endpoint_id}/pause")).status_code == 200
    await submit(api, endpoint_id, "t1")
    await waits_for(api, endpoint_id, "t1", WaitingCode.PAUSED)
    assert (await api.client.post(f"/v2/serverless/{endpoint_id}/resume")).status_code == 200
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/t1", params={"wait": 60})).json()["data"][
        "status"
    ] == "SUCCESS"


async def test_a_rate_limit_that_is_reached(api: RunningApi, programs: Programs, container: HttpServer) -> None:
    endpoint_id = await api.create_endpoint(rateLimit={"perSecond": 0.01, "burst": 1})
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t1")
    await wait_until_async(lambda: container.requests_of("POST"))
    await submit(api, endpoint_id, "t2")
    waiting = await waits_for(api, endpoint_id, "t2", WaitingCode.RATE_LIMIT)
    assert 0 < waiting["until"] - waiting["asOf"] <= 100_000


async def test_an_endpoint_whose_workers_crash(api: RunningApi, programs: Programs) -> None:
    endpoint_id = await api.create_endpoint(**LOCAL, initializationCommand=CRASHING)
    await submit(api, endpoint_id, "t1")
    waiting = await waiting_of(api, endpoint_id, "t1")
    assert waiting is not None
    assert (waiting["code"], waiting["message"]) == (
        WaitingCode.NO_WORKERS, "No worker runs or starts, of 1 that the endpoint should have.",
    )  # fmt: skip
    programs.start("controller", "queue_engine", "controller", **CONTROLLER)
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.ENDPOINT_FAILED)
    assert waiting["message"] == (
        "All workers of the endpoint crash on start or are not ready in time: "
        "container exited with status 3 out of order"
    )


async def test_workers_that_start(api: RunningApi, programs: Programs) -> None:
    endpoint_id = await api.create_endpoint(**LOCAL, initializationCommand=NEVER_READY)
    await submit(api, endpoint_id, "t1")
    programs.start("controller", "queue_engine", "controller", **CONTROLLER)
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.WORKERS_STARTING)
    assert waiting["message"].startswith("The only worker is not ready yet")


async def test_workers_that_have_died(api: RunningApi, programs: Programs, container: HttpServer) -> None:
    endpoint_id = await api.create_endpoint()
    agent = await agent_runs(api, programs, endpoint_id, container)
    agent.kill()
    await submit(api, endpoint_id, "t1")
    await waits_for(api, endpoint_id, "t1", WaitingCode.NEXT)
    (worker,) = await api.store.workers.of_endpoint(endpoint_id)
    key = api.store.partitions.of(endpoint_id).worker(worker.worker_id)
    await api.store.redis.persist(key)  # without the time of its latest heartbeat
    await api.store.redis.hset(key, "beat", str(await api.store.now_ms() - 42_000))  # type: ignore[misc]
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.NO_WORKERS)
    assert waiting["message"].startswith("No worker runs: the latest report of 1 worker came 4")


async def test_an_endpoint_without_workers(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(workers=0)
    await submit(api, endpoint_id, "t1")
    waiting = await waiting_of(api, endpoint_id, "t1")
    assert waiting is not None
    assert (waiting["code"], waiting["message"]) == (WaitingCode.NO_WORKERS, "The endpoint has 0 workers.")


async def test_a_suspect_that_waits_for_a_worker(
    api: RunningApi, programs: Programs, container: HttpServer, gate: threading.Event
) -> None:
    endpoint_id = await api.create_endpoint(retryDelaysSeconds=[0.1])
    is_second_try, goes_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        if request.headers["x-task-id"] != "bad":
            return Reply(hold=gate)
        if len(container.requests_of("POST")) == 2:
            is_second_try.set()
            goes_on.wait(60)
        raise ConnectionResetError("the container has died")

    container.answer = answer
    programs.start("controller", "queue_engine", "controller", **CONTROLLER)
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "bad")
    await wait_until_async(is_second_try.is_set)
    await submit(api, endpoint_id, "good")
    goes_on.set()
    waiting = await waits_for(api, endpoint_id, "bad", WaitingCode.SUSPECT)
    assert waiting["message"].startswith("2 attempts of the task lost their worker or connection")


async def test_tasks_behind_others(
    api: RunningApi, programs: Programs, container: HttpServer, gate: threading.Event
) -> None:
    endpoint_id = await api.create_endpoint()
    container.answer = held(gate)
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t0")
    await runs(api, endpoint_id, "t0")
    await submit(api, endpoint_id, *(f"t{number}" for number in range(1, 5)))
    waiting = await waits_for(api, endpoint_id, "t1", WaitingCode.NEXT)
    assert (waiting["ahead"], waiting["etaSeconds"], waiting["approximate"]) == (0, None, False)
    for number in range(2, 5):
        waiting = await waits_for(api, endpoint_id, f"t{number}", WaitingCode.ALL_BUSY)
        assert (waiting["ahead"], waiting["approximate"]) == (number - 1, False)
        assert waiting["etaSeconds"] is None  # no task has ended
    assert (await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/t2/cancel")).status_code == 200
    waiting = await waits_for(api, endpoint_id, "t4", WaitingCode.ALL_BUSY)
    assert waiting["message"] == "2 tasks go before it, and 1 worker runs."


async def test_a_task_whose_key_runs_as_many_as_it_may(
    api: RunningApi, programs: Programs, container: HttpServer, gate: threading.Event
) -> None:
    endpoint_id = await api.create_endpoint(concurrency=3, maxConcurrencyPerKey=1)
    container.answer = held(gate)
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "first", fairnessKey="acme")
    await runs(api, endpoint_id, "first")
    await submit(api, endpoint_id, "second", fairnessKey="acme")
    await submit(api, endpoint_id, "urgent", fairnessKey="acme", priority="high")
    await submit(api, endpoint_id, "other", fairnessKey="other")
    await runs(api, endpoint_id, "other")
    for task_id in ("second", "urgent"):
        waiting = await waits_for(api, endpoint_id, task_id, WaitingCode.KEY_LIMIT)
        assert (waiting["running"], waiting["limit"], waiting["ahead"], waiting["until"]) == (1, 1, None, None)
        assert waiting["message"] == (
            "1 task of its fairness key runs, of 1 that may run at once. It begins after one of them has ended."
        )
    answer = await api.client.patch(f"/v2/serverless/{endpoint_id}", json={"maxConcurrencyPerKey": 2})
    assert answer.status_code == 200, answer.text
    await runs(api, endpoint_id, "urgent")
    waiting = await waits_for(api, endpoint_id, "second", WaitingCode.KEY_LIMIT)
    assert (waiting["running"], waiting["limit"]) == (2, 2)
    gate.set()

    async def ended() -> bool:
        task = await api.store.tasks.brief(endpoint_id, "second")
        return task is not None and task.state == "succeeded"

    await wait_until_async(ended, message="a task of the key stays parked")


async def test_tasks_behind_other_keys_and_priorities(
    api: RunningApi, programs: Programs, container: HttpServer, gate: threading.Event
) -> None:
    endpoint_id = await api.create_endpoint()
    container.answer = held(gate)
    await agent_runs(api, programs, endpoint_id, container)
    await submit(api, endpoint_id, "t0")
    await runs(api, endpoint_id, "t0")
    await submit(api, endpoint_id, "a1", "a2", "a3", fairnessKey="a")
    assert (await waits_for(api, endpoint_id, "a1", WaitingCode.NEXT))["ahead"] == 0
    assert (await waits_for(api, endpoint_id, "a3", WaitingCode.ALL_BUSY))["ahead"] == 2
    await submit(api, endpoint_id, "b1", fairnessKey="b")
    await submit(api, endpoint_id, "plain")
    await submit(api, endpoint_id, "low", priority="low")
    expected = {"a1": 2, "a2": 4, "a3": 4, "b1": 2, "plain": 2, "low": 5}
    for task_id, ahead in expected.items():
        waiting = await waits_for(api, endpoint_id, task_id, WaitingCode.ALL_BUSY)
        assert (task_id, waiting["ahead"], waiting["approximate"]) == (task_id, ahead, True)
    await submit(api, endpoint_id, "high", priority="high")
    assert (await waits_for(api, endpoint_id, "high", WaitingCode.NEXT))["ahead"] == 0
    waiting = await waits_for(api, endpoint_id, "low", WaitingCode.ALL_BUSY)
    assert waiting["message"] == "About 6 tasks go before it, and 1 worker runs."


async def test_the_estimate_of_the_time_is_within_a_factor_of_two(
    api: RunningApi, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await api.create_endpoint(concurrency=SLOTS)
    pause = threading.Event()

    def answer(_: Request) -> Reply:
        pause.wait(RUN_SECONDS)
        return Reply()

    container.answer = answer
    await submit(api, endpoint_id, *(f"t{number}" for number in range(STEADY_TASKS)))
    await agent_runs(api, programs, endpoint_id, container)
    last = f"t{STEADY_TASKS - 1}"

    async def estimated() -> dict[str, Any] | None:
        waiting = await waiting_of(api, endpoint_id, last)
        assert waiting is not None, "the queue was empty before an agent reported"
        return waiting if waiting["etaSeconds"] is not None else None

    waiting = await wait_until_async(estimated, message="there is no estimate")
    assert waiting is not None
    assert waiting["ahead"] > STEADY_TASKS / 8
    assert "begins in about" in waiting["message"]

    async def started() -> int | None:
        task = await api.store.tasks.brief(endpoint_id, last)
        return None if task is None else task.started_at_ms

    took_seconds = ((await wait_until_async(started) or 0) - waiting["asOf"]) / 1000
    assert took_seconds / 2 <= waiting["etaSeconds"] <= took_seconds * 2


async def test_the_response_of_a_wait_tells_why_the_task_waits(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(workers=0)
    answer = await api.client.post(
        f"/v2/serverless/{endpoint_id}/tasks", params={"wait": 1}, json=TASK | {"taskId": "t1"}
    )
    assert answer.json()["data"]["waiting"]["code"] == WaitingCode.NO_WORKERS
    waiting = await waiting_of(api, endpoint_id, "t1", wait=0)
    assert waiting is not None
    assert waiting["code"] == WaitingCode.NO_WORKERS


async def test_a_key_that_may_only_submit_reads_no_errors_of_workers(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    key = await api.new_key("default", role=Role.SUBMIT)
    tasks = f"/v2/serverless/{endpoint_id}/tasks"
    answer = await api.client.post(tasks, json=TASK | {"taskId": "t1"}, headers={"X-Api-Key": key})
    assert answer.status_code == 200, answer.text
    await api.store.workers.put(endpoint_id, "w1", managed=True)
    reason = "a secret of the container"
    await api.store.workers.mark(endpoint_id, "w1", WorkerStatus.INITIALIZING, reason="started", error=reason)
    shown = await waits_for(api, endpoint_id, "t1", WaitingCode.WORKERS_STARTING)
    assert shown["message"] == f"The only worker is not ready yet: {reason}"
    hidden = (await api.client.get(f"{tasks}/t1", headers={"X-Api-Key": key})).json()["data"]["waiting"]
    assert (hidden["code"], hidden["message"]) == (shown["code"], "The only worker is not ready yet.")
