"""The agent breaks off what is cancelled, and runs alone what may have killed its container."""

import asyncio
import shlex
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from queue_engine.domain.endpoints import Expose
from queue_engine.domain.tasks import AttemptOutcome, TaskState
from queue_engine.store.store import Store
from queue_engine.store.tasks import Cancellation
from tests.integration.parts import HttpServer, Program, Programs, Reply, Request, ended, new_endpoint, submit
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

FRAGILE_SERVER = Path(__file__).with_name("fragile_server.py")


async def test_a_running_task_is_broken_off_and_its_container_notified(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    never = threading.Event()
    container.answer = lambda request: Reply() if request.path == "/stop" else Reply(hold=never)
    try:
        endpoint_id = await new_endpoint(store, cancel_uri="/stop")
        await submit(store, endpoint_id, headers={"Authorization": "Bearer user"})
        programs.agent(endpoint_id, container.url)
        container.next()
        assert await store.tasks.cancel(endpoint_id, "task") is Cancellation.REQUESTED

        told = container.next()
        assert (told.path, told.body) == ("/stop", b'{"taskId": "task"}')
        assert (told.headers["x-task-id"], told.headers["x-task-attempt"]) == ("task", "1")
        assert "authorization" not in told.headers
        task = await ended(store, endpoint_id, "task")
        assert (task.state, task.error) == (TaskState.CANCELLED, "the task was cancelled while it was running")
    finally:
        never.set()


async def test_the_connection_of_a_cancelled_call_is_closed_at_once(store: Store, programs: Programs) -> None:
    """Long before the next heartbeat, which comes after a quarter of an hour."""
    came, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(65536):  # a probe whether anybody listens
            writer.close()
            return
        came.set()
        while await reader.read(65536):
            continue
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        endpoint_id = await new_endpoint(store)
        await submit(store, endpoint_id)
        programs.agent(endpoint_id, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lease=3600)
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await came.wait()
            await store.tasks.cancel(endpoint_id, "task")
            await closed.wait()
    assert (await ended(store, endpoint_id, "task")).state is TaskState.CANCELLED


async def test_a_container_that_does_not_hear_of_it_holds_nothing_up(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    never = threading.Event()

    def answer(request: Request) -> Reply:
        if request.path == "/stop":
            return Reply(500)
        return Reply() if request.headers["x-task-id"] == "next" else Reply(hold=never)

    container.answer = answer
    try:
        endpoint_id = await new_endpoint(store, cancel_uri="/stop")
        await submit(store, endpoint_id)
        await submit(store, endpoint_id, "next")
        agent = programs.agent(endpoint_id, container.url)
        container.next()
        await store.tasks.cancel(endpoint_id, "task")
        assert (await ended(store, endpoint_id, "task")).state is TaskState.CANCELLED
        assert (await ended(store, endpoint_id, "next")).state is TaskState.SUCCEEDED
        assert "the container has not taken the cancellation: 500" in agent.output()
    finally:
        never.set()


async def test_a_task_is_tried_again_as_its_endpoint_says(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = lambda request: Reply(500 if request.headers["x-task-attempt"] == "1" else 200)
    endpoint_id = await new_endpoint(store, retry_on=frozenset({"500"}), retry_delays_seconds=(0.1,))
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, container.url)
    programs.controller()
    task = await ended(store, endpoint_id, "task")
    assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 2)
    attempts = await store.tasks.attempts(endpoint_id, "task")
    assert attempts is not None
    assert [one.outcome for one in attempts] == [AttemptOutcome.ERROR, AttemptOutcome.OK]
    assert attempts[0].error is not None
    assert attempts[0].error.startswith("the worker's container answered 500")


async def test_suspects_run_alone(store: Store, programs: Programs, container: HttpServer) -> None:
    """Two tasks of which two connections broke each, and others: nothing runs beside a suspect."""
    lock, met = threading.Lock(), threading.Event()
    running: set[str] = set()
    beside: dict[str, set[str]] = {}

    def answer(request: Request) -> Reply:
        name = request.headers["x-task-id"]
        with lock:
            running.add(name)
            for one in running:
                beside.setdefault(one, set()).update(running)
        met.wait(0.2)  # time for others to come
        with lock:
            running.discard(name)
        return Reply()

    container.answer = answer
    endpoint_id = await new_endpoint(store, concurrency=4)
    names = ["suspect_1", "fresh_1", "fresh_2", "suspect_2", "fresh_3"]
    for name in names:
        await submit(store, endpoint_id, name)
    for name in names:
        if name.startswith("suspect"):
            await break_connections(store, endpoint_id, name)
    programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="4")
    for name in names:
        assert (await ended(store, endpoint_id, name)).state is TaskState.SUCCEEDED
    assert beside["suspect_1"] == {"suspect_1"}
    assert beside["suspect_2"] == {"suspect_2"}
    for name in ("fresh_1", "fresh_2", "fresh_3"):
        assert beside[name] <= {"fresh_1", "fresh_2", "fresh_3"}


