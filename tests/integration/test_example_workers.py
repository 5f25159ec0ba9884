"""The example workers by their contract, and the example receivers by theirs: the same in each language."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from standardwebhooks import Webhook

from queue_engine.crypto.signing import new_secret, signature_headers
from queue_engine.domain.deliveries import TaskResult, WebhookTest, task_result_body, webhook_test_body
from queue_engine.net.listening import listen
from tests.integration.parts import HttpServer, Reply, replies
from tests.integration.test_examples import EXAMPLES, INTERPRETERS, post, running
from tests.waiting import wait_until

NODE = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
WORKERS = ["worker_plain.py", "worker_fastapi.py", pytest.param("worker_node.mjs", marks=NODE)]
RECEIVERS = ["webhook_receiver.py", pytest.param("webhook_receiver.mjs", marks=NODE)]
SECRET = new_secret(b"0123456789abcdef0123456789abcdef")
AUTH_KEY = "only you know this"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=WORKERS)
def worker(request: pytest.FixtureRequest) -> Iterator[int]:
    with running(request.param) as port:
        yield port


def execute(port: int, task_id: str, **given: Any) -> tuple[int, Any]:
    status, body = post(port, "/run", json.dumps(given).encode(), **{"X-Task-Id": task_id})
    return status, json.loads(body)


def cancel(port: int, task_id: str) -> int:
    return post(port, "/cancel", json.dumps({"taskId": task_id}).encode())[0]


def test_a_worker_is_ready_when_its_model_is_loaded(worker: int) -> None:
    def ready() -> bool:
        connection = HTTPConnection("127.0.0.1", worker, timeout=30)
        connection.request("GET", "/ready")
        status = connection.getresponse().status
        connection.close()
        assert status in (200, 503)
        return status == 200

    wait_until(ready)


def test_a_worker_responds_with_the_output(worker: int) -> None:
    assert execute(worker, "t1", text="hello") == (200, {"text": "HELLO"})


def test_a_worker_refuses_an_input_without_text(worker: int) -> None:
    status, _ = execute(worker, "t2", word="hello")
    assert status in (400, 422)


def test_a_response_on_a_kept_connection_does_not_wait_for_an_acknowledgement(worker: int) -> None:
    connection = HTTPConnection("127.0.0.1", worker, timeout=30)
    seconds = []
    for number in range(20):
        began = time.perf_counter()
        connection.request("POST", "/run", b'{"text": "hi"}', {**JSON, "X-Task-Id": f"quick_{number}"})
        assert connection.getresponse().read()
        seconds.append(time.perf_counter() - began)
    connection.close()
    # A delayed acknowledgement takes 40 ms, in each exchange after the first ones.
    assert min(seconds[10:]) < 0.03


def test_a_repeated_task_gets_the_output_of_its_first_run(worker: int) -> None:
    assert execute(worker, "t3", text="first")[1] == {"text": "FIRST"}
    assert execute(worker, "t3", text="second")[1] == {"text": "FIRST"}


def test_a_task_repeated_while_it_runs_waits_for_its_first_run(worker: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: execute(worker, "t4", text=f"run {n}", seconds=0.3), range(8)))
    assert len({json.dumps(one) for one in found}) == 1


def test_a_cancelled_task_ends_at_once_and_a_later_attempt_computes_it(worker: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        began = pool.submit(execute, worker, "t5", text="long", seconds=3600)
        # The cancellation may come before the task.
        wait_until(lambda: cancel(worker, "t5") == 200 and began.done())
        assert began.result()[0] == 409
    assert execute(worker, "t5", text="again") == (200, {"text": "AGAIN"})


def test_cancelling_an_unknown_or_ended_task_changes_nothing(worker: int) -> None:
    assert cancel(worker, "never_submitted") == 200
    execute(worker, "t6", text="done")
    assert cancel(worker, "t6") == 200
    assert execute(worker, "t6", text="other")[1] == {"text": "DONE"}


class Inbox(NamedTuple):
    """A running receiver, and what it has printed."""

    port: int
    log: Path

    def send(self, event: bytes, **changed: str) -> int:
        """POST a genuine delivery, with some headers changed; an empty value removes a header."""
        signed = signature_headers([SECRET], "msg_1", int(time.time()), event)
        headers = {"Content-Type": "application/json", "X-API-Key": AUTH_KEY, **signed}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/", event, {name: value for name, value in headers.items() if value})
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture(params=RECEIVERS)
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Inbox]:
    log = tmp_path / "receiver.log"
    with running(request.param, log, WEBHOOK_SECRET=SECRET, WEBHOOK_AUTH_KEY=AUTH_KEY) as port:
        yield Inbox(port, log)


def event(task_id: str) -> bytes:
    return task_result_body(TaskResult(1, task_id, "7", True, 1_767_225_600_000, b'{"text": "HI"}'), retry_count=1)


WAITING = {  # by language: the first line of `handle`, and what makes it wait for a file
    ".py": (
        '    match event.get("type"):\n',
        '    print("began", flush=True)\n    while not os.path.exists(os.environ["GO"]):\n        time.sleep(0.01)\n',
    ),
    ".mjs": (
        "  if (event.type === undefined) {\n",
        '  console.log("began");\n  const { existsSync } = await import("node:fs");\n'
        "  while (!existsSync(process.env.GO)) await new Promise((done) => setTimeout(done, 10));\n",
    ),
}


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize("secret", [{}, {"WEBHOOK_SECRET": ""}])
def test_a_receiver_without_the_secret_says_so_and_ends(name: str, secret: dict[str, str]) -> None:
    with listen("127.0.0.1", 0) as taken:  # so that one that goes on ends too
        done = subprocess.run(
            [INTERPRETERS[Path(name).suffix], str(EXAMPLES / name)],
            env={"PATH": os.environ["PATH"], "PORT": str(taken.getsockname()[1]), **secret},
            capture_output=True,
            text=True,
            check=False,
        )
    said = "WEBHOOK_SECRET is required: the endpoint's signing secret, whsec_…\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("name", RECEIVERS)
def test_a_receiver_whose_port_is_taken_says_so_and_ends(name: str) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [INTERPRETERS[Path(name).suffix], str(EXAMPLES / name)],
            env={"PATH": os.environ["PATH"], "PORT": str(port), "WEBHOOK_SECRET": SECRET},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"cannot listen on 127.0.0.1:{port}: (Address already in use|EADDRINUSE)\n", done.stderr)


def test_a_receiver_takes_a_genuine_delivery_once(inbox: Inbox) -> None:
    assert [inbox.send(event("t1")) for _ in range(2)] == [204, 204]
    assert inbox.log.read_text().count("task t1: Success") == 1


def test_a_receiver_accepts_the_test_of_a_webhook(inbox: Inbox) -> None:
    test = WebhookTest("t", "7", "default", "http://127.0.0.1/", AUTH_KEY)
    assert inbox.send(webhook_test_body(test, 1_767_225_600_000)) == 204
    assert inbox.log.read_text() == "test: A test of this webhook\n"


def test_a_receiver_accepts_an_event_of_a_type_that_it_does_not_know(inbox: Inbox) -> None:
    assert inbox.send(b'{"type": "endpoint.moved", "endpointId": "7"}') == 204
    assert inbox.log.read_text() == "ignored: endpoint.moved\n"


def test_an_event_that_a_receiver_could_not_handle_is_handled_when_it_comes_again(inbox: Inbox) -> None:
    assert inbox.send(b"{") == 500
    assert [inbox.send(event("t6")) for _ in range(2)] == [204, 204]
    assert inbox.log.read_text().count("task t6: Success") == 1


@pytest.mark.parametrize("name", RECEIVERS)
def test_a_receiver_handles_an_event_once_that_comes_twice_at_the_same_time(name: str, tmp_path: Path) -> None:
    first, waiting = WAITING[Path(name).suffix]
    text = (EXAMPLES / name).read_text()
    assert text.count(first) == 1
    slow, log, go = tmp_path / name, tmp_path / "receiver.log", tmp_path / "go"
    slow.write_text(text.replace(first, waiting + first))
    given = {"WEBHOOK_SECRET": SECRET, "WEBHOOK_AUTH_KEY": AUTH_KEY, "GO": str(go)}
    with running(str(slow), log, **given) as port, ThreadPoolExecutor(2) as pool:
        inbox = Inbox(port, log)
        sent = [pool.submit(inbox.send, event("t7"))]
        wait_until(lambda: "began" in log.read_text())
        sent.append(pool.submit(inbox.send, event("t7")))
        for _ in range(20):  # the second has time to begin, if the receiver lets it
            assert inbox.send(event("t7"), X_API_Key="guessed") == 401
        go.touch()
        assert [one.result() for one in sent] == [204, 204]
    assert log.read_text().count("began") == 1
    assert log.read_text().count("task t7: Success") == 1


def test_a_receiver_takes_one_good_signature_among_several(inbox: Inbox) -> None:
    signed = signature_headers([SECRET], "msg_1", int(time.time()), event("t2"))
    assert inbox.send(event("t2"), webhook_signature=f"v1,other {signed['webhook-signature']}") == 204


@pytest.mark.parametrize(
    "changed",
    [
        {"X_API_Key": ""},
        {"X_API_Key": "guessed"},
        {"webhook_signature": ""},
        {"webhook_signature": "v1,AAAA"},
        {"webhook_id": "msg_2"},
        {"webhook_timestamp": ""},
        {"webhook_timestamp": "0"},
        {"webhook_timestamp": "1e9"},
    ],
)
def test_a_receiver_refuses_what_is_not_genuine(changed: dict[str, str], inbox: Inbox) -> None:
    assert inbox.send(event("t3"), **changed) == 401
    assert "t3" not in inbox.log.read_text()


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_receiver_refuses_a_genuine_delivery_of_another_time(seconds: int, inbox: Inbox) -> None:
    signed = signature_headers([SECRET], "msg_1", int(time.time()) + seconds, event("t5"))
    changed = {name.replace("-", "_"): value for name, value in signed.items()}
    assert inbox.send(event("t5"), **changed) == 401


def test_the_signature_of_the_receivers_is_that_of_the_public_library() -> None:
    signed = signature_headers([SECRET], "msg_1", int(time.time()), event("t4"))
    assert Webhook(SECRET).verify(event("t4"), signed)["user_task_id"] == "t4"


def test_the_batch_waits_for_a_full_queue_and_submits_each_line_once() -> None:
    ended = {"taskId": "batch_1", "status": "SUCCESS", "output": {"text": "HI"}, "error": None}
    full = Reply(429, b'{"message": "full"}', {"Retry-After": "0"})
    with HttpServer(replies(full, Reply(body=b'{"data": {}}'))) as api:
        api.answer_get = replies(Reply(body=json.dumps({"data": ended}).encode()))
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "submit_batch.py"), "1"],
            input='{"text": "hi"}\n\n',
            env={"QUEUE_ENGINE_URL": api.url, "QUEUE_ENGINE_API_KEY": "key"},
            capture_output=True,
            text=True,
            check=True,
        )
    assert json.loads(done.stdout) == ended
    assert done.stderr == "1 tasks, 0 failed\n"
    submitted = [json.loads(one.body) for one in api.requests_of("POST")]
    assert submitted == [
        {"taskId": "batch_1", "workerPort": 8000, "processUri": "/run", "input": {"text": "hi"}} for _ in range(2)
    ]
