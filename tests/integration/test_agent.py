"""The agent as a process: requests to the container, and the outcome of each kind of response and failure."""

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from queue_engine.crypto.sealing import Sealer, new_secret_key, parse_secret_key
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.retry import DEFAULT_RETRY_ON, RetryOn
from queue_engine.domain.tasks import AttemptOutcome, Task, TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.queue import Entry
from queue_engine.store.store import Store
from tests.integration.parts import (
    SECRET_KEY,
    TENANT,
    HttpServer,
    Programs,
    Reply,
    ended,
    new_endpoint,
    open_store,
    programs_on,
    replies,
    submit,
)
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.waiting import GIVE_UP_SECONDS, wait_until, wait_until_async
from worker_agent.tasks import MAX_UNSTARTED_SECONDS


async def test_the_container_gets_the_input_the_headers_and_who_it_is_for(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    given = b'{"big": 123456789012345678901234567890, "twice": 1, "twice": 2, "far": 1e999}'
    headers = {"Authorization": "Bearer user", "X-Model": "small"}
    await submit(store, endpoint_id, input=given, headers=headers, uri="/v1/run;mode=a/")
    programs.agent(endpoint_id, container.url)

    request = container.next()
    assert request.path == "/v1/run;mode=a/"
    assert request.body == given
    assert request.headers["authorization"] == "Bearer user"
    assert request.headers["x-model"] == "small"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-task-id"] == "task"
    assert request.headers["x-endpoint-id"] == endpoint_id
    assert request.headers["x-task-attempt"] == "1"
    task = await ended(store, endpoint_id)
    assert task.output == given
    assert task.worker_url == f"{container.url}/v1/run;mode=a/"
    assert (task.state, task.attempts, task.error) == (TaskState.SUCCEEDED, 1, None)


@dataclass
class RunningAgent:
    """An agent that several tests share, one after the other, with a store and a container of its own."""

    store_url: str
    endpoint_id: str
    container: HttpServer

    async def run(self, reply: Reply) -> Task:
        """Let the container reply with this to a new task; returns the task when it has ended."""
        self.container.answer = replies(reply)
        self.container.requests.clear()
        store = open_store(self.store_url)
        try:
            task_id = f"task_{uuid4().hex}"
            await submit(store, self.endpoint_id, task_id)
            return await ended(store, self.endpoint_id, task_id)
        finally:
            await store.close()


@contextmanager
def running_agent(directory: Path, **environment: Any) -> Iterator[RunningAgent]:
    """Run an agent of a new endpoint in a store of its own, because the shared ones are emptied before each test."""

    async def prepared(url: str) -> str:
        store = open_store(url)
        try:
            await store.prepare()
            return await new_endpoint(store)
        finally:
            await store.close()

    with (
        StoreServer(valkey_binary(), directory) as server,
        HttpServer() as container,
        programs_on(server.url, directory) as programs,
    ):
        endpoint_id = asyncio.run(prepared(server.url))
        programs.agent(endpoint_id, container.url, **environment)
        yield RunningAgent(server.url, endpoint_id, container)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture(scope="module")
def agent_of_small_responses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with running_agent(tmp_path_factory.mktemp("agent"), WORKER_AGENT_MAX_ANSWER_BYTES="4096") as running:
        yield running


@pytest.mark.parametrize(
    ("reply", "output"),
    [
        (Reply(body=b'{"x": 1.50}'), b'{"x": 1.50}'),
        (Reply(body="grüße".encode(), headers={"Content-Type": "text/plain"}), '"grüße"'.encode()),
        (Reply(body=b'{"a": NaN}'), b'"{\\"a\\": NaN}"'),
        (Reply(body=b"", status=204, headers={}), b"null"),
        (Reply(body=b"[" * 5000 + b"]" * 5000), b'"' + b"[" * 5000 + b"]" * 5000 + b'"'),
        (
            Reply(body=b"\x00\xff", headers={"Content-Type": "image/png"}),
            b'{"contentType": "image/png", "base64": "AP8="}',
        ),
        (
            Reply(body=b'"\xff"'),
            b'{"contentType": "application/json", "base64": "Iv8i"}',
        ),
    ],
    ids=["json", "text", "not quite json", "empty", "deep", "binary", "broken utf-8"],
)
async def test_a_2xx_response_becomes_the_output(agent: RunningAgent, reply: Reply, output: bytes) -> None:
    task = await agent.run(reply)
    assert task.state is TaskState.SUCCEEDED
    assert task.output == output
    json.loads(output)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(500, b"no such model " + b"x" * 5000), ["answered 500", "no such model"]),
        (Reply(404, b"<html>not here</html>"), ["answered 404", "<html>not here"]),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), ["answered 302"]),
        (Reply(200, b"y" * 5000), ["5000 bytes", "limit is 4096"]),
    ],
    ids=["500", "404", "redirect", "too large"],
)
async def test_any_other_response_ends_the_task_with_the_reason(
    agent_of_small_responses: RunningAgent, reply: Reply, words: list[str]
) -> None:
    task = await agent_of_small_responses.run(reply)
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert all(word in task.error for word in words), task.error
    assert len(task.error) < 2300
    assert len(agent_of_small_responses.container.requests) == 1