async def break_connections(store: Store, endpoint_id: str, task_id: str) -> None:
    """Let it be a task that has run, and of which two connections broke."""
    fields = {"resets": "2", "started": "1"}
    await store.redis.hset(store.partitions.of(endpoint_id).task(task_id), mapping=fields)  # type: ignore[misc]


async def suspect(store: Store, endpoint_id: str, task_id: str) -> None:
    """A task that waits and during two attempts of which the connection broke."""
    await submit(store, endpoint_id, task_id)
    await break_connections(store, endpoint_id, task_id)


async def test_nothing_else_is_held_while_a_suspect_runs(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    """Whoever waited with a lease would be lost together with the suspect's worker, again and again."""
    release = threading.Event()
    container.answer = lambda request: Reply(hold=release if request.headers["x-task-id"] == "suspect" else None)
    endpoint_id = await new_endpoint(store, concurrency=4)
    await suspect(store, endpoint_id, "suspect")
    await suspect(store, endpoint_id, "other_suspect")
    for name in ("fresh_1", "fresh_2"):
        await submit(store, endpoint_id, name)
    try:
        programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="4")
        assert container.next().headers["x-task-id"] == "suspect"

        async def alone() -> bool:
            counts = await store.tasks.counts(endpoint_id)
            return (counts.running, counts.queued) == (1, 3)

        await wait_until_async(alone)
        for name in ("other_suspect", "fresh_1", "fresh_2"):
            task = await store.tasks.get(endpoint_id, name)
            assert task is not None
            assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 0, 0)
        programs.agent(endpoint_id, container.url)
        for name in ("fresh_1", "fresh_2", "other_suspect"):
            assert (await ended(store, endpoint_id, name)).state is TaskState.SUCCEEDED
        assert (await store.tasks.counts(endpoint_id)).running == 1
    finally:
        release.set()
    assert (await ended(store, endpoint_id, "suspect")).state is TaskState.SUCCEEDED


async def test_a_suspect_does_not_wait_for_a_busy_agent_beside_an_idle_one(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    async with _busy_beside_a_suspect(store, programs, container) as (endpoint_id, busy, hand_back):
        await _wait_for_readers(store, 1)
        programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="4")
        await _wait_for_readers(store, 2)
        await hand_back()
        assert (await ended(store, endpoint_id, "suspect")).state is TaskState.SUCCEEDED
        assert busy.output().count("left to an idle agent") <= 1
        assert (await store.tasks.counts(endpoint_id)).running == 1
    assert (await ended(store, endpoint_id, "fresh")).state is TaskState.SUCCEEDED


