"""`queue-engine tasks map`: what it submits, what it prints, and how it goes on after an interruption."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.cli_api import FakeApi, Script, endpoint, failure, task
from tests.unit.client.scripted_api import batch_body

ONE = "/v2/serverless/7"


def batch_response(*items: Mapping[str, Any]) -> httpx.Response:
    return httpx.Response(200, content=batch_body(*items))


class TaskApi:
    """An API with one endpoint, whose tasks end when they are waited for."""

    def __init__(self, failing: str = "", waits: int | None = None) -> None:
        """After `waits` waits the command is interrupted."""
        self.inputs: dict[str, str] = {}
        self.waits = waits
        self.api = FakeApi(
            {
                f"GET {ONE}": endpoint(),
                f"POST {ONE}/tasks/batch": self._submit,
                f"POST {ONE}/tasks/wait": lambda request: self._wait(request, failing),
            }
        )

    def _submit(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/x-ndjson"
        names = []
        for body in request.content.decode().splitlines():
            names.append(json.loads(body)["taskId"])
            self.inputs[names[-1]] = body.split('"input": ')[1][:-1]
        return batch_response(*({"taskId": name, "result": "accepted"} for name in names))

    def _wait(self, request: httpx.Request, failing: str) -> httpx.Response:
        if self.waits is not None:
            if not self.waits:
                raise KeyboardInterrupt
            self.waits -= 1
        asked = json.loads(request.content)["taskIds"][-1]
        failed = {"status": "FAILED", "state": "failed", "error": "boom"} if self.inputs[asked] == failing else {}
        ended = json.dumps(task(taskId=asked, **failed) | {"output": 0}).replace(
            '"output": 0', f'"output": {self.inputs[asked]}'
        )
        data = f'{{"ended": [{ended}], "pending": [], "unknown": []}}'
        return httpx.Response(200, content=f'{{"message": "success", "code": 10000, "data": {data}}}')


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"n": 1}\n\n18446744073709551616\n1.10')
    return file


def test_each_line_is_a_task_and_each_result_a_line(inputs: Path) -> None:
    tasks = TaskApi()
    result = tasks.api.run("tasks", "map", "7", str(inputs), "--path", "/run", "--batch-id", "b", "--ordered")
    assert result.exit_code == 0, result.output
    assert tasks.inputs == {"b_1": '{"n": 1}', "b_2": "18446744073709551616", "b_3": "1.10"}
    assert result.stdout.splitlines() == [
        '{"index": 0, "taskId": "b_1", "output": {"n": 1}}',
        '{"index": 1, "taskId": "b_2", "output": 18446744073709551616}',
        '{"index": 2, "taskId": "b_3", "output": 1.10}',
    ]


def test_a_failed_task_is_a_line_and_the_exit_status(inputs: Path) -> None:
    result = TaskApi(failing="1.10").api.run("tasks", "map", "7", str(inputs), "--batch-id", "b", "--ordered")
    assert result.exit_code == 4
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == {"index": 2, "taskId": "b_3", "status": "FAILED", "error": "boom"}


def test_an_interruption_says_that_the_same_command_goes_on(inputs: Path) -> None:
    result = TaskApi(waits=1).api.run("tasks", "map", "7", str(inputs), "--batch-id", "b")
    assert (result.exit_code, len(result.stdout.splitlines())) == (130, 1)
    assert "interrupted after 1 of 3 inputs; submitted tasks go on, and the same command continues" in result.stderr


AWAY = httpx.ConnectError("refused")


def test_an_api_that_is_away_is_waited_for_in_each_call_and_named_once(inputs: Path) -> None:
    tasks = TaskApi()
    answers = dict(tasks.api.answers)
    find = "GET /v2/serverless"
    tasks.api.answers = answers | {
        find: Script(AWAY, AWAY, [endpoint()]),
        f"GET {ONE}": Script(failure(503, "the store is away"), endpoint()),
        f"POST {ONE}/tasks/batch": Script(AWAY, answers[f"POST {ONE}/tasks/batch"]),
        f"POST {ONE}/tasks/wait": Script(AWAY, answers[f"POST {ONE}/tasks/wait"]),
    }
    result = tasks.api.run("tasks", "map", "echo", str(inputs), "--batch-id", "b")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3), result.output
    away, back = "the API is away: ", "the API is back"
    assert [line[: len(away)].rstrip() for line in result.stderr.splitlines()] == [away.rstrip(), back] * 4
    assert result.stderr.splitlines()[0].endswith("refused; trying again for 60 s")


@pytest.mark.parametrize("call", ["GET /v2/serverless", f"POST {ONE}/tasks/batch", f"POST {ONE}/tasks/wait"])
def test_an_api_that_stays_away_is_tried_as_long_as_by_the_client(inputs: Path, call: str) -> None:
    tasks = TaskApi()
    tasks.api.answers = {"GET /v2/serverless": [endpoint()], **tasks.api.answers, call: AWAY}
    result = tasks.api.run("tasks", "map", "echo", str(inputs), "--batch-id", "b")
    assert result.exit_code == 3
    assert 50 < sum(tasks.api.pauses) <= 60
    assert "refused; submitted tasks go on, and the same command continues" in result.stderr.splitlines()[-1]


def test_a_wait_that_the_api_held_takes_no_time_from_the_retries(inputs: Path) -> None:
    tasks = TaskApi()

    def held(_request: httpx.Request) -> Exception:
        tasks.api.time += 50
        return AWAY

    wait = tasks.api.answers[f"POST {ONE}/tasks/wait"]
    answers = Script(held, *[AWAY] * 50, wait)
    tasks.api.answers = {**tasks.api.answers, f"POST {ONE}/tasks/wait": answers}
    assert tasks.api.run("tasks", "map", "7", str(inputs), "--batch-id", "b").exit_code == 0


def test_a_full_queue_is_not_told_as_an_outage(inputs: Path) -> None:
    tasks = TaskApi()
    submit = tasks.api.answers[f"POST {ONE}/tasks/batch"]
    full = failure(429, "the queue is full")
    tasks.api.answers = {**tasks.api.answers, f"POST {ONE}/tasks/batch": Script(full, submit)}
    result = tasks.api.run("tasks", "map", "7", str(inputs), "--batch-id", "b")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_same_file_has_the_same_ids(inputs: Path) -> None:
    first, second = TaskApi(), TaskApi()
    first.api.run("tasks", "map", "7", str(inputs), "--window", "1")
    second.api.run("tasks", "map", "7", str(inputs))
    assert sorted(first.inputs) == sorted(second.inputs)
    inputs.write_text("2")
    other = TaskApi()
    other.api.run("tasks", "map", "7", str(inputs))
    assert not set(first.inputs) & set(other.inputs)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1\n{\n", (), "line 2: is not JSON"),
        ("1\n" + "[" * 20_000, (), "line 2: is not JSON"),
        ("1\n" + "2" * 100, ("--max-body-bytes", "50"), "line 2: is longer than 50 bytes"),
        ("1", ("--window", "10001"), "--window: must be 1–10000"),
        ("1", ("--batch-id", "a-b"), "--batch-id: must be 1–64 of"),
    ],
)
def test_a_mistake_is_named_before_anything_is_submitted(
    inputs: Path, text: str, options: tuple[str, ...], message: str
) -> None:
    inputs.write_text(text)
    tasks = TaskApi()
    result = tasks.api.run("tasks", "map", "7", str(inputs), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert tasks.inputs == {}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = TaskApi().api.run("tasks", "map", "7", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "missing: cannot be read: No such file" in result.stderr


def test_a_file_that_was_submitted_with_other_options_needs_another_batch_id(inputs: Path) -> None:
    used = "taskId: is already used by a task with a different body"
    for message, advised in ((used, True), ("the endpoint takes no tasks", False)):
        refused = batch_response({"taskId": "t", "result": "rejected", "code": 24000, "message": message})
        api = FakeApi({f"GET {ONE}": endpoint(), f"POST {ONE}/tasks/batch": refused})
        result = api.run("tasks", "map", "7", str(inputs), "--path", "/other")
        assert (result.exit_code, result.stdout) == (1, "")
        assert message in result.stderr
        assert ("or another --batch-id to run all lines again" in result.stderr) is advised
