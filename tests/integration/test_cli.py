"""The command line for people, as a program of its own, against a real API and against the whole engine."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api_server import RunningApi
from tests.forked import program_environment, run_command
from tests.integration.parts import Program
from tests.integration.test_up import API_KEY, ECHO, Up
from tests.ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def environment(url: str, key: str) -> dict[str, str]:
    return {**program_environment(), "QUEUE_ENGINE_URL": url, "QUEUE_ENGINE_API_KEY": key}


class Console:
    """Runs `queue-engine …` with these variables."""

    def __init__(self, url: str, key: str) -> None:
        self.environment = environment(url, key)

    def run(self, *arguments: str, status: int = 0, given: str = "") -> subprocess.CompletedProcess[str]:
        done = run_command(("queue_engine", *arguments), self.environment, given=given)
        assert done.returncode == status, (arguments, done)
        assert "Traceback" not in done.stderr
        return done

    async def run_beside(self, *arguments: str, status: int = 0, given: str = "") -> str:
        """Its output, while this event loop serves the API."""
        return (await asyncio.to_thread(self.run, *arguments, status=status, given=given)).stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def cells(self, *arguments: str) -> list[list[str]]:
        """The rows of a table."""
        return [line.split() for line in self.run(*arguments).stdout.splitlines()[1:]]


async def test_the_api_understands_all_that_is_sent(api: RunningApi) -> None:
    console = Console(api.url, api.key)
    created = await console.run_beside(
        "endpoints", "create", "--name", "everything", "--image", "i", "--image-registry", "r.example",
        "--resource", "here:CPU", "--resource", "there:nvidia_h100_80g:2", "--workers", "2", "--volume-gb", "30",
        "--command", "run it", "--env", "A=b", "--env-plain", "P=q", "--port", "8000", "--protocol", "tcp",
        "--concurrency", "3",
        "--webhook", "http://w.example/", "--execution-timeout-seconds", "9", "--max-attempts", "4",
        "--max-queued-tasks", "5", "--result-retention-seconds", "6", "--min-vram-gb", "1", "--min-vcpu", "2",
        "--min-ram-gb", "3", "--mode", "QUEUE", "--queue-ttl-seconds", "60", "--cancel-uri", "stop",
        "--ready-path", "healthz", "--start-timeout-seconds", "60", "--max-busy-seconds", "30",
        "--retry-on", "500", "--retry-delay", "2.5", "--json",
    )  # fmt: skip
    endpoint = json.loads(created)
    given = {
        "name": "everything", "image": "i", "imageRegistry": "r.example", "totalWorkers": 2, "containerVolumeInGb": 30,
        "initializationCommand": "run it", "environmentVars": [{"key": "A"}, {"key": "P", "secret": False}],
        "concurrency": 3, "serviceMode": "QUEUE",
        "expose": {"port": 8000, "protocol": "TCP"}, "webhook": "http://w.example/", "executionTimeoutSeconds": 9,
        "maxAttempts": 4, "maxQueuedTasks": 5, "resultRetentionSeconds": 6, "minSingleCardVramInGb": 1,
        "minSingleCardVcpu": 2, "minSingleCardRamInGb": 3, "queueTtlSeconds": 60, "cancelUri": "/stop",
        "readyPath": "/healthz", "startTimeoutSeconds": 60, "maxBusySeconds": 30,
        "retryOn": ["500"], "retryDelaysSeconds": [2.5],
    }  # fmt: skip
    assert endpoint.items() >= given.items()
    assert [one["gpuCount"] for one in endpoint["resources"]] == [1, 2]

    updated = await console.run_beside(
        "endpoints", "update", "everything", "--name", "other", "--clear", "webhook", "--port", "81", "--json"
    )
    changes = {"name": "other", "webhook": None, "expose": {"port": 81, "protocol": "TCP"}}
    same = given | changes
    assert json.loads(updated).items() >= same.items()
    assert json.loads(updated)["resources"] == endpoint["resources"]


async def test_changes_are_listed_by_filters(api: RunningApi) -> None:
    console = Console(api.url, api.key)
    first, second = [await api.create_endpoint() for _ in range(2)]
    await api.client.post(f"/v2/serverless/{first}/stop")
    shown = await console.run_beside("audit", "--action", "create_endpoint", "--action", "stop_endpoint", "--json")
    assert [one["action"] for one in json.loads(shown)["items"]] == ["stop_endpoint", *["create_endpoint"] * 2]
    shown = await console.run_beside("audit", "--target", f"endpoint {second}", "--since", "1h", "--key", "test")
    (line,) = shown.splitlines()[1:]
    assert "create_endpoint" in line
    pages = await console.run_beside("audit", "--size", "1", "--all", "--json")
    assert len(pages.splitlines()) == 3
    assert json.loads(await console.run_beside("audit", "--until", "7d", "--json"))["items"] == []
    await console.run_beside("audit", "--since", "soon", status=2)


async def test_an_input_reaches_the_api_without_losing_a_digit(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    console = Console(api.url, api.key)
    given = '{"n": 123456789012345678901234567890.000000000000000000001, "e": 1e999, "twice": 1, "twice": 2}'
    submitted = await console.run_beside(
        "tasks", "submit", endpoint_id, "--port", "80", "--task-id", "exact", "--input-file", "-", given=given
    )
    assert submitted == "exact\n"
    shown = await console.run_beside("tasks", "get", endpoint_id, "exact")
    assert f"{'input':25}{given}\n" in shown
    assert f'"input":{given}' in await console.run_beside("tasks", "get", endpoint_id, "exact", "--json")


async def test_a_task_is_cancelled_retried_and_deleted(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    console = Console(api.url, api.key)
    limits = ("--execution-timeout", "9", "--queue-ttl", "60")
    await console.run_beside(
        "tasks", "submit", endpoint_id, "--port", "80", "--task-id", "t", "--input", "1", *limits
    )  # fmt: skip
    assert await console.run_beside("tasks", "cancel", endpoint_id, "t") == "task t: cancelled\n"
    shown = json.loads(await console.run_beside("tasks", "get", endpoint_id, "t", "--json"))
    assert (shown["executionTimeoutSeconds"], shown["queueTtlSeconds"], shown["cancelRequested"]) == (9, 60, True)
    assert await console.run_beside("tasks", "retry", endpoint_id, "t") == "task t: queued\n"
    await console.run_beside("tasks", "delete", endpoint_id, "t", "--yes", status=1)
    await console.run_beside("tasks", "cancel", endpoint_id, "t")
    assert json.loads(await console.run_beside("tasks", "attempts", endpoint_id, "t", "--json")) == []
    assert await console.run_beside("tasks", "delete", endpoint_id, "t", "--yes") == "task t: deleted\n"


async def test_deep_inputs_are_shown(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    deep = "[" * 500 + "]" * 500
    console = Console(api.url, api.key)
    await console.run_beside("tasks", "submit", endpoint_id, "--port", "80", "--task-id", "deep", "--input", deep)
    assert deep in await console.run_beside("tasks", "get", endpoint_id, "deep")


async def test_refusals_are_reported_by_message_and_status(api: RunningApi) -> None:
    console = Console(api.url, api.key)
    endpoint_id = await api.create_endpoint()
    for arguments, status, message in [
        (("endpoints", "get", "4711"), 1, "endpoint not found"),
        (("endpoints", "get", "0"), 1, "name: must be 1–20 of letters"),
        (("endpoints", "create", "--name", "x"), 1, "image: is required"),
        (("endpoints", "scale", endpoint_id, "100000"), 1, "count: must be"),
        (("endpoints", "list", "--status", "BUSY"), 1, "statusList: must be one of"),
        (("endpoints", "list", "--size", "1001"), 1, "pageSize: must be an integer from 1 to 1000"),
        (("tasks", "get", endpoint_id, "none"), 1, "task not found"),
        (("tasks", "list", endpoint_id, "--size", "100000"), 1, "pageSize: must be"),
        (("logs", endpoint_id, "none"), 1, "worker not found"),
        (("endpoints", "list", "--api-key", "nobody-has-it"), 1, "X-Api-Key"),
        (("tasks", "submit", endpoint_id, "--port", "0", "--input", "1"), 1, "workerPort: must be"),
        (("endpoints", "list", "--url", f"http://127.0.0.1:{free_port()}"), 3, "refused"),
    ]:
        done = await asyncio.to_thread(console.run, *arguments, status=status)
        assert done.stderr.startswith("error: "), arguments
        assert message in done.stderr, arguments
        assert done.stdout == "", arguments


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def test_a_tour_through_the_whole_engine(up: Up, tmp_path: Path) -> None:
    console = Console(up.url, API_KEY)
    created = console.json(
        "endpoints", "create", "--name", "echo", "--image", "python:3.11", "--resource", "here:CPU",
        "--command", ECHO, "--port", "8000",
    )  # fmt: skip
    path = f"/v2/serverless/{created['id']}"

    def status() -> str:
        found: str = up.get(path)["status"]
        return found

    wait_until(lambda: status() == "RUNNING", message="the endpoint does not run")
    (worker,) = console.cells("workers", "list", "echo")
    assert worker[1] == "RUNNING"

    done = console.json("tasks", "submit", "echo", "--path", "/run", "--input", '{"a": 1}', "--task-id", "t1", "--wait")
    assert (done["status"], done["output"]["input"]) == ("SUCCESS", {"a": 1})
    closed = f"http://127.0.0.1:{free_port()}/hook"
    console.run("tasks", "submit", "echo", "--path", "/run", "--input", "2", "--task-id", "t2", "--webhook", closed)
    console.run("tasks", "wait", "echo", "t2", "--timeout", "30")
    assert [row[:2] for row in console.cells("tasks", "list", "echo")] == [["t2", "SUCCESS"], ["t1", "SUCCESS"]]
    counts = dict(line.split() for line in console.run("tasks", "count", "echo").stdout.splitlines())
    assert (counts["success"], counts["queuedByPriority.high"]) == ("2", "0")
    wait_until(lambda: len(up.get(f"{path}/tasks/t2/deliveries")) == 3, message="the delivery is not tried")
    assert [row[3] for row in console.cells("tasks", "deliveries", "echo", "t2")] == ["connect_refused"] * 3

    follower = Program("logs", ("queue_engine", "logs", "echo", worker[0], "-f"), console.environment, tmp_path)
    try:
        wait_until(lambda: follower.output().count("POST /run") == 2, message="the lines are not followed")
        console.run("tasks", "submit", "echo", "--path", "/other", "--input", "3")
        wait_until(lambda: "POST /other" in follower.output(), message="new lines are not followed")
        follower.signal(signal.SIGINT)
        assert follower.wait() == 130
    finally:
        follower.stop()
    assert all(line[:2] == "20" for line in follower.output().splitlines())
    assert console.run("logs", "echo", worker[0], "--grep", "post /OTHER", "--no-times").stdout.count("\n") == 1

    console.run("endpoints", "scale", "echo", "2")
    wait_until(lambda: up.get(path)["runningWorkers"] == 2, message="it does not scale")
    console.run("endpoints", "stop", "echo")
    wait_until(lambda: status() == "STOPPED", message="it does not stop")
    assert "takes no tasks" in console.run("tasks", "submit", "echo", "--input", "4", status=1).stderr
    console.run("endpoints", "start", "echo")
    wait_until(lambda: status() == "RUNNING", message="it does not start again")
    console.run("endpoints", "delete", "echo", given="y\n")
    assert console.cells("endpoints", "list") == []


def test_ctrl_c_while_waiting_ends_quietly(up: Up, tmp_path: Path) -> None:
    console = Console(up.url, API_KEY)
    console.run(
        "endpoints",
        "create",
        "--name",
        "idle",
        "--image",
        "i",
        "--resource",
        "here:CPU",
        "--workers",
        "0",
        "--port",
        "80",
    )
    console.run("tasks", "submit", "idle", "--input", "1", "--task-id", "waits")
    assert "is queued" in console.run("tasks", "wait", "idle", "waits", "--timeout", "0.3", status=124).stderr

    waiting = Program("wait", ("queue_engine", "tasks", "wait", "idle", "waits"), console.environment, tmp_path)
    try:
        wait_until(lambda: psutil.Process(waiting.pid).net_connections(), message="it does not ask the API")
        waiting.signal(signal.SIGINT)
        assert (waiting.wait(), waiting.output()) == (130, "")
    finally:
        waiting.stop()