async def test_a_busy_agent_leaves_a_suspect_to_an_idle_one_that_wakes_later(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    """The idle agent stalls after the bell, until the busy one has heard of the suspect a second time."""
    async with _busy_beside_a_suspect(store, programs, container) as (endpoint_id, busy, hand_back):
        await _wait_for_readers(store, 1)
        idle = programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="4")
        await _wait_for_readers(store, 2)
        idle.signal(signal.SIGSTOP)
        try:
            await hand_back()
            bell = store.partitions.of(endpoint_id).bell
            await store.redis.rpush(bell, 1)  # type: ignore[misc]
            await wait_until_async(lambda: "left to an idle agent" in busy.output(), message="the suspect is not left")

            async def heard_twice() -> bool:
                return await _running(store, endpoint_id, 2) or await store.redis.llen(bell) > 0  # type: ignore[misc]

            await wait_until_async(heard_twice, message="the busy agent hears no second bell")
        finally:
            idle.signal(signal.SIGCONT)
        await wait_until_async(partial(_is_ended, store, endpoint_id, "suspect"), message="the busy agent keeps it")
        assert (await store.tasks.counts(endpoint_id)).running == 1
    assert (await ended(store, endpoint_id, "fresh")).state is TaskState.SUCCEEDED


async def _is_ended(store: Store, endpoint_id: str, task_id: str) -> bool:
    task = await store.tasks.get(endpoint_id, task_id)
    return task is not None and task.state is TaskState.SUCCEEDED


async def test_a_suspect_that_only_busy_agents_could_take_is_kept_by_one_of_them(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    async with _busy_beside_a_suspect(store, programs, container) as (endpoint_id, busy, hand_back):
        await hand_back()
        await wait_until_async(partial(_running, store, endpoint_id, 2), message="nobody keeps the suspect")
        await submit(store, endpoint_id, "behind")
    assert (await ended(store, endpoint_id, "behind")).state is TaskState.SUCCEEDED
    assert (await ended(store, endpoint_id, "suspect")).state is TaskState.SUCCEEDED
    assert [request.headers["x-task-id"] for request in container.requests] == ["fresh", "suspect", "behind"]
    assert busy.output().count("left to an idle agent") == 1
    attempts = await store.tasks.attempts(endpoint_id, "suspect")
    assert attempts is not None
    assert [one.outcome for one in attempts] == [AttemptOutcome.RELEASED, AttemptOutcome.OK]


@asynccontextmanager
async def _busy_beside_a_suspect(
    store: Store, programs: Programs, container: HttpServer
) -> AsyncIterator[tuple[str, Program, Callable[[], Awaitable[str]]]]:
    """An endpoint, an agent that runs `fresh` for as long as the block, and what hands a suspect back to the queue."""
    release = threading.Event()
    container.answer = lambda request: Reply(hold=release if request.headers["x-task-id"] == "fresh" else None)
    endpoint_id = await new_endpoint(store, concurrency=4)
    hand_back = await _suspect_held_elsewhere(store, endpoint_id)
    await submit(store, endpoint_id, "fresh")
    try:
        busy = programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="4")
        assert container.next().headers["x-task-id"] == "fresh"
        yield endpoint_id, busy, hand_back
    finally:
        release.set()


async def _suspect_held_elsewhere(store: Store, endpoint_id: str) -> Callable[[], Awaitable[str]]:
    """A suspect that another agent has begun; what makes that agent hand it back."""
    await submit(store, endpoint_id, "suspect")
    claims = store.queue(endpoint_id=endpoint_id, worker_id="before", lease_ms=60_000)
    (entry,) = await claims.claim(1, block_ms=1000)
    started = await claims.start(entry, address="x:1")
    assert started is not None
    await store.redis.hset(store.partitions.of(endpoint_id).task("suspect"), "resets", "2")  # type: ignore[misc]
    return partial(claims.release, started.lease)


async def _running(store: Store, endpoint_id: str, count: int) -> bool:
    """Whether agents say that they run, or keep, so many tasks."""
    return sum(worker.running_tasks for worker in await store.workers.of_endpoint(endpoint_id)) == count