async def test_a_busy_worker_is_asked_again_until_it_is_free(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = replies(Reply(), Reply(503), Reply(429), Reply(429), Reply(body=b'"done"'))
    endpoint_id = await new_endpoint(store, max_attempts=1, retry_delays_seconds=(0.1,))
    await submit(store, endpoint_id, "first")
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, container.url)
    programs.controller()
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts, task.output) == (TaskState.SUCCEEDED, 1, b'"done"')
    assert [request.headers["x-task-attempt"] for request in container.requests] == ["1"] * 5
    attempts = await store.tasks.attempts(endpoint_id, "task")
    assert attempts is not None
    assert [(one.outcome, one.tries) for one in attempts] == [(AttemptOutcome.BUSY, 3), (AttemptOutcome.OK, 1)]


async def test_a_409_ends_a_task_unless_the_endpoint_retries_it(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    at_capacity = Reply(409, b"At capacity")
    container.answer = replies(Reply(), at_capacity, at_capacity, Reply(body=b'"done"'), at_capacity)
    retried = DEFAULT_RETRY_ON | {RetryOn.CONFLICT}
    endpoint_id = await new_endpoint(store, max_attempts=1, retry_delays_seconds=(0.1,), retry_on=retried)
    programs.controller()
    programs.agent(endpoint_id, container.url)
    await submit(store, endpoint_id, "first")
    await ended(store, endpoint_id, "first")
    await submit(store, endpoint_id)
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts, task.output) == (TaskState.SUCCEEDED, 1, b'"done"')
    attempts = await store.tasks.attempts(endpoint_id, "task")
    assert attempts is not None
    assert [(one.outcome, one.tries) for one in attempts] == [(AttemptOutcome.BUSY, 2), (AttemptOutcome.OK, 1)]

    other = await new_endpoint(store)
    programs.agent(other, container.url)
    await submit(store, other)
    task = await ended(store, other)
    assert (task.state, task.attempts) == (TaskState.FAILED, 1)
    assert "answered 409: At capacity" in (task.error or "")


async def test_a_worker_that_stays_busy_uses_up_the_attempts(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = replies(Reply(), Reply(503, b"loading"))
    endpoint_id = await new_endpoint(store, max_attempts=2, max_busy_seconds=0)
    await submit(store, endpoint_id, "first")
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, container.url)
    programs.controller()
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts) == (TaskState.FAILED, 2)
    assert "answered 503: loading" in (task.error or "")
    assert "attempt 2 of 2" in (task.error or "")


