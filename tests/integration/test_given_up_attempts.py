"""Attempts that the agent gives up while their call runs, and calls that break because their container ends."""

import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

import pytest

from queue_engine.domain.tasks import Attempt, AttemptOutcome, Task, TaskState
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Program, Programs, Reply, Request, ended, new_endpoint, submit
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async

DYING_SERVER = """
import json, os, signal, socket, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "exit" in given:
            os._exit(given["exit"])
        if "signal" in given:
            os.kill(os.getpid(), given["signal"])
        if "orphan" in given and os.fork() == 0:
            threading.Event().wait(60)
        os._exit(given["orphan"])

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class SlowContainer(HttpServer):
    """Works on `/run` until `finish` is set, and responds to `/stop` when `told` is set."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.finish, self.told = threading.Event(), threading.Event()

    def _respond(self, request: Request) -> Reply:
        if request.path == "/stop":
            return Reply(hold=self.told)
        is_next = request.headers["x-task-id"] == "next"
        return Reply(hold=None if is_next else self.finish)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@pytest.fixture
def container() -> Iterator[SlowContainer]:
    with SlowContainer() as server:
        try:
            yield server
        finally:
            server.finish.set()
            server.told.set()


async def in_state(store: Store, endpoint_id: str, task_id: str, state: TaskState) -> Task:
    async def there() -> Task | None:
        task = await store.tasks.get(endpoint_id, task_id)
        return task if task is not None and task.state is state else None

    task = await wait_until_async(there, message=f"{task_id} is not {state}")
    assert task is not None
    return task


async def attempts_of(store: Store, endpoint_id: str, task_id: str) -> list[Attempt]:
    attempts = await store.tasks.attempts(endpoint_id, task_id)
    assert attempts is not None
    return attempts


# The container is told


async def _time_out(_: Store, __: str) -> None:
    """The task's execution timeout is over after a second by itself."""


async def _fence(store: Store, endpoint_id: str) -> None:
    """As if the lease had run out and another agent had begun the task."""
    await store.redis.hset(store.partitions.of(endpoint_id).task("task"), "token", "another")  # type: ignore[misc]


async def _cancel(store: Store, endpoint_id: str) -> None:
    await store.tasks.cancel(endpoint_id, "task")


@pytest.mark.parametrize(
    ("give_up", "state"),
    [(_time_out, TaskState.TIMED_OUT), (_fence, TaskState.RUNNING), (_cancel, TaskState.CANCELLED)],
    ids=["timeout", "fence", "cancel"],
)
async def test_the_container_is_notified_of_a_given_up_call_before_its_slot_is_used_again(
    store: Store,
    programs: Programs,
    container: SlowContainer,
    give_up: Callable[[Store, str], Awaitable[None]],
    state: TaskState,
) -> None:
    endpoint_id = await new_endpoint(
        store, cancel_uri="/stop", execution_timeout_seconds=1 if give_up is _time_out else 60
    )
    await submit(store, endpoint_id, headers={"Authorization": "Bearer user"})
    await submit(store, endpoint_id, "next")
    programs.agent(endpoint_id, container.url)
    assert container.next().path == "/run"
    await give_up(store, endpoint_id)

    told = container.next()
    assert (told.path, told.body) == ("/stop", b'{"taskId": "task"}')
    assert (told.headers["x-task-id"], told.headers["x-task-attempt"]) == ("task", "1")
    assert "authorization" not in told.headers
    await in_state(store, endpoint_id, "task", state)  # recorded while the container has not responded
    await in_state(store, endpoint_id, "next", TaskState.QUEUED)
    container.told.set()
    await in_state(store, endpoint_id, "next", TaskState.SUCCEEDED)
    assert container.paths() == ["/run", "/stop", "/run"]


async def test_a_cancel_uri_that_does_not_respond_costs_its_slot_a_few_seconds_and_nothing_else(
    store: Store, programs: Programs, container: SlowContainer
) -> None:
    endpoint_id = await new_endpoint(store, cancel_uri="/stop", execution_timeout_seconds=1)
    await submit(store, endpoint_id)
    await submit(store, endpoint_id, "next")
    agent = programs.agent(endpoint_id, container.url)
    assert (await ended(store, endpoint_id)).state is TaskState.TIMED_OUT
    assert (await ended(store, endpoint_id, "next")).state is TaskState.SUCCEEDED
    assert "the container has not taken the cancellation" in agent.output()


async def test_no_container_is_notified_of_a_call_that_has_ended(
    store: Store, programs: Programs, container: SlowContainer
) -> None:
    container.finish.set()
    endpoint_id = await new_endpoint(store, cancel_uri="/stop")
    await submit(store, endpoint_id)
    agent = programs.agent(endpoint_id, container.url)
    await ended(store, endpoint_id)
    assert agent.stop() == 0
    assert container.paths() == ["/run"]


