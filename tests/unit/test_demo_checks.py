"""The demo's own checks find what is wrong, and its workers are what its backend can run."""

import json
import subprocess
import sys
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from deploy.demo.files import SampleFile
from deploy.demo.jobs import Job, faults_of
from deploy.demo.receiver import Inbox, Received, Receiver
from deploy.demo.tour import Workers
from tests.ports import free_port
from tests.waiting import wait_until

SECRET = "whsec_" + "QUJD" * 8
OUTPUT = {"name": "a/b.py", "type": "python", "group": "code", "mime": "text/x-python", "score": 0.9}
TASK = {
    "status": "DELIVERED",
    "deliveryStatus": "SUCCESS",
    "deliveryAttempts": 1,
    "error": None,
    "output": OUTPUT,
    "durationMs": 7,
}
EVENT = {"user_task_id": "demo_1", "endpoint_id": "7", "status": "Success", "success": True, "result": OUTPUT}


def job(task: dict[str, Any], came: list[Received], **changes: Any) -> Job:
    receiver = Receiver("accepts", SECRET, Inbox())
    whole = Job("demo_1", SampleFile("a/b.py", b"import os"), receiver, submitted_at=1.0, task=task, received=came)
    return replace(whole, **changes)


def received(status: int = 200, *, message: str = "msg_1", receiver: str = "accepts", **event: Any) -> Received:
    return Received(receiver, message, EVENT | event, status, 2.5)


def test_a_task_that_is_as_it_must_be_has_no_fault() -> None:
    assert faults_of(job(TASK, [received()]), "7") == []


def test_a_delivery_that_came_twice_is_no_fault() -> None:
    task = TASK | {"deliveryAttempts": 2}
    assert faults_of(job(task, [received(500), received(), received()]), "7") == []


def test_a_result_that_is_given_up_is_no_fault_when_that_is_expected() -> None:
    task = TASK | {"status": "SUCCESS", "deliveryStatus": "MAX_RETRIES_EXCEEDED", "deliveryAttempts": 2}
    given_up = job(task, [received(500), received(500)], attempts=2, delivered=False)
    assert faults_of(given_up, "7") == []
    taken = faults_of(replace(given_up, received=[received(500), received(200)]), "7")
    assert taken == ["demo_1 (a/b.py): its receiver has taken 1 deliveries"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": "SUCCESS"}, "status is SUCCESS, not DELIVERED"),
        ({"deliveryStatus": "FAILED"}, "deliveryStatus is FAILED, not SUCCESS"),
        ({"deliveryAttempts": 0}, "0 delivery attempts are counted, not 1"),
        ({"error": "it broke"}, "error: it broke"),
        ({"output": None}, "its output is not that of its file"),
        ({"output": OUTPUT | {"name": "c.py"}}, "its output is not that of its file"),
        ({"output": OUTPUT | {"score": 0.8}}, "its webhook's result is not what the API says"),
    ],
)
def test_what_the_api_says_is_checked(changes: dict[str, Any], fault: str) -> None:
    faults = faults_of(job(TASK | changes, [received()]), "7")
    assert f"demo_1 (a/b.py): {fault}" in faults


@pytest.mark.parametrize(
    ("attempts", "fault"),
    [
        ([], "its receiver has taken 0 deliveries"),
        ([received(500)], "its receiver has taken 0 deliveries"),
        ([received(500), received(message="msg_2")], "its delivery attempts differ in their webhook-id"),
        ([received(receiver="fails twice")], "its result came to a stranger"),
        ([received(success=False)], "its webhook's success is not what the API says"),
        ([received(endpoint_id="8")], "its webhook's endpoint_id is not what the API says"),
        ([received(result=OUTPUT | {"type": "c"})], "its webhook's result is not what the API says"),
    ],
)
def test_what_the_receiver_got_is_checked(attempts: list[Received], fault: str) -> None:
    assert f"demo_1 (a/b.py): {fault}" in faults_of(job(TASK, attempts), "7")


def test_the_time_to_the_webhook_ends_with_the_first_attempt() -> None:
    later = Received("accepts", "msg_1", EVENT, 200, 9.0)
    assert job(TASK, [received(500), later]).total_ms == 1500


def test_workers_in_containers_run_a_server_that_needs_only_python() -> None:
    endpoint = Workers("docker", "python:3.13-slim", None).endpoint()
    assert endpoint["image"] == "python:3.13-slim"
    _, *words = json.loads(endpoint["initializationCommand"])
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
            assert wait_until(response) == {"name": "a/b.py", "type": "text/x-python"}
        finally:
            server.terminate()


@pytest.mark.parametrize(("backend", "image"), [("process", "none"), ("docker", "mine")])
def test_a_command_replaces_the_demos_own(backend: str, image: str) -> None:
    endpoint = Workers(backend, "mine", "./serve").endpoint()
    assert (endpoint["image"], endpoint["initializationCommand"]) == (image, "./serve")