async def test_a_retry_after_of_the_container_does_not_outlast_max_busy_seconds(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = replies(Reply(), Reply(503, b"loading", {"Retry-After": "3600"}))
    endpoint_id = await new_endpoint(store, max_attempts=1, max_busy_seconds=2)
    await submit(store, endpoint_id, "first")
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, container.url)
    programs.controller()
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts) == (TaskState.FAILED, 1)
    assert "answered 503: loading" in (task.error or "")


async def test_no_response_within_the_execution_timeout_ends_the_task_and_the_call(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release), Reply())
    endpoint_id = await new_endpoint(store, execution_timeout_seconds=1)
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, container.url)
    task = await ended(store, endpoint_id)
    release.set()
    assert task.state is TaskState.TIMED_OUT
    assert "execution timeout: 1 s" in (task.error or "")


def raw_container(talk: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Return a server that runs `talk` for each connection, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536):
                    talk(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listener, listener.getsockname()[1]


def _endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    try:
        while True:
            connection.sendall(b" " * 65536)
    except OSError:
        return


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (_endless, "more than 100000 bytes"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort"), "connection"),
        (lambda c: c.sendall(b"this is not HTTP\r\n\r\n"), "cannot be understood"),
        (lambda c: None, "connection"),
    ],
    ids=["endless", "a length that lies", "not http", "no answer and closed"],
)
async def test_a_container_that_breaks_the_protocol_fails_its_task_and_nothing_else(
    store: Store, programs: Programs, container: HttpServer, talk: Callable[[socket.socket], None], words: str
) -> None:
    listener, port = raw_container(talk)
    with listener:
        endpoint_id = await new_endpoint(store, max_attempts=1)
        await submit(store, endpoint_id)
        agent = programs.agent(endpoint_id, f"http://127.0.0.1:{port}", WORKER_AGENT_MAX_ANSWER_BYTES="100000")
        task = await ended(store, endpoint_id)
        assert task.state is TaskState.FAILED
        assert words in (task.error or "")
        assert agent.running


async def test_nothing_is_claimed_before_the_container_listens(store: Store, programs: Programs) -> None:
    port = free_port()
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    programs.agent(endpoint_id, f"http://127.0.0.1:{port}")

    async def statuses() -> list[WorkerStatus]:
        return [worker.status for worker in await store.workers.of_endpoint(endpoint_id)]

    async def initializing() -> bool:
        return await statuses() == [WorkerStatus.INITIALIZING]

    await wait_until_async(initializing)
    waiting = await store.tasks.get(endpoint_id, "task")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (TaskState.QUEUED, 0)
    with HttpServer(port=port):
        task = await ended(store, endpoint_id)
        assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 1)
        assert await statuses() == [WorkerStatus.RUNNING]


async def test_concurrency_is_kept(store: Store, programs: Programs, container: HttpServer) -> None:
    release = threading.Event()
    container.answer = lambda _: Reply(hold=release)
    endpoint_id = await new_endpoint(store, concurrency=3)
    for number in range(5):
        await submit(store, endpoint_id, f"t{number}")
    programs.agent(endpoint_id, container.url)
    wait_until(lambda: len(container.requests) == 3)

    async def counts() -> tuple[int, int]:
        found = await store.tasks.counts(endpoint_id)
        return found.running, found.queued

    assert await counts() == (3, 2)
    release.set()
    for number in range(5):
        assert (await ended(store, endpoint_id, f"t{number}")).state is TaskState.SUCCEEDED
    assert len(container.requests) == 5


