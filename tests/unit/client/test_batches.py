"""Tasks that are submitted together: what is sent again, and what a response means."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from queue_engine.client.batches import MAX_BYTES, MAX_LINES, TaskLines, batch_of, groups_of, submit_group
from queue_engine.client.errors import ApiError, Conflict, InvalidRequest, QueueFull, Unauthorized, Unavailable
from queue_engine.client.exchange import Response
from queue_engine.client.mapping import TaskMap
from queue_engine.client.models import BatchItem
from tests.unit.client.scripted_api import ScriptedApi, batch_body, refusal

LINES = TaskLines({"process_uri": "/run", "queue_ttl_seconds": 5})
ACCEPTED = {"result": "accepted"}
FULL = {"result": "rejected", "code": 429, "message": "full"}
BAD = {"result": "rejected", "code": 10001, "message": "input: is bad"}


def lines(count: int) -> list[bytes]:
    return [LINES.of(number, f"t{number}") for number in range(count)]


def answer(*items: dict[str, Any], **last: Any) -> Response:
    return Response(200, batch_body(*items, **last))


def sent(api: ScriptedApi, index: int) -> list[str]:
    """The ids of the tasks in a request."""
    return [json.loads(line)["taskId"] for line in (api.requests[index].body or b"").splitlines()]


def submit(api: ScriptedApi, count: int) -> list[BatchItem]:
    return api.run(submit_group("7", lines(count), api.patience))


def test_a_line_is_the_body_of_a_submission_without_a_line_break() -> None:
    line = LINES.of({"text": "a\nb"}, "t1")
    assert b"\n" not in line
    assert json.loads(line) == {
        "processUri": "/run", "queueTtlSeconds": 5, "input": {"text": "a\nb"}, "taskId": "t1",
    }  # fmt: skip


def test_a_time_of_python_is_sent_with_its_offset() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    line = TaskLines({"process_uri": "/run", "run_at": moment}).of(1, "t1")
    assert json.loads(line)["runAt"] == "2026-01-31T12:00:00+00:00"
    with pytest.raises(ValueError, match="run_at: must have a time zone"):
        TaskLines({"process_uri": "/run", "run_at": moment.replace(tzinfo=None)}).of(1, "t1")


def test_each_task_has_its_result_and_its_error() -> None:
    used = {"result": "rejected", "code": 12001, "message": "taskId: is used"}
    api = ScriptedApi([answer(ACCEPTED, BAD, {"result": "duplicate"}, used)])
    items = submit(api, 4)
    assert api.requests[0].content_type == "application/x-ndjson"
    assert [type(item.error) for item in items] == [type(None), InvalidRequest, type(None), Conflict]
    assert (batch_of(items).accepted, batch_of(items).duplicate, batch_of(items).rejected) == (1, 1, 2)


def test_only_tasks_that_may_be_accepted_later_are_sent_again() -> None:
    api = ScriptedApi([answer(ACCEPTED, FULL, BAD, FULL), answer(ACCEPTED, FULL), answer(ACCEPTED)])
    items = submit(api, 4)
    assert [(item.index, item.result) for item in items] == [
        (0, "accepted"), (1, "accepted"), (2, "rejected"), (3, "accepted")
    ]  # fmt: skip
    assert [sent(api, index) for index in range(3)] == [["t0", "t1", "t2", "t3"], ["t1", "t3"], ["t3"]]
    assert api.began[2] > api.began[1] > api.began[0]


@pytest.mark.parametrize("failure", [Unavailable("lost"), refusal(503), refusal(429)])
def test_a_lost_response_is_asked_for_again(failure: Response | Unavailable) -> None:
    api = ScriptedApi([failure, answer({"result": "duplicate"}, ACCEPTED)])
    assert [item.result for item in submit(api, 2)] == ["duplicate", "accepted"]
    assert sent(api, 1) == ["t0", "t1"]


def test_lines_without_a_result_are_sent_again_when_the_api_stops() -> None:
    stopped = answer(ACCEPTED, done=False, code=10002, message="the API is stopping")
    api = ScriptedApi([stopped, answer(ACCEPTED)])
    assert [item.index for item in submit(api, 2)] == [0, 1]
    assert sent(api, 1) == ["t1"]


def test_a_queue_that_stays_full_is_an_error_at_the_end_of_the_patience() -> None:
    api = ScriptedApi(itertools.repeat(answer(FULL), 1000))
    with pytest.raises(QueueFull, match="full"):
        submit(api, 1)
    assert 50 < api.began[-1] - api.began[0] <= 60


def test_patience_begins_again_with_each_task_that_is_accepted() -> None:
    slow = [answer(*[FULL] * left) for left in (3, 2, 1) for _ in range(14)]
    for place, left in ((14, 3), (28, 2)):
        slow.insert(place + (place == 28), answer(ACCEPTED, *[FULL] * (left - 1)))
    api = ScriptedApi([*slow, answer(ACCEPTED)])
    assert len(submit(api, 3)) == 3
    assert api.began[-1] - api.began[0] > 60


def test_a_revoked_key_is_not_tried_again() -> None:
    api = ScriptedApi([answer(ACCEPTED, done=False, code=40101, message="no")])
    with pytest.raises(Unauthorized):
        submit(api, 2)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"5\n", b"nonsense", b'{"done": true}\n'])
def test_a_response_of_something_else_is_an_error(body: bytes) -> None:
    with pytest.raises(ApiError):
        submit(ScriptedApi([Response(200, body)]), 1)


def test_groups_are_bounded_in_lines_and_bytes() -> None:
    assert [len(group) for group in groups_of(lines(600))] == [MAX_LINES, MAX_LINES, 600 - 2 * MAX_LINES]
    assert [len(group) for group in groups_of([b"x" * MAX_BYTES, b"y", b"z"])] == [1, 2]
    assert list(groups_of([])) == []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_map_takes_inputs_together_and_reads_no_more_than_its_window() -> None:
    tasks = TaskMap(itertools.count(), window=300, ordered=False, batch_id="b", monotonic=Clock())
    assert [len(tasks.take_group(LINES.of)) for _ in range(3)] == [MAX_LINES, 300 - MAX_LINES, 0]


def test_an_input_that_comes_slowly_is_submitted_before_the_next() -> None:
    clock = Clock()

    def slow() -> Any:
        for number in range(3):
            clock.now += 1
            yield number

    tasks = TaskMap(slow(), window=10, ordered=False, batch_id="b", monotonic=clock)
    assert [len(tasks.take_group(LINES.of)) for _ in range(4)] == [1, 1, 1, 0]