async def _wait_for_readers(store: Store, count: int) -> None:
    """Return when `count` agents wait for a task. Those with tasks also wait for cancellations."""

    async def wait() -> bool:
        clients: list[dict[str, str]] = await store.redis.client_list()
        return sum(one["cmd"] == "blpop" and "b" in one["flags"] for one in clients) == count

    await wait_until_async(wait, message="the agents do not read")


async def test_a_suspect_that_waits_for_its_turn_is_handed_back_when_the_agent_drains(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    release = threading.Event()
    container.answer = lambda _: Reply(hold=release)
    endpoint_id = await new_endpoint(store, concurrency=2)
    await submit(store, endpoint_id, "fresh")
    await suspect(store, endpoint_id, "suspect")
    try:
        agent = programs.agent(endpoint_id, container.url, lease=30, WORKER_AGENT_CONCURRENCY="2")
        assert container.next().headers["x-task-id"] == "fresh"
        await _in_state(store, endpoint_id, "suspect", TaskState.RUNNING)
        agent.signal(signal.SIGTERM)
        await _in_state(store, endpoint_id, "suspect", TaskState.QUEUED)
        assert agent.running
    finally:
        release.set()
    assert agent.wait() == 0
    assert (await ended(store, endpoint_id, "fresh")).state is TaskState.SUCCEEDED
    assert [request.headers["x-task-id"] for request in container.requests] == ["fresh"]


async def test_a_suspect_that_is_cancelled_while_it_waits_for_its_turn_never_begins(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    release = threading.Event()
    container.answer = lambda _: Reply(hold=release)
    endpoint_id = await new_endpoint(store, concurrency=2, cancel_uri="/stop")
    await submit(store, endpoint_id, "fresh")
    await suspect(store, endpoint_id, "suspect")
    try:
        programs.agent(endpoint_id, container.url, WORKER_AGENT_CONCURRENCY="2")
        assert container.next().headers["x-task-id"] == "fresh"
        await _in_state(store, endpoint_id, "suspect", TaskState.RUNNING)
        assert await store.tasks.cancel(endpoint_id, "suspect") is Cancellation.REQUESTED
        assert (await ended(store, endpoint_id, "suspect")).state is TaskState.CANCELLED
    finally:
        release.set()
    assert (await ended(store, endpoint_id, "fresh")).state is TaskState.SUCCEEDED
    assert [request.path for request in container.requests] == ["/run"]


async def _in_state(store: Store, endpoint_id: str, task_id: str, state: TaskState) -> None:
    async def is_there() -> bool:
        task = await store.tasks.get(endpoint_id, task_id)
        return task is not None and task.state is state

    await wait_until_async(is_there, message=f"{task_id} is not {state}")


async def test_a_task_that_kills_its_container_fails_and_its_neighbours_finish(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    command = f"exec {shlex.join([sys.executable, str(FRAGILE_SERVER)])}"
    endpoint_id = await new_endpoint(
        store,
        workers=1,
        concurrency=4,
        expose=Expose(8000, "HTTP"),
        initialization_command=command,
        retry_delays_seconds=(0.5, 1, 2),
        max_attempts=5,
    )
    names = [f"good_{number}" for number in range(6)]
    for name in ("poison", *names):
        await submit(store, endpoint_id, name, input=b'{"poison": true}' if name == "poison" else b"{}")
    programs.controller()
    poison = await ended(store, endpoint_id, "poison", 100)
    assert poison.state is TaskState.FAILED
    assert poison.error is not None
    assert "container exited with status 9" in poison.error
    assert poison.error.endswith(
        "(the connection was lost in all 5 attempts, so the task is assumed to be the cause and is not retried)"
    )
    for name in names:
        task = await ended(store, endpoint_id, name, 60)
        assert (name, task.state) == (name, TaskState.SUCCEEDED)
        attempts = await store.tasks.attempts(endpoint_id, name)
        assert attempts is not None
        assert [one.outcome for one in attempts].count(AttemptOutcome.CONNECTION_LOST) <= 2