async def test_a_task_whose_agent_is_killed_runs_again_elsewhere_and_ends_once(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    never = threading.Event()
    container.answer = replies(Reply(hold=never), Reply(body=b'"second"'))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, webhook=f"{receiver.url}/hook")
    programs.controller()
    programs.delivery()
    first = programs.agent(endpoint_id, container.url)
    container.next()
    first.kill()
    programs.agent(endpoint_id, container.url)

    assert container.next(20).headers["x-task-attempt"] == "2"
    task = await ended(store, endpoint_id)
    never.set()
    assert (task.state, task.attempts, task.lost, task.output) == (TaskState.SUCCEEDED, 2, 1, b'"second"')
    receiver.next()

    async def delivered() -> bool:
        return (await store.tasks.counts(endpoint_id)).delivered == 1

    await wait_until_async(delivered)
    assert len(receiver.requests) == 1
    assert len(container.requests) == 2


async def test_a_paused_agent_whose_task_ran_elsewhere_is_fenced(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    stuck = threading.Event()
    container.answer = replies(Reply(hold=stuck, body=b'"late"'), Reply(body=b'"second"'))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    programs.controller()
    first = programs.agent(endpoint_id, container.url)
    container.next()
    first.signal(signal.SIGSTOP)
    programs.agent(endpoint_id, container.url)
    assert (await ended(store, endpoint_id)).output == b'"second"'
    stuck.set()
    first.signal(signal.SIGCONT)
    wait_until(lambda: "fenced" in first.output() or '"store": "FENCED"' in first.output(), message=first.output())
    task = await store.tasks.get(endpoint_id, "task")
    assert task is not None
    assert task.output == b'"second"'


async def test_a_paused_agent_keeps_a_task_that_no_other_agent_took(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    stuck = threading.Event()
    container.answer = replies(Reply(hold=stuck, body=b'"hours of work"'))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    programs.controller()
    agent = programs.agent(endpoint_id, container.url)
    container.next()
    agent.signal(signal.SIGSTOP)

    async def taken_back() -> bool:
        task = await store.tasks.get(endpoint_id, "task")
        return task is not None and task.state is TaskState.QUEUED

    await wait_until_async(taken_back)
    agent.signal(signal.SIGCONT)

    async def held_again() -> bool:
        task = await store.tasks.get(endpoint_id, "task")
        return task is not None and task.state is TaskState.RUNNING and task.lost == 0

    await wait_until_async(held_again)
    stuck.set()
    task = await ended(store, endpoint_id)
    assert (task.output, task.attempts, len(container.requests)) == (b'"hours of work"', 1, 1)


async def test_sigterm_lets_a_running_task_finish(store: Store, programs: Programs, container: HttpServer) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, "running")
    agent = programs.agent(endpoint_id, container.url)
    container.next()
    await submit(store, endpoint_id, "waiting")
    agent.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in agent.output())
    release.set()
    assert agent.wait() == 0
    assert (await ended(store, endpoint_id, "running")).state is TaskState.SUCCEEDED
    waiting = await store.tasks.get(endpoint_id, "waiting")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (TaskState.QUEUED, 0)
    assert await store.workers.of_endpoint(endpoint_id) == []


async def test_the_hook_of_a_pods_container_gets_its_response_after_the_drain(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, "running")
    port = free_port()
    agent = programs.agent(
        endpoint_id, container.url, WORKER_AGENT_DRAIN_HOOK="true", WORKER_AGENT_METRICS_PORT=str(port)
    )
    container.next()
    async with httpx.AsyncClient(trust_env=False, timeout=GIVE_UP_SECONDS) as client:
        hook = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/drained"))
        agent.signal(signal.SIGTERM)
        await wait_until_async(lambda: "draining" in agent.output())
        assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
        assert not hook.done()
        release.set()
        assert (await hook).text == "drained\n"
    assert agent.wait() == 0
    assert (await ended(store, endpoint_id, "running")).state is TaskState.SUCCEEDED


async def test_a_task_that_outlasts_the_grace_is_handed_back_at_no_cost(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    never = threading.Event()
    container.answer = replies(Reply(hold=never), Reply())
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    first = programs.agent(endpoint_id, container.url, lease=30, WORKER_AGENT_GRACE_SECONDS="0.2")
    container.next()
    assert first.stop() == 0
    task = await store.tasks.get(endpoint_id, "task")
    assert task is not None
    assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 0, 0)
    programs.agent(endpoint_id, container.url)
    assert (await ended(store, endpoint_id)).attempts == 1
    never.set()


