"""Users, crashes and two controllers at once, in random order: afterwards all is as it was asked for, nothing is lost.

What happens is drawn from a seed, which is printed; RANDOM_LIFE_CYCLE_SEED repeats it. Real time and real processes are
part of it, so a repeat is alike and not the same.
"""

import json
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from tests.integration.parts import HttpServer, Program, Programs, Reply, Request, programs_on
from tests.integration.test_up import API_KEY, ECHO, ROOT
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import GIVE_UP_SECONDS, wait_until

OPERATION_SECONDS = 26.0
MOST_ENDPOINTS = 3
MOST_WORKERS = 2
QUICK = f"{sys.executable} {ROOT / 'tests/integration/slow_server.py'} 0.3"
RESOURCES = [{"region": "here", "gpuType": "CPU", "gpuCount": 1}]
CONTROLLER_SETTINGS = {
    "QUEUE_ENGINE_LEASE_SECONDS": "2",
    "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "2",
    "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "2",
    "QUEUE_ENGINE_WORKER_SILENCE_SECONDS": "6",
}
FAILURES = re.compile(
    r"endpoint deleted"
    r"|the task's worker was lost \d+ times while it ran the task: .*"
    r"|(no connection to the worker's container|the connection to the worker's container was lost)"
    r".* \((attempt \d+ of \d+, no attempts are left|the connection was lost in all \d+ attempts, .*)\)"
)
"""Why a task may fail when workers are killed and endpoints deleted."""
NEXT = {"STOPPING": {"STOPPED"}, "STOPPED": set[str]()}
"""The statuses that may follow those that a worker does not leave again."""


@dataclass
class Wish:
    """What was last asked of an endpoint, and the tasks that it has acknowledged."""

    workers: int
    running: bool = True
    tasks: dict[str, bool] = field(default_factory=dict)
    """Task id, and whether it has a webhook."""

    @property
    def wanted(self) -> int:
        return self.workers if self.running else 0


