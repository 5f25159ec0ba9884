"""The demo as a user runs it, and its receivers as anybody may call them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from standardwebhooks import Webhook

from deploy.demo.receiver import Receiver
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
SECRET = "whsec_" + "QUJD" * 8
EVENT = {"user_task_id": "demo_1", "status": "Success"}
QUICK = ("--command", f"exec {sys.executable} {ROOT / 'deploy/examples/echo_server.py'}")
"""In place of the model, which takes a second of processor time to load, where a test is about something else."""
OF_ANOTHER_FILE = (
    (ROOT / "deploy/examples/echo_server.py").read_text().replace("+ body +", """+ b'{"name": "another"}' +""")
)
"""A server whose output is always that of another file."""


class Demo:
    """One run with few files, all of whose temporary files are in one folder."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "deploy" / "demo" / "run.py"), "--files", "12", *arguments],
            env={**os.environ, "TMPDIR": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []

    def wait_for_line(self, beginning: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith(beginning):
                return
        pytest.fail(f"no line {beginning!r} in:\n{''.join(self._lines)}\n{self.finish()[2]}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        output, errors = self._process.communicate(timeout=100)
        return self._process.returncode, "".join(self._lines) + output, errors

    def engine(self) -> psutil.Process:
        """The process of `queue-engine up`."""
        children = psutil.Process(self._process.pid).children()
        return next(child for child in children if any(word.startswith("queue_engine") for word in child.cmdline()))

    def log_of_up(self) -> str:
        """What `queue-engine up` has said so far."""
        return "".join(path.read_text() for path in self._folder.glob("queue-engine-demo-*/up.log"))

    def hang_up(self) -> None:
        """Read no more of its output."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def remains(self) -> list[str]:
        """Files that it left, and processes that still run."""
        left = [str(path) for path in self._folder.iterdir()]
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR", "").startswith(str(self._folder)):
                    left.append(" ".join(process.cmdline()))
        return left

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    demos: list[Demo] = []

    def started(*arguments: str, **environment: str) -> Demo:
        demos.append(Demo(tmp_path, *arguments, **environment))
        return demos[-1]

    yield started
    for demo in demos:
        demo.close()


def test_the_demo_delivers_and_checks_everything_and_leaves_nothing(start: Start) -> None:
    demo = start(
        # What is set for another engine, or for the way to the internet, must not matter.
        QUEUE_ENGINE_REDIS_URL="redis://127.0.0.1:1/0",
        QUEUE_ENGINE_API_KEY="not-this-one",
        HTTP_PROXY="http://127.0.0.1:1",
        ALL_PROXY="http://127.0.0.1:1",
        FORCE_COLOR="1",
    )
    status, output, errors = demo.finish()
    assert (status, errors) == (0, ""), output
    assert demo.remains() == []
    assert not CONTROL.search(output)
    assert "workers that run: 2/2" in output
    assert "deliveries that have ended: 14/14" in output
    assert "a receiver that fails twice responded [500, 500, 200]: DELIVERED" in output
    assert "a receiver that fails responded [500, 500, 500, 500]: SUCCESS" in output
    assert re.search(r"types of the files: [a-z]+ \d", output)


def test_a_command_that_does_not_run_is_named_with_what_it_said(start: Start) -> None:
    demo = start("--command", "echo there is no such model; exit 7")
    status, _, errors = demo.finish()
    assert status == 1
    assert "FAILED: wait for 2 workers: " in errors
    assert "\nthere is no such model\n" in errors
    assert "container exited with status 7" in errors
    assert demo.remains() == []


def test_a_model_with_wrong_output_is_found_out(start: Start) -> None:
    demo = start("--command", f"exec {sys.executable} -c {shlex.quote(OF_ANOTHER_FILE)}")
    status, _, errors = demo.finish()
    assert status == 1
    assert "FAILED: check every task and every webhook: 14 tasks, 14 faults: fails_1: " in errors
    assert "its output is not that of its file" in errors
    assert demo.remains() == []


def test_the_engine_has_the_backend_and_its_variables(start: Start) -> None:
    demo = start(
        "--backend", "docker", DOCKER_HOST="unix:///no-such-engine", QUEUE_ENGINE_LEASE_SECONDS="not passed on"
    )
    status, _, errors = demo.finish()
    assert status == 1
    assert "FAILED: start the engine: queue-engine up ended with status 2" in errors
    assert "/no-such-engine" in errors
    assert demo.remains() == []


def test_an_engine_that_ends_by_itself_is_named(start: Start) -> None:
    demo = start(*QUICK)
    demo.wait_for_line("wait for the webhooks")
    engine = demo.engine()
    engine.terminate()
    status, _, errors = demo.finish()
    assert status == 1
    assert "FAILED: wait for the webhooks: queue-engine up ended with status 0" in errors
    assert "the end of up.log:" in errors
    assert demo.remains() == []


def test_what_a_killed_engine_leaves_is_ended(start: Start) -> None:
    demo = start(*QUICK)
    demo.wait_for_line("wait for the webhooks")
    demo.engine().kill()
    status, _, errors = demo.finish()
    assert status == 1
    assert "queue-engine up ended with status -9" in errors
    assert demo.remains() == []


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        ("collect files", signal.SIGINT, 130),
        ("start the engine", signal.SIGINT, 130),
        ("wait for 2 workers", signal.SIGINT, 130),
        ("wait for the webhooks", signal.SIGINT, 130),
        ("run 14 tasks", signal.SIGTERM, 143),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing(start: Start, line: str, number: signal.Signals, status: int) -> None:
    demo = start(*QUICK)
    demo.wait_for_line(line)
    demo.send(number)
    ended, output, errors = demo.finish()
    assert ended == status, errors
    assert errors == f"\n{number.name}: stopped\n"
    assert "Traceback" not in output
    assert demo.remains() == []


def test_a_second_ctrl_c_ends_it_at_once(start: Start) -> None:
    demo = start("--command", "trap '' TERM; while :; do sleep 0.1; done")
    demo.wait_for_line("wait for 2 workers")
    wait_until(lambda: any(one.name() == "sleep" for one in demo.engine().children(recursive=True)))
    demo.send(signal.SIGINT)
    # The engine waits for these workers now, which take their whole grace.
    wait_until(lambda: "stopping: " in demo.log_of_up())
    demo.send(signal.SIGINT)
    assert demo.finish()[0] == 130
    assert demo.remains() == []


def test_a_reader_that_leaves_ends_the_demo_in_order(start: Start) -> None:
    demo = start(*QUICK)
    demo.wait_for_line("start the engine")
    demo.hang_up()
    assert demo.finish()[0] == 1
    assert demo.remains() == []


# The receivers


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def signed(body: bytes, receiver: Receiver, *, secret: str = SECRET, age: timedelta = timedelta()) -> dict[str, str]:
    sent_at = datetime.now(UTC) - age
    return {
        "X-API-Key": receiver.auth_key,
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", sent_at, body.decode()),
    }


def test_a_signed_webhook_with_the_key_is_taken(client: httpx.Client) -> None:
    body = json.dumps(EVENT).encode()
    with Receiver(SECRET) as receiver:
        answer = client.post(receiver.url, content=body, headers=signed(body, receiver))
    assert answer.status_code == 200
    assert dict(receiver.received) == {"demo_1": [("msg_1", EVENT, 200)]}
    assert receiver.problems == []


def test_a_receiver_refuses_as_often_as_it_should(client: httpx.Client) -> None:
    body = json.dumps(EVENT).encode()
    with Receiver(SECRET, refusals=2) as twice, Receiver(SECRET, refusals=4) as always:
        for receiver in (twice, always):
            for _ in range(4):
                client.post(receiver.url, content=body, headers=signed(body, receiver))
    assert [one.status for one in twice.received["demo_1"]] == [500, 500, 200, 200]
    assert [one.status for one in always.received["demo_1"]] == [500, 500, 500, 500]


OTHER_SECRET = "whsec_" + "WFla" * 8
BODY = json.dumps(EVENT).encode()


@pytest.mark.parametrize(
    ("body", "changes", "fault"),
    [
        (BODY, {"X-API-Key": None}, "not the right X-API-Key"),
        (BODY, {"X-API-Key": "another"}, "not the right X-API-Key"),
        (BODY, {"webhook-signature": None}, "WebhookVerificationError"),
        (BODY, {"webhook-signature": "v1,"}, "WebhookVerificationError"),
        (BODY, {"webhook-signature": "nonsense"}, "ValueError"),
        (BODY, {"webhook-signature": "v1,%%%"}, "WebhookVerificationError"),
        (BODY, {"webhook-id": "msg_2"}, "WebhookVerificationError"),
        (BODY, {"webhook-timestamp": "1"}, "WebhookVerificationError"),
        (BODY, {"webhook-timestamp": "x"}, "WebhookVerificationError"),
        (b"[]", {}, "TypeError"),
        (b"{}", {}, "KeyError.*user_task_id"),
        (b"{", {}, "JSONDecodeError|WebhookVerificationError"),
    ],
)
def test_what_is_not_genuine_is_refused_and_reported(
    client: httpx.Client, body: bytes, changes: dict[str, Any], fault: str
) -> None:
    with Receiver(SECRET) as receiver:
        headers = {name: value for name, value in (signed(body, receiver) | changes).items() if value is not None}
        answer = client.post(receiver.url, content=body, headers=headers)
    assert answer.status_code == 401
    assert receiver.received == {}
    assert len(receiver.problems) == 1
    assert re.match(f"a webhook is not genuine: .*{fault}", receiver.problems[0])


@pytest.mark.parametrize(
    "forged", [{"secret": OTHER_SECRET}, {"age": timedelta(minutes=10)}, {"age": -timedelta(minutes=10)}]
)
def test_another_secret_and_old_messages_are_refused(client: httpx.Client, forged: dict[str, Any]) -> None:
    with Receiver(SECRET) as receiver:
        answer = client.post(receiver.url, content=BODY, headers=signed(BODY, receiver, **forged))
    assert answer.status_code == 401
    assert len(receiver.problems) == 1


def test_a_changed_body_and_two_keys_are_refused(client: httpx.Client) -> None:
    with Receiver(SECRET) as receiver:
        headers = signed(BODY, receiver)
        changed = client.post(receiver.url, content=BODY + b" ", headers=headers)
        twice = client.post(receiver.url, content=BODY, headers=[*headers.items(), ("X-API-Key", receiver.auth_key)])
    assert (changed.status_code, twice.status_code) == (401, 401)
    assert receiver.received == {}
