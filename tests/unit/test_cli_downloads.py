"""`queue-engine tasks input` and `tasks output`: to a file, a pipe and a terminal."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.cli_api import FakeApi, failure

OUTPUT = "GET /v2/serverless/7/tasks/t1/output"
INPUT = "GET /v2/serverless/7/tasks/t1/input"
PNG = b"\x89PNG\x00\x1b[2J"
TEXT = "text/plain; charset=utf-8"


def file(content: bytes | Iterator[bytes], media_type: str) -> httpx.Response:
    headers = {"Content-Type": media_type, "Content-Disposition": 'attachment; filename="t1-output.bin"'}
    return httpx.Response(200, content=content, headers=headers)


def cut_off() -> Iterator[bytes]:
    yield b"begun"
    raise httpx.RemoteProtocolError("the connection was lost")


@pytest.mark.parametrize("content", [PNG, b"", b"no end of a line", b"\n"])
def test_a_pipe_gets_the_bytes(content: bytes) -> None:
    result = FakeApi({OUTPUT: file(content, "image/png")}).run("tasks", "output", "7", "t1")
    assert (result.exit_code, result.stdout_bytes) == (0, content)
    result = FakeApi({INPUT: file(b"{}", "application/json")}).run("tasks", "input", "7", "t1")
    assert result.stdout_bytes == b"{}"


def test_a_terminal_gets_text_without_control_characters() -> None:
    api = FakeApi({OUTPUT: file(b"a\x1b[2J\tb\nc", TEXT)})
    assert api.run("tasks", "output", "7", "t1", terminal=True).stdout == "a\\x1b[2J\tb\nc\n"
    api = FakeApi({OUTPUT: file('{"a": "\u202e"}'.encode(), "application/json")})
    assert api.run("tasks", "output", "7", "t1", terminal=True).stdout == '{"a": "\\u202e"}\n'


def test_a_terminal_gets_other_bytes_only_on_demand() -> None:
    api = FakeApi({OUTPUT: file(PNG, "image/png")})
    result = api.run("tasks", "output", "7", "t1", terminal=True)
    assert (result.exit_code, result.stdout_bytes) == (2, b"")
    assert "the output is image/png, which may harm a terminal; use --output FILE, or --output -" in result.stderr
    api = FakeApi({OUTPUT: file(PNG, "image/png")})
    assert api.run("tasks", "output", "7", "t1", "--output", "-", terminal=True).stdout_bytes == PNG


def test_a_file_gets_the_bytes_and_the_command_says_what_they_are(tmp_path: Path) -> None:
    target = tmp_path / "picture.png"
    target.write_bytes(b"before")
    result = FakeApi({OUTPUT: file(PNG, "image/png")}).run("tasks", "output", "7", "t1", "-o", str(target))
    assert (result.stdout, target.read_bytes()) == (f"{target}: {len(PNG)} bytes, image/png\n", PNG)
    api = FakeApi({OUTPUT: file(PNG, "image/png")})
    shown = json.loads(api.run("tasks", "output", "7", "t1", "-o", str(target), "--json").stdout)
    assert shown == {"file": str(target), "contentType": "image/png", "bytes": len(PNG)}
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_no_regular_one_is_written_itself() -> None:
    result = FakeApi({OUTPUT: file(PNG, "image/png")}).run("tasks", "output", "7", "t1", "-o", "/dev/null")
    assert (result.exit_code, Path("/dev/null").is_char_device()) == (0, True)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (failure(404, "the task has no output: it has not ended (queued)"), 1, "it has not ended (queued)"),
        (httpx.Response(200, content=b"hello"), 3, "is not the API"),
        (httpx.Response(200, json={"message": "success", "code": 10000, "data": 1}), 3, "no file"),
        (httpx.ConnectError("refused"), 3, "refused"),
        (lambda _request: file(cut_off(), "image/png"), 3, "the connection was lost"),
    ],
    ids=["none", "foreign", "no file", "away", "cut off"],
)
def test_a_file_stays_as_it_is_without_the_whole_output(
    tmp_path: Path, answer: object, status: int, message: str
) -> None:
    target = tmp_path / "picture.png"
    target.write_bytes(b"before")
    result = FakeApi({OUTPUT: answer}).run("tasks", "output", "7", "t1", "--output", str(target))
    assert result.exit_code == status
    assert message in result.stderr
    assert ([*tmp_path.iterdir()], target.read_bytes()) == ([target], b"before")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "/nowhere/at.all"), "--output /nowhere/at.all: cannot be written: No such file"),
        (("--output", "/"), "--output /: cannot be written: Is a directory"),
        (("--json",), "--json: needs --output FILE"),
    ],
)
def test_wrong_options_are_named(options: tuple[str, ...], message: str) -> None:
    result = FakeApi({OUTPUT: file(PNG, "image/png")}).run("tasks", "output", "7", "t1", *options)
    assert (result.exit_code, result.stdout_bytes) == (2, b"")
    assert message in result.stderr
