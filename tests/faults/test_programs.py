"""The container and the receiver of the fault suite, each as the program that it is."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queue_engine.net.listening import bind
from tests.faults.container import POISON_STATUS
from tests.faults.journal import JournalServer, read_journal
from tests.faults.receiver import FAILING_SHARE, refusals
from tests.integration.parts import wait_for_port
from tests.ports import free_port
from tests.waiting import wait_until


@contextmanager
def program(name: str, journal: Path | None, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    file = () if journal is None else ("--journal", str(journal))
    process = subprocess.Popen([sys.executable, "-m", f"tests.faults.{name}", "--port", str(port), *file, *arguments])
    try:
        wait_for_port(port)
        yield port, process
    finally:
        process.terminate()
        process.wait(10)


def post(port: int, body: object, attempt: int = 1) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"X-Task-Id": "t", "X-Task-Attempt": str(attempt), "webhook-id": "msg_1"}
    try:
        connection.request("POST", "/run", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if answer.status == 200 and text != b"ok" else text
    finally:
        connection.close()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with program("container", tmp_path / "j", "--worker", "w1") as running:
        yield running


def seen(tmp_path: Path) -> list[tuple[str, str | None]]:
    return [(record["what"], record.get("how")) for record in read_journal(tmp_path / "j")]


def test_the_output_names_the_execution_that_is_in_the_journal(
    container: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    status, output = post(container[0], {"do": "ok", "ms": 1, "bytes": 5}, attempt=2)
    wait_until(lambda: len(seen(tmp_path)) == 2)
    begin, end = read_journal(tmp_path / "j")
    assert status == 200
    assert output == {"task": "t", "attempt": 2, "execution": begin["execution"], "filling": "xxxxx"}
    assert (begin["worker"], begin["pid"], begin["do"]) == ("w1", container[1].pid, "ok")
    assert (end["execution"], end["how"]) == (begin["execution"], "ok")


def test_its_journal_may_go_over_tcp_under_its_own_address(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener, JournalServer(listener, tmp_path / "j"):
        with program("container", None, "--journal-server", f"127.0.0.1:{listener.getsockname()[1]}") as (port, _):
            assert post(port, {"do": "busy"})[0] == 503
            assert post(port, {"do": "busy"})[0] == 200
        assert seen(tmp_path)[1::2] == [("end", "busy"), ("end", "ok")]
        assert {record["worker"] for record in read_journal(tmp_path / "j")} == {"127.0.0.1"}


def test_it_is_busy_in_the_first_execution_by_any_container(
    container: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    responses = [post(container[0], {"do": "busy"}, attempt=1)[0] for _ in range(3)]
    assert responses == [503, 200, 200]
    wait_until(lambda: seen(tmp_path)[1::2] == [("end", "busy"), ("end", "ok"), ("end", "ok")])


def test_it_is_not_busy_for_a_task_that_another_container_has_refused(
    container: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with program("container", tmp_path / "j", "--worker", "w2") as (port, _):
        assert post(port, {"do": "busy"})[0] == 503
    assert post(container[0], {"do": "busy"})[0] == 200


def test_it_notes_that_the_agent_has_left(container: tuple[int, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    with socket.create_connection(("127.0.0.1", container[0])) as connection:
        body = b'{"do": "hang"}'
        head = f"POST / HTTP/1.1\r\nX-Task-Id: t\r\nX-Task-Attempt: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: seen(tmp_path) == [("begin", None)])
    wait_until(lambda: seen(tmp_path) == [("begin", None), ("end", "left")])


@pytest.mark.parametrize("do", ["reset", "exit"])
def test_it_breaks_the_connection(container: tuple[int, subprocess.Popen[bytes]], tmp_path: Path, do: str) -> None:
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        post(container[0], {"do": do})
    wait_until(lambda: seen(tmp_path) == [("begin", None), ("end", do)])
    if do == "exit":
        assert container[1].wait(10) == POISON_STATUS


def test_the_receiver_notes_what_came_and_takes_it_in_the_end(tmp_path: Path) -> None:
    body = {"user_task_id": "t", "status": "Success", "retry_count": 1, "result": {"execution": "e", "filling": "xx"}}
    seed = next(number for number in range(1000) if refusals(number, "msg_1") == 1)
    with program("receiver", tmp_path / "r", "--seed", str(seed)) as (port, _):
        assert [post(port, body)[0] for _ in range(3)] == [503, 200, 200]
    records = read_journal(tmp_path / "r")
    assert [record["answered"] for record in records] == [503, 200, 200]
    assert {record["id"] for record in records} == {"msg_1"}
    assert records[0]["result"] == {"execution": "e"}


def test_about_as_many_webhooks_as_planned_are_refused_at_first() -> None:
    refused = sum(refusals(7, f"msg_{number}") > 0 for number in range(2000))
    assert 0.5 * FAILING_SHARE < refused / 2000 < 1.5 * FAILING_SHARE
