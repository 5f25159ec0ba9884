"""The demo's own checks find what is wrong, and its workers are what its backend can run."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.demo.receiver import Received, Receiver
from deploy.demo.tour import Workers, faults_of
from queue_engine.client import MapItem, TaskFailed, TaskInfo
from tests.ports import free_port
from tests.waiting import wait_until

SECRET = "whsec_" + "QUJD" * 8
OUTPUT = {"name": "b.py", "type": "python", "group": "code", "mime": "text/x-python", "score": 0.9}
TASK = TaskInfo(
    task_id="file_1",
    endpoint_id=7,
    status="DELIVERED",
    state="succeeded",
    delivery_status="SUCCESS",
    delivery_attempts=1,
    created_at=1,
)
ITEM = MapItem(0, {"name": "b.py", "content": ""}, "file_1", OUTPUT)
EVENT = {"user_task_id": "file_1", "endpoint_id": "7", "status": "Success", "success": True, "result": OUTPUT}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as receiver:
        yield receiver


def received(status: int = 200, *, message: str = "msg_1", **event: Any) -> Received:
    return Received(message, EVENT | event, status)


def faults(receiver: Receiver, *attempts: Received, item: MapItem = ITEM, **task: Any) -> list[str]:
    receiver.received["file_1"] = list(attempts)
    return faults_of(receiver, item, TASK.model_copy(update=task))


def test_a_task_that_is_as_it_must_be_has_no_fault(receiver: Receiver) -> None:
    assert faults(receiver, received()) == []
    echoed = MapItem(0, ITEM.input, "file_1", {"path": "/identify", "input": {"name": "b.py"}})
    assert faults(receiver, received(result=echoed.output), item=echoed) == []


def test_a_delivery_that_came_twice_is_no_fault(receiver: Receiver) -> None:
    receiver.refusals = 1
    assert faults(receiver, received(500), received(), received(), delivery_attempts=2) == []


def test_a_result_that_is_given_up_is_no_fault_when_that_is_expected(receiver: Receiver) -> None:
    receiver.refusals = 4
    given_up: dict[str, Any] = {"status": "SUCCESS", "delivery_status": "MAX_RETRIES_EXCEEDED", "delivery_attempts": 4}
    assert faults(receiver, *[received(500)] * 4, **given_up) == []
    taken = faults(receiver, *[received(500)] * 3, received(200), **given_up)
    assert taken == ["file_1: its receiver responded [500, 500, 500, 200]"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": "SUCCESS"}, "its end is ('SUCCESS', 'SUCCESS')"),
        ({"delivery_status": "FAILED"}, "its end is ('DELIVERED', 'FAILED')"),
        ({"delivery_attempts": 0}, "0 delivery attempts are counted"),
    ],
)
def test_what_the_api_says_is_checked(receiver: Receiver, changes: dict[str, Any], fault: str) -> None:
    assert faults(receiver, received(), **changes) == [f"file_1: {fault}"]


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (None, "its output is not that of its file"),
        (OUTPUT | {"name": "c.py"}, "its output is not that of its file"),
        (OUTPUT | {"score": 0.8}, "its webhook is not what the API says"),
    ],
)
def test_the_result_is_checked(receiver: Receiver, output: Any, fault: str) -> None:
    assert f"file_1: {fault}" in faults(receiver, received(), item=MapItem(0, ITEM.input, "file_1", output))


def test_a_failed_task_is_named_with_its_error(receiver: Receiver) -> None:
    error = TaskFailed(TASK.model_copy(update={"error": "it broke"}))
    assert f"file_1: error: {error}" in faults(receiver, item=MapItem(0, ITEM.input, "file_1", None, error))


@pytest.mark.parametrize(
    ("attempts", "fault"),
    [
        ([], "its receiver responded []"),
        ([received(500)], "its receiver responded [500]"),
        ([received(), received(message="msg_2")], "its delivery attempts differ in their webhook-id"),
        ([received(success=False)], "its webhook is not what the API says"),
        ([received(endpoint_id="8")], "its webhook is not what the API says"),
        ([received(result=OUTPUT | {"type": "c"})], "its webhook is not what the API says"),
    ],
)
def test_what_the_receiver_got_is_checked(receiver: Receiver, attempts: list[Received], fault: str) -> None:
    assert f"file_1: {fault}" in faults(receiver, *attempts)


def test_workers_in_containers_run_a_server_that_needs_only_python() -> None:
    endpoint = Workers("docker", "python:3.13-slim", None).settings()
    assert endpoint["image"] == "python:3.13-slim"
    _, *words = json.loads(endpoint["initialization_command"] or "")
    port = free_port()
    url = f"http://127.0.0.1:{port}/identify"

    def response() -> Any:
        request = urllib.request.Request(url, json.dumps({"name": "a/b.py", "content": ""}).encode())
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except OSError:
            return None

    with subprocess.Popen([sys.executable, *words], env={"PORT": str(port)}) as server:
        try:
            assert wait_until(response)["input"]["name"] == "a/b.py"
        finally:
            server.terminate()


@pytest.mark.parametrize(("backend", "image"), [("process", "none"), ("docker", "mine")])
def test_a_command_replaces_the_demos_own(backend: str, image: str) -> None:
    endpoint = Workers(backend, "mine", "./serve").settings()
    assert (endpoint["image"], endpoint["initialization_command"]) == (image, "./serve")
