"""The example workers, started as the engine starts them."""

import base64
import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.waiting import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
INTERPRETERS = {".py": sys.executable, ".mjs": "node"}


@contextmanager
def running(name: str, output: Path | None = None, **environment: str) -> Iterator[int]:
    """Run an example on a free port until the block ends. Its standard output goes to the file `output`, if any."""
    port = free_port()
    path = EXAMPLES / name
    given = {"PATH": os.environ["PATH"], "PORT": str(port), **environment}
    with (
        (output or Path(os.devnull)).open("wb") as log,
        subprocess.Popen(
            [INTERPRETERS[path.suffix], str(path)], env=given, stdout=log, stderr=subprocess.DEVNULL
        ) as server,
    ):
        try:
            wait_until(lambda: server.poll() is not None or accepts(port), 60)
            assert server.poll() is None
            yield port
        finally:
            server.terminate()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def post(port: int, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with running("echo_server.py") as port:
        yield port


@pytest.fixture(scope="module")
def model() -> Iterator[int]:
    with running("magika_server.py") as port:
        yield port


def identified(port: int, body: Any) -> tuple[int, dict[str, Any]]:
    status, answer = post(port, "/identify", body if isinstance(body, bytes) else json.dumps(body).encode())
    return status, json.loads(answer)


def test_the_echo_tells_path_headers_and_input(echo: int) -> None:
    status, answer = post(echo, "/a/b", b'{"x": 1}', **{"X-Task-Id": "t1", "X-Api-Token": "canary", "Cookie": "canary"})
    assert status == 200
    told = json.loads(answer)
    assert told["path"] == "/a/b"
    assert told["input"] == {"x": 1}
    assert told["headers"] == {"Content-Type": "application/json", "X-Task-Id": "t1"}


@pytest.mark.parametrize("text", [b"9" * 5000, b"1e999", b'"x"', b"[1.00, 1e2]", '"ä\N{SNOWMAN}"'.encode()])
def test_the_echo_keeps_every_digit(echo: int, text: bytes) -> None:
    status, answer = post(echo, "/", text)
    assert status == 200
    assert answer.endswith(b'"input": ' + text + b"}")


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"\xff", b"\xef\xbb\xbf1", '"x"'.encode("utf-16"), b"[" * 100_000])
def test_the_echo_refuses_what_is_not_json(echo: int, text: bytes) -> None:
    assert post(echo, "/", text)[0] == 400


@pytest.mark.parametrize("name", ["echo", "model"])
def test_a_connection_is_kept_also_after_a_refusal(name: str, request: pytest.FixtureRequest) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", request.getfixturevalue(name), timeout=30)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("POST", "/identify", b"{", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 400
        assert connection.sock is first
    connection.close()


@pytest.mark.parametrize("name", ["echo", "model"])
@pytest.mark.parametrize(
    ("length", "status"), [("Content-Length: 99999999999", 413), ("Content-Length: x", 411), ("X-No: length", 411)]
)
def test_a_body_without_a_fitting_length_is_refused_unread(
    name: str, length: str, status: int, request: pytest.FixtureRequest
) -> None:
    with socket.create_connection(("127.0.0.1", request.getfixturevalue(name)), timeout=30) as client:
        client.sendall(f"POST /identify HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in answer


def test_the_echo_serves_many_at_once(echo: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", echo)) for _ in range(50)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: post(echo, "/", b"%d" % number), range(200)))
    for connection in idle:
        connection.close()
    assert [json.loads(body)["input"] for _, body in answers] == list(range(200))


@pytest.mark.parametrize(
    ("content", "kind", "mime"),
    [
        (Path(__file__).read_bytes(), "python", "text/x-python"),
        (gzip.compress(Path(__file__).read_bytes()), "gzip", "application/gzip"),
        (b"", "empty", "inode/x-empty"),
    ],
)
def test_the_model_tells_types(model: int, content: bytes, kind: str, mime: str) -> None:
    status, answer = identified(model, {"name": "a file", "content": base64.b64encode(content).decode()})
    assert status == 200
    assert (answer["name"], answer["type"], answer["mime"]) == ("a file", kind, mime)
    assert answer.keys() == {"name", "type", "group", "mime", "score"}
    assert 0 < answer["score"] <= 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body must be JSON"),
        (b"[" * 100_000, "the body must be JSON"),
        ([], "the body must be a JSON object"),
        ({"content": "QQ=="}, "name: must be a string"),
        ({"name": "x"}, "content: must be a string"),
        ({"name": "x", "content": 5}, "content: must be a string"),
        ({"name": "x", "content": "???"}, "content: must be base64"),
        ({"name": "x", "content": "QQ"}, "content: must be base64"),
        ({"name": "x", "content": "ä"}, "content: must be base64"),
    ],
)
def test_the_model_says_what_is_wrong_with_its_input(model: int, body: Any, message: str) -> None:
    assert identified(model, body) == (400, {"error": message})


def test_the_model_has_one_path(model: int) -> None:
    assert post(model, "/other", b"{}")[0] == 404


def test_the_model_serves_many_requests_at_once(model: int) -> None:
    content = base64.b64encode(Path(__file__).read_bytes()).decode()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: identified(model, {"name": str(number), "content": content}), range(40)))
    assert [(answer["name"], answer["type"]) for _, answer in answers] == [(str(n), "python") for n in range(40)]