async def test_an_unmanaged_agent_pauses_while_its_endpoint_is_stopped(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release), Reply())
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, "running")
    agent = programs.agent(endpoint_id, container.url)
    container.next()
    for wanted, status in (
        (DesiredState.STOPPED, WorkerStatus.STOPPING),
        (DesiredState.RUNNING, WorkerStatus.RUNNING),
        (DesiredState.STOPPED, WorkerStatus.STOPPING),
    ):
        assert await store.endpoints.set_desired_state(endpoint_id, TENANT, wanted)
        await wait_until_async(partial(has_worker, store, endpoint_id, status), message=f"is not {status}")
    release.set()
    assert (await ended(store, endpoint_id, "running")).state is TaskState.SUCCEEDED
    await wait_until_async(partial(has_worker, store, endpoint_id, WorkerStatus.STOPPED))
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.RUNNING)
    await submit(store, endpoint_id, "next")
    assert (await ended(store, endpoint_id, "next")).state is TaskState.SUCCEEDED
    await wait_until_async(partial(has_worker, store, endpoint_id, WorkerStatus.RUNNING))
    assert agent.running


async def test_an_unmanaged_agent_finishes_its_task_and_ends_when_its_endpoint_is_deleted(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, webhook=f"{receiver.url}/hook")
    agent = programs.agent(endpoint_id, container.url)
    container.next()
    programs.controller()
    assert await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)
    wait_until(lambda: "the endpoint is deleted" in agent.output())
    late = programs.agent(endpoint_id, container.url)
    assert late.wait() == 0
    release.set()
    assert agent.wait() == 0
    programs.delivery()
    assert json.loads(receiver.next(20).body)["success"] is True

    async def removed() -> bool:
        return await store.endpoints.ids() == []

    await wait_until_async(removed, message="the endpoint is not removed")


async def has_worker(store: Store, endpoint_id: str, status: WorkerStatus) -> bool:
    return [worker.status for worker in await store.workers.of_endpoint(endpoint_id)] == [status]


async def test_a_result_is_kept_while_the_store_is_away(
    store: Store, programs: Programs, container: HttpServer, valkey_server: StoreServer
) -> None:
    release = threading.Event()
    container.answer = replies(Reply(hold=release, body=b'"kept"'))
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    agent = programs.agent(endpoint_id, container.url, lease=30)
    container.next()
    valkey_server.pause()
    release.set()
    wait_until(
        lambda: "the store is away" in agent.output(), message="the agent does not notice that the store is away"
    )
    valkey_server.resume()
    assert (await ended(store, endpoint_id)).output == b'"kept"'


@pytest.mark.parametrize("keys", ["none", "an older one", "an older and a newer one"])
async def test_an_agent_without_the_key_of_a_tasks_headers_leaves_it_to_others(
    store: Store, programs: Programs, container: HttpServer, keys: str
) -> None:
    newer_key = new_secret_key()
    variables: dict[str, Any] = {"QUEUE_ENGINE_SECRET_KEY": "" if keys == "none" else SECRET_KEY}
    newer: dict[str, Any] = {"QUEUE_ENGINE_SECRET_KEY": newer_key, "QUEUE_ENGINE_SECRET_KEY_PREVIOUS": SECRET_KEY}
    if keys == "an older and a newer one":
        variables["QUEUE_ENGINE_SECRET_KEY_PREVIOUS"] = new_secret_key()
    await store.prepare()
    sealing = Store(store.url, Sealer(parse_secret_key(newer_key), [parse_secret_key(SECRET_KEY)]))
    await sealing.prepare()  # notes the newer key
    endpoint_id = await new_endpoint(store)
    agent = programs.agent(endpoint_id, container.url, lease=30, **variables)
    names = [f"t{number}" for number in range(10)]
    for name in names:
        await submit(sealing, endpoint_id, name, headers={"X-Any": "1"})
    await sealing.close()

    async def explained() -> bool:
        workers = await store.workers.of_endpoint(endpoint_id)
        return any("QUEUE_ENGINE_SECRET_KEY" in (worker.error or "") for worker in workers)

    await wait_until_async(explained, message="the worker's error does not say why")
    counts = await store.tasks.counts(endpoint_id)
    assert (counts.queued, counts.failed) == (10, 0)
    assert container.requests == []
    programs.agent(endpoint_id, container.url, **newer)
    for name in names:
        task = await ended(store, endpoint_id, name)
        assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 1)
    assert agent.output().count("leaves tasks to other agents") <= 2  # a read covers two queues