# The agent drains


async def test_calls_that_outlast_the_grace_are_released_before_their_container_reacts(
    store: Store, programs: Programs, container: SlowContainer
) -> None:
    names = [f"t{number}" for number in range(5)]
    endpoint_id = await new_endpoint(store, cancel_uri="/stop", concurrency=5)
    for name in names:
        await submit(store, endpoint_id, name)
    agent = programs.agent(endpoint_id, container.url, lease=30, WORKER_AGENT_GRACE_SECONDS="0.5")
    wait_until(lambda: len(container.requests) == len(names))
    agent.signal(signal.SIGTERM)

    for name in names:
        task = await in_state(store, endpoint_id, name, TaskState.QUEUED)
        assert (task.attempts, task.lost) == (0, 0)
        assert [one.outcome for one in await attempts_of(store, endpoint_id, name)] == [AttemptOutcome.RELEASED]
    assert agent.wait() == 0
    assert sorted(container.paths()) == ["/run"] * len(names) + ["/stop"] * len(names)
    assert _seconds_between_releases_and("draining", agent) < 0.5 + 1


def _seconds_between_releases_and(message: str, agent: Program) -> float:
    """How long after the line with this message the last attempt was released, by the agent's log."""
    lines = [json.loads(line) for line in agent.output().splitlines() if line.startswith("{")]
    began = next(_seconds(line) for line in lines if line["message"].startswith(message))
    return max(_seconds(line) for line in lines if line["message"] == "attempt released") - began


def _seconds(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


async def test_a_task_that_ends_while_it_is_released_is_recorded_or_queued_and_never_lost(
    store: Store, programs: Programs, container: SlowContainer
) -> None:
    names = [f"t{number}" for number in range(20)]
    endpoint_id = await new_endpoint(store, concurrency=20)
    for name in names:
        await submit(store, endpoint_id, name)
    agent = programs.agent(endpoint_id, container.url, lease=30, WORKER_AGENT_GRACE_SECONDS="0.3")
    wait_until(lambda: len(container.requests) == len(names))
    agent.signal(signal.SIGTERM)
    threading.Timer(0.3, container.finish.set).start()  # the calls end just when the grace does
    assert agent.wait() == 0
    for name in names:
        task = await store.tasks.get(endpoint_id, name)
        assert task is not None
        outcomes = [one.outcome for one in await attempts_of(store, endpoint_id, name)]
        assert (task.state, task.attempts, outcomes) in [
            (TaskState.SUCCEEDED, 1, [AttemptOutcome.OK]),
            (TaskState.QUEUED, 0, [AttemptOutcome.RELEASED]),
        ]


# The container ends


def with_command(programs: Programs, endpoint_id: str, server: str, **environment: str) -> Program:
    """An agent that runs this program as its container."""
    port = free_port()
    return programs.agent(
        endpoint_id,
        f"http://127.0.0.1:{port}",
        lease=30,
        WORKER_AGENT_CONTAINER_COMMAND=f"exec {sys.executable} -c '{server}'",
        WORKER_AGENT_CONTAINER_ENVIRONMENT=json.dumps({"PORT": str(port)}),
        **environment,
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [({"signal": 9}, "container killed by signal 9"), ({"exit": 3}, "container exited with status 3")],
)
async def test_the_error_of_a_call_that_its_container_did_not_survive_says_how_the_container_ended(
    store: Store, programs: Programs, given: dict[str, int], words: str
) -> None:
    endpoint_id = await new_endpoint(store, max_attempts=1)
    await submit(store, endpoint_id, input=json.dumps(given).encode())
    agent = with_command(programs, endpoint_id, DYING_SERVER)
    task = await ended(store, endpoint_id)
    assert task.state is TaskState.FAILED
    assert words in (task.error or "")
    assert "Server disconnected" not in (task.error or "")
    assert agent.wait() == 70


async def test_a_call_does_not_wait_for_the_grace_when_its_container_has_ended(
    store: Store, programs: Programs
) -> None:
    """A child of the container's process holds the connection open."""
    endpoint_id = await new_endpoint(store, max_attempts=1)
    await submit(store, endpoint_id, input=b'{"orphan": 4}')
    agent = with_command(programs, endpoint_id, DYING_SERVER, WORKER_AGENT_GRACE_SECONDS="60")
    task = await ended(store, endpoint_id)
    assert "container exited with status 4" in (task.error or "")
    assert agent.wait() == 70
