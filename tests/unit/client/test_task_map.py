"""The bookkeeping of `map`: the window, the order, and the ids of a batch."""

import itertools
from typing import Any

import pytest

from queue_engine.client.errors import TaskFailed
from queue_engine.client.mapping import TaskMap
from queue_engine.client.models import TaskInfo
from tests.unit.client.scripted_api import task


def ended(task_id: str, **members: Any) -> TaskInfo:
    return TaskInfo.model_validate(task(task_id, **members))


def taken(tasks: TaskMap) -> list[str]:
    return [pending.task_id for pending in iter(tasks.take, None)]


def test_no_more_inputs_are_read_than_the_window_has_places() -> None:
    tasks = TaskMap(itertools.count(), window=3, ordered=False, batch_id="b")
    assert taken(tasks) == ["b_1", "b_2", "b_3"]
    tasks.note_all([ended("b_2")], asked=tasks.waiting())
    assert taken(tasks) == []  # its result has not been yielded yet
    assert [item.index for item in tasks.results()] == [1]
    assert taken(tasks) == ["b_4"]


def test_results_come_as_tasks_end() -> None:
    tasks = TaskMap("abc", window=3, ordered=False, batch_id="b")
    taken(tasks)
    tasks.note_all([ended("b_3", output=3)], asked=tasks.waiting())
    assert [(item.index, item.input, item.output) for item in tasks.results()] == [(2, "c", 3)]
    assert tasks.results() == []


def test_ordered_results_wait_for_those_before_them() -> None:
    tasks = TaskMap("abc", window=3, ordered=True, batch_id="b")
    taken(tasks)
    tasks.note_all([ended("b_3"), ended("b_2")], asked=tasks.waiting())
    assert tasks.results() == []
    tasks.note_all([ended("b_1")], asked=tasks.waiting())
    assert [item.index for item in tasks.results()] == [0, 1, 2]
    assert tasks.is_done is False  # the inputs have not been read to their end
    assert taken(tasks) == []
    assert tasks.is_done is True


def test_a_failed_task_is_a_result_with_an_error() -> None:
    tasks = TaskMap("a", window=1, ordered=False, batch_id="b")
    taken(tasks)
    tasks.note_all([ended("b_1", status="FAILED", state="failed", error="boom")], asked=["b_1"])
    (item,) = tasks.results()
    assert str(item.error) == "task b_1: boom"
    with pytest.raises(TaskFailed):
        item.result()


def test_each_part_of_a_large_window_has_its_turn() -> None:
    tasks = TaskMap(range(600), window=600, ordered=False, batch_id="b")
    taken(tasks)
    seen: set[str] = set()
    for _ in range(3):
        asked = tasks.waiting()
        assert len(asked) == 256
        seen.update(asked)
        tasks.note_all([], asked=asked)
    assert len(seen) == 600


def test_without_a_batch_each_run_has_ids_of_its_own() -> None:
    first, second = (taken(TaskMap("ab", window=2, ordered=False, batch_id=None)) for _ in range(2))
    assert len({*first, *second}) == 4


@pytest.mark.parametrize("window", [0, 10_001])
def test_a_window_out_of_range_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="window: must be 1–10000"):
        TaskMap("a", window=window, ordered=False, batch_id=None)


@pytest.mark.parametrize("batch_id", ["", "a-b", "a" * 65, "ä"])
def test_an_invalid_batch_id_is_refused(batch_id: str) -> None:
    with pytest.raises(ValueError, match="batch_id: must be 1–64 of"):
        TaskMap("a", window=1, ordered=False, batch_id=batch_id)