async def test_headers_sealed_with_a_key_that_is_no_longer_in_use_fail_their_task_visibly(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    forgotten = Store(store.url, Sealer(parse_secret_key(new_secret_key())))
    endpoint_id = await new_endpoint(store)
    await submit(forgotten, endpoint_id, headers={"X-Any": "1"})
    await forgotten.close()
    programs.agent(endpoint_id, container.url)
    task = await ended(store, endpoint_id)
    assert task.state is TaskState.FAILED
    assert "QUEUE_ENGINE_SECRET_KEY" in (task.error or "")
    assert container.requests == []


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (("--endpoint", "x"), {}, "--endpoint"),
        (("--endpoint", "999"), {}, "endpoint 999 does not exist"),
        (("--endpoint", "1", "--container-url", "https://x/y"), {}, "--container-url"),
        (("--endpoint", "1"), {"WORKER_AGENT_LEASE_SECONDS": "soon"}, "WORKER_AGENT_LEASE_SECONDS"),
        (("--endpoint", "1"), {"QUEUE_ENGINE_SECRET_KEY": "short"}, "--secret-key (QUEUE_ENGINE_SECRET_KEY)"),
    ],
)
async def test_a_mistake_is_named_at_start(
    store: Store, programs: Programs, arguments: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    agent = programs.start("agent", "worker_agent", *arguments, **environment)
    assert agent.wait() == 2
    assert named in agent.output()
    assert "Traceback" not in agent.output()


async def test_what_an_agent_had_read_when_it_died_begins_after_a_lease(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id)
    dead = store.queue(endpoint_id=endpoint_id, worker_id="dead", lease_ms=1000)
    assert len(await dead.claim(1, block_ms=1000)) == 1
    agent = programs.agent(endpoint_id, container.url, lease=0.5)
    wait_until(lambda: "the container is up" in agent.output())
    await dead.unstarted()  # which says that it has it still
    task = await ended(store, endpoint_id, timeout=MAX_UNSTARTED_SECONDS - 1)
    assert (task.state, task.attempts, task.lost) == (TaskState.SUCCEEDED, 1, 0)


async def test_what_a_dead_agent_had_read_does_not_wait_for_a_free_slot_of_one_agent(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    """Else it would wait for as long as new tasks fill each slot at once."""
    release = threading.Event()
    container.answer = replies(Reply(hold=release), Reply())
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, "first")
    dead = store.queue(endpoint_id=endpoint_id, worker_id="dead", lease_ms=1000)
    try:
        programs.agent(endpoint_id, container.url, lease=0.5, WORKER_AGENT_CONCURRENCY="1")
        container.next()
        await submit(store, endpoint_id, "task")
        assert len(await dead.claim(1, block_ms=1000)) == 1

        async def free() -> list[Entry]:
            return await dead.claim(1, block_ms=1)

        (entry,) = await wait_until_async(free, message="the busy agent leaves the entry to the dead one")
        assert entry.task_id == "task"
        await dead.put_back(entry)
    finally:
        release.set()
    assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED
