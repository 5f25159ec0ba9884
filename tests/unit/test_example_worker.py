"""The example worker, as a container of the engine runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.ports import free_port
from tests.waiting import GIVE_UP_SECONDS, wait_until


class Example:
    """A running example worker."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            (sys.executable, "-P", "-m", "queue_engine.example_worker"),
            env={**os.environ, "PORT": str(self.port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert "listens" in self.process.stdout.readline()

    def run(self, body: str) -> httpx.Response:
        headers = {"X-Task-Id": "t1", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.port}/run"
        return httpx.post(url, content=body.encode(), headers=headers, timeout=GIVE_UP_SECONDS)

    def log(self) -> str:
        self.process.terminate()
        return self.process.communicate()[0]


@pytest.fixture
def example() -> Iterator[Example]:
    worker = Example()
    yield worker
    with worker.process:
        worker.process.kill()


def test_it_echoes_the_input_as_it_came(example: Example) -> None:
    response = example.run('{"n": 18446744073709551615, "e": 1e400}')
    assert response.status_code == 200
    assert response.text.startswith('{"echo": {"n": 18446744073709551615, "e": 1e400}, "seconds": ')


def test_it_waits_and_writes_a_log(example: Example) -> None:
    response = example.run('{"seconds": 1.2}')
    assert response.json()["seconds"] >= 1.2
    log = example.log()
    assert "task t1 begins" in log
    assert "task t1: 1 s left" in log
    assert "task t1 done" in log


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ('{"fail": "no model"}', 500, "no model"),
        ('{"status": 503}', 503, "as asked"),
        ('{"status": 418, "fail": "x"}', 418, "x"),
        ("{", 400, "not JSON"),
        ("[" * 100_000, 400, "not JSON"),
    ],
)
def test_it_fails_when_it_is_asked_to(example: Example, body: str, status: int, text: str) -> None:
    response = example.run(body)
    assert response.status_code == status
    assert text in response.text


@pytest.mark.parametrize("body", ["[]", "1", '{"seconds": "x"}', '{"seconds": -1}', '{"status": []}', '{"status": 99}'])
def test_odd_inputs_are_echoed(example: Example, body: str) -> None:
    response = example.run(body)
    assert response.status_code == 200
    assert f'"echo": {body}' in response.text


def test_it_ends_when_it_is_asked_to(example: Example) -> None:
    with pytest.raises(httpx.TransportError):
        example.run('{"exit": true}')
    assert wait_until(lambda: example.process.poll() is not None)
    assert example.process.returncode == 70
