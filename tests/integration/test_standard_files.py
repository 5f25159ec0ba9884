"""A command ends in order when its output is not read, cannot be written, or is missing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.environment import inherited
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "version": ("queue_engine", "version"),
    "help": ("queue_engine", "--help"),
    "help of a group": ("queue_engine", "tasks", "--help"),
    "help of the agent": ("worker_agent", "--help"),
    "table": ("queue_engine", "endpoints", "list"),
    "json": ("queue_engine", "endpoints", "list", "--json"),
    "detail": ("queue_engine", "endpoints", "get", "7"),
    "logs": ("queue_engine", "logs", "7", "w1"),
    "wrong use": ("queue_engine", "nonsense"),
    "error": ("queue_engine", "tasks", "get", "7", "unknown"),
}


LINE = {"timestamp": "2026-01-31T12:00:00.007Z", "log": "a line", "offset": 0}
PAGE = {"logs": [LINE], "hasMore": False, "nextSearchAfterTime": "1", "nextSearchAfterOffset": "0"}


class Api(BaseHTTPRequestHandler):
    """Answers like an API with one endpoint, whose worker has written one line."""

    def do_GET(self) -> None:
        data: object = [{"id": "7"}]
        if "/logs" in self.path:
            data = PAGE | {"logs": []} if "searchAfter" in self.path else PAGE
        elif self.path.endswith("/7"):
            data = {"id": "7"}
        body = json.dumps({"message": "success", "code": 10000, "data": data}).encode()
        self.send_response(404 if "unknown" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
        """Keep the tests' output free of requests."""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {
            **inherited(), "PYTHONPATH": str(ROOT), "QUEUE_ENGINE_URL": url,
            "QUEUE_ENGINE_API_KEY": "a-key",
        }  # fmt: skip
        server.shutdown()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_quietly_when_its_output_is_not_read(environment: dict[str, str], name: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if name in ("wrong use", "error") else subprocess.PIPE
    arguments = [sys.executable, "-m", *COMMANDS[name]]
    done = subprocess.run(arguments, env=environment, stdout=writer, stderr=errors, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr or b"") == (0, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_output_cannot_be_written_says_so_in_a_line(
    environment: dict[str, str], name: str, unbuffered: str
) -> None:
    arguments = [sys.executable, "-m", *COMMANDS[name]]
    environment["PYTHONUNBUFFERED"] = unbuffered
    program = COMMANDS[name][0].replace("_", "-")
    for full in ("stdout", "stderr", "both"):
        if full == "stdout" and name in ("wrong use", "error"):
            continue  # nothing is written there
        if full == "stderr" and name not in ("wrong use", "error"):
            continue
        with open("/dev/full", "wb") as device:
            done = subprocess.run(
                arguments, env=environment, timeout=60, check=False,
                stdout=subprocess.PIPE if full == "stderr" else device,
                stderr=subprocess.PIPE if full == "stdout" else device,
            )  # fmt: skip
        assert done.returncode == 1, full
        if full == "stdout":
            assert done.stderr == f"{program}: the output cannot be written: No space left on device\n".encode()


def test_up_whose_output_cannot_be_written_ends_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["QUEUE_ENGINE_API_KEY"]
    up = [sys.executable, "-m", "queue_engine", "up", "--port", str(free_port()), "--data-dir", str(tmp_path)]
    with open("/dev/full", "wb") as device:
        done = subprocess.run(up, env=environment, stdout=device, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == b"queue-engine: the output cannot be written: No space left on device\n"


def test_a_follower_without_new_lines_ends_when_its_reader_has_closed_the_pipe(environment: dict[str, str]) -> None:
    arguments = [sys.executable, "-m", "queue_engine", "logs", "7", "w1", "-f"]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert b"a line" in follower.stdout.readline()
        follower.stdout.close()
        try:
            assert follower.wait(60) == 0
        finally:
            follower.kill()
        assert follower.stderr.read() == b""


def test_the_status_of_a_command_stays_when_its_output_is_read(environment: dict[str, str]) -> None:
    for arguments, status in ((("tasks", "get", "7", "unknown"), 1), (("nonsense",), 2), (("version",), 0)):
        done = subprocess.run(
            [sys.executable, "-m", "queue_engine", *arguments],
            env=environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("name", ["version", "help", "table", "detail"])
def test_a_command_without_a_standard_file_works(name: str, closed: str, environment: dict[str, str]) -> None:
    command = ("/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", *COMMANDS[name])
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_input_from_a_closed_standard_input_is_refused(environment: dict[str, str]) -> None:
    submit = ("queue_engine", "tasks", "submit", "7", "--path", "/run", "--input", "-")
    command = ("/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", *submit)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --input -: the input is not JSON")