class Receiver:
    """Takes webhooks; responds 500 to the first attempt of some."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.server = HttpServer(self._answer)

    def _answer(self, request: Request) -> Reply:
        message_id = request.headers["webhook-id"]
        first = message_id not in self._seen
        self._seen.add(message_id)
        return Reply(500) if first and sum(message_id.encode()) % 4 == 0 else Reply(204, b"")

    def results(self) -> dict[tuple[str, str], list[Request]]:
        """What came for each task, by endpoint and task id."""
        found = defaultdict(list)
        for request in list(self.server.requests):
            if request.path == "/result":
                body = json.loads(request.body)
                found[body["endpoint_id"], body["user_task_id"]].append(request)
        return found

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """The status changes of each worker as they came, without repeats."""
        found, known = defaultdict(list), set()
        for request in list(self.server.requests):
            if request.path == "/status" and request.headers["webhook-id"] not in known:
                known.add(request.headers["webhook-id"])
                event = json.loads(request.body)
                found[event["workerId"]].append(event)
        return found


class Stack:
    """The engine's processes against an external store: one API, one delivery, two controllers."""

    def __init__(self, programs: Programs, directory: Path, receiver: Receiver) -> None:
        self._programs = programs
        self._marker = str(directory)
        self._receiver = receiver
        port = free_port()
        self._started = [
            programs.start(
                "api",
                "queue_engine",
                "api",
                QUEUE_ENGINE_PORT=str(port),
                QUEUE_ENGINE_API_KEY=API_KEY,
                TMPDIR=str(directory),
            ),
            programs.delivery(schedule=",".join(["0.2"] * 20), TMPDIR=str(directory)),
        ]
        self.controllers = [self._controller(), self._controller()]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-Api-Key": API_KEY}, timeout=10)
        wait_until(self._answers, message="the API does not answer")

    def _controller(self) -> Program:
        settings = {**CONTROLLER_SETTINGS, "TMPDIR": self._marker}
        return self._programs.start("controller", "queue_engine", "controller", **settings)

    def _answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        response = self.client.request(method, f"/v2/serverless{path}", json=body)
        assert response.status_code < 500, response.text
        return response.status_code, response.json()["data"]

    def get(self, path: str) -> Any:
        status, data = self.call("GET", path)
        assert status == 200, (path, status)
        return data

    def kill_controller(self, index: int) -> None:
        self.controllers[index].kill()

    def start_dead_controllers(self) -> None:
        self.controllers = [one if one.running else self._controller() for one in self.controllers]

    def worker_processes(self) -> list[tuple[psutil.Process, dict[str, str], bool]]:
        """All processes of workers, found by a variable that everything inherits; the last tells agents."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get("TMPDIR") == self._marker and "WORKER_AGENT_WORKER_ID" in environment:
                    found.append((process, environment, "worker_agent" in process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return [one for one in found if one[0].is_running() and one[0].status() != psutil.STATUS_ZOMBIE]

    def log(self) -> str:
        """The end of what every process said."""
        return "\n".join(
            f"--- {one.name} {one.pid}\n{one.output()[-3000:]}" for one in [*self._started, *self.controllers]
        )


class Story:
    """Random operations, and what must be true after them."""

    def __init__(self, stack: Stack, receiver: Receiver, chance: random.Random) -> None:
        self._stack = stack
        self._receiver = receiver
        self._chance = chance
        self._started_at = time.monotonic()
        self._restart_at: float | None = None
        self._tasks = 0
        self.wishes: dict[str, Wish] = {}
        self.deleted: dict[str, Wish] = {}
        self.told: list[str] = []
        self._operations: list[tuple[Callable[[], str | None], int]] = [
            (self._create, 8),
            (self._renew, 2),
            (self._scale, 3),
            (self._stop, 2),
            (self._start, 4),
            (self._stop_and_start, 3),
            (self._delete, 1),
            (self._submit, 100),
            (self._kill_agent, 4),
            (self._kill_container, 4),
            (self._kill_controller, 2),
        ]

    # What happens

    def go_on(self) -> bool:
        """One operation; False when it is over."""
        now = time.monotonic()
        if self._restart_at is not None and now >= self._restart_at:
            self._restart_at = None
            self._stack.start_dead_controllers()
            self._tell("restart controllers")
        operations, weights = zip(*self._operations, strict=True)
        [operation] = self._chance.choices(operations, weights)
        what = operation()
        if what is not None:
            self._tell(what)
        self.wait(self._chance.uniform(0, 0.2))
        return now - self._started_at < OPERATION_SECONDS

    def end(self) -> None:
        """Everything that was killed is back, and every endpoint that lives has a worker or is stopped."""
        self._stack.start_dead_controllers()
        while not self.wishes:
            self._tell(self._create() or "")
        self._tell("end")

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= until)

    def _tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self._started_at:6.2f} {what}")

    def _any_endpoint(self) -> str | None:
        return self._chance.choice(sorted(self.wishes)) if self.wishes else None

    def _create(self) -> str | None:
        if len(self.wishes) >= MOST_ENDPOINTS:
            return None
        workers = self._chance.randint(1, MOST_WORKERS)
        body = {
            "name": "random",
            "image": "none",
            "resources": RESOURCES,
            "workers": workers,
            "containerVolumeInGb": 20,
            "serviceMode": "QUEUE",
            "initializationCommand": self._chance.choice([ECHO, QUICK]),
            "expose": {"port": 8000, "protocol": "http"},
            "maxAttempts": 4,
            "webhook": f"{self._receiver.server.url}/status",
        }
        status, data = self._stack.call("POST", "", body)
        assert status == 200
        self.wishes[data["id"]] = Wish(workers)
        return f"create {data['id']} with {workers}"

    def _renew(self) -> str | None:
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        workers = self._chance.randint(1, MOST_WORKERS)
        body = {
            "name": "renewed",
            "resources": RESOURCES,
            "workers": workers,
            "containerVolumeInGb": 20,
            "environmentVars": [{"key": "MODE", "value": str(self._chance.random())}],
        }
        status, _ = self._stack.call("PATCH", f"/{endpoint_id}", body)
        assert status == 200
        self.wishes[endpoint_id].workers = workers
        return f"renew {endpoint_id} with {workers}"

    def _scale(self) -> str | None:
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        count = self._chance.randint(0, MOST_WORKERS)
        status, _ = self._stack.call("PUT", f"/{endpoint_id}/workers?count={count}")
        assert status == 200
        self.wishes[endpoint_id].workers = count
        return f"scale {endpoint_id} to {count}"

    def _stop(self) -> str | None:
        return self._switch("stop", False)

    def _start(self) -> str | None:
        return self._switch("start", True)

    def _stop_and_start(self) -> str | None:
        """At once: the controller may see nothing of it, and the agents may."""
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        for word in ("stop", "start"):
            status, _ = self._stack.call("POST", f"/{endpoint_id}/{word}")
            assert status == 200
            pause = self._chance.uniform(0.2, 0.8)
            self.wait(pause if word == "stop" else 0)
        self.wishes[endpoint_id].running = True
        return f"stop and start {endpoint_id}"

    def _switch(self, word: str, running: bool) -> str | None:
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        status, _ = self._stack.call("POST", f"/{endpoint_id}/{word}")
        assert status == 200
        self.wishes[endpoint_id].running = running
        return f"{word} {endpoint_id}"

    def _delete(self) -> str | None:
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        status, _ = self._stack.call("DELETE", f"/{endpoint_id}")
        assert status == 200
        self.deleted[endpoint_id] = self.wishes.pop(endpoint_id)
        return f"delete {endpoint_id}"

    def _submit(self) -> str | None:
        endpoint_id = self._any_endpoint()
        if endpoint_id is None:
            return None
        self._tasks += 1
        body: dict[str, Any] = {"taskId": f"t{self._tasks}", "input": 1, "workerPort": 8000, "processUri": "/run"}
        told = self._chance.random() < 0.7
        if told:
            body["webhook"] = f"{self._receiver.server.url}/result"
        status, _ = self._stack.call("POST", f"/{endpoint_id}/tasks", body)
        wish = self.wishes[endpoint_id]
        if status == 200:
            assert wish.running
            wish.tasks[body["taskId"]] = told
        else:
            assert status == 409
        return None

    def _kill_agent(self) -> str | None:
        return self._kill([process for process, _, is_agent in self._stack.worker_processes() if is_agent], "agent")

    def _kill_container(self) -> str | None:
        containers = [process for process, _, is_agent in self._stack.worker_processes() if not is_agent]
        return self._kill(containers, "container")

    def _kill(self, processes: list[psutil.Process], what: str) -> str | None:
        if not processes:
            return None
        victim = self._chance.choice(processes)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return None
        return f"kill {what} {victim.pid}"

    def _kill_controller(self) -> str | None:
        if self._restart_at is not None:
            return None
        index = self._chance.randrange(2)
        self._stack.kill_controller(index)
        self._restart_at = time.monotonic() + self._chance.uniform(0.5, 2.5)
        return f"kill controller {index}"

    # What must be true in the end

    def unsettled(self) -> list[str]:
        """What is not yet as it was asked for."""
        faults = self._wrong_processes()
        for endpoint_id, wish in self.wishes.items():
            faults += self._wrong_workers(endpoint_id, wish)
            faults += self._waiting_tasks(endpoint_id, wish)
        faults += self._wrong_events()
        results = self._receiver.results()
        for endpoint_id, wish in self.deleted.items():
            faults += [
                f"no webhook for task {task_id} of deleted endpoint {endpoint_id}"
                for task_id, told in wish.tasks.items()
                if told and (endpoint_id, task_id) not in results
            ]
        return faults

    def _wrong_processes(self) -> list[str]:
        processes = self._stack.worker_processes()
        agents = {process.pid: environment for process, environment, is_agent in processes if is_agent}
        counts = Counter(environment["WORKER_AGENT_ENDPOINT"] for environment in agents.values())
        wanted = {endpoint_id: wish.wanted for endpoint_id, wish in self.wishes.items() if wish.wanted}
        faults = [] if counts == wanted else [f"agents that run, by endpoint: {dict(counts)}, wanted: {wanted}"]
        orphans = [process.pid for process, _, is_agent in processes if not is_agent and _group(process) not in agents]
        return faults + [f"a process without its agent: {pid}" for pid in orphans]

    def _wrong_workers(self, endpoint_id: str, wish: Wish) -> list[str]:
        statuses = [worker["status"] for worker in self._stack.get(f"/{endpoint_id}/workers")]
        expected = ["RUNNING"] * wish.wanted
        return [] if statuses == expected else [f"workers of {endpoint_id}: {statuses}, wanted: {expected}"]

    def _waiting_tasks(self, endpoint_id: str, wish: Wish) -> list[str]:
        """Tasks that should have ended, and ends that the webhook should have been told."""
        count = self._stack.get(f"/{endpoint_id}/tasks/count")
        faults = []
        if wish.wanted and count["processing"]:
            faults.append(f"endpoint {endpoint_id} has workers, and tasks that have not ended: {count}")
        if count["running"]:
            faults.append(f"endpoint {endpoint_id} has running tasks: {count}")
        untold = [
            item["taskId"]
            for item in self._items(endpoint_id)
            if item["webhook"] and item["status"] != "PROCESSING" and item["deliveryStatus"] != "SUCCESS"
        ]
        return faults + [f"webhooks of {endpoint_id} that are not delivered: {untold}" for _ in untold[:1]]

    def _items(self, endpoint_id: str) -> list[dict[str, Any]]:
        page = self._stack.get(f"/{endpoint_id}/tasks?pageSize=1000")
        assert page["total"] == len(page["items"])
        items: list[dict[str, Any]] = page["items"]
        return items

    def _wrong_events(self) -> list[str]:
        """Of every worker each change must have been told, in order; the last one is what the worker is."""
        workers = {
            worker["workerId"]: worker["status"]
            for endpoint_id in self.wishes
            for worker in self._stack.get(f"/{endpoint_id}/workers")
        }
        faults = []
        events = self._receiver.events()
        for worker_id in {*workers, *events}:
            before = [event["previousStatus"] for event in events[worker_id]]
            after = [event["status"] for event in events[worker_id]]
            is_chain = before == [None, *after][:-1]
            may_follow = all(one not in NEXT or next_one in NEXT[one] for one, next_one in pairwise(after))
            if not (is_chain and may_follow and after[-1:] == [workers.get(worker_id, "STOPPED")]):
                faults.append(f"events of worker {worker_id} ({workers.get(worker_id, 'gone')}): {after}")
        return faults

    def check_tasks(self) -> None:
        """No task is lost, counts are what is there, and tasks failed for no other reason than they may."""
        for endpoint_id, wish in self.wishes.items():
            items = {item["taskId"]: item for item in self._items(endpoint_id)}
            assert set(items) == set(wish.tasks)
            count = self._stack.get(f"/{endpoint_id}/tasks/count")
            statuses = Counter(item["status"] for item in items.values())
            assert (count["processing"], count["success"], count["delivered"], count["failed"]) == tuple(
                statuses[status] for status in ("PROCESSING", "SUCCESS", "DELIVERED", "FAILED")
            )
            for item in items.values():
                error = item["error"]
                assert item["status"] != "FAILED" or FAILURES.fullmatch(error), (endpoint_id, item["taskId"], error)

    def check_webhooks(self) -> None:
        """Every ended task was told, with one id for all attempts; what never ended was not."""
        results = self._receiver.results()
        for endpoint_id, wish in (self.wishes | self.deleted).items():
            for task_id, told in wish.tasks.items():
                requests = results.pop((endpoint_id, task_id), [])
                ids = {request.headers["webhook-id"] for request in requests}
                assert len(ids) == (self._must_be_told(endpoint_id, task_id) if told else 0), (endpoint_id, task_id)
                for request in requests:
                    body = json.loads(request.body)
                    assert body["success"] or FAILURES.fullmatch(body["failed_reason"]), body
        assert results == {}

    def _must_be_told(self, endpoint_id: str, task_id: str) -> bool:
        if endpoint_id in self.deleted:
            return True
        return bool(self._stack.get(f"/{endpoint_id}/tasks/{task_id}")["status"] != "PROCESSING")


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _keys_of(store_url: str, endpoint_ids: set[str]) -> list[str]:
    """Keys of these endpoints, but for the logs of their workers, which are kept for their own time."""
    with redis.Redis.from_url(store_url) as store:
        names = [name.decode() for name in store.scan_iter(count=1000)]
        listed = {
            member.decode() for name in names if name.endswith(":endpoints") for member in store.zrange(name, 0, -1)
        }
    kept = [name for name in names if set(name.split(":")[2:]) & endpoint_ids and name.split(":")[1] != "log"]
    return kept + sorted(f"listed: {one}" for one in listed & endpoint_ids)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.close()


def test_after_a_random_life_the_desired_state_is_reached_and_no_task_is_lost(
    valkey_server: StoreServer, tmp_path: Path, receiver: Receiver
) -> None:
    seed = int(os.environ.get("RANDOM_LIFE_CYCLE_SEED") or random.SystemRandom().randrange(10**6))
    print(f"RANDOM_LIFE_CYCLE_SEED={seed}")  # noqa: T201 - shown when the test fails
    with programs_on(valkey_server.url, tmp_path) as programs:
        stack = Stack(programs, tmp_path, receiver)
        story = Story(stack, receiver, random.Random(seed))
        try:
            while story.go_on():
                continue
            story.end()
            _wait_until_settled(story)
            story.check_tasks()
            story.check_webhooks()
            gone = set(story.deleted)
            wait_until(lambda: not _keys_of(valkey_server.url, gone), message="data of deleted endpoints are left")
        except BaseException:
            print("\n".join([f"seed {seed}", *story.told, stack.log()]))  # noqa: T201
            raise
    wait_until(lambda: stack.worker_processes() == [], message="workers outlive their controllers")


def _wait_until_settled(story: Story) -> None:
    faults: list[str] = []

    def settled() -> bool:
        story.wait(0.3)  # looking at everything is dear, and the engine needs the processor
        faults[:] = story.unsettled()
        return not faults

    try:
        wait_until(settled)
    except AssertionError:
        raise AssertionError(f"not as wanted after {GIVE_UP_SECONDS:g} s:\n" + "\n".join(faults)) from None
