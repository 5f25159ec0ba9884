"""The lane of a new task, and what is read from the lane of a stored one."""

import pytest

from queue_engine.domain.tasks import Priority, fairness_key_in, lane_of, priority_in


@pytest.mark.parametrize(
    ("priority", "key", "lane"),
    [
        (None, None, None),
        (None, "k", "-k"),
        (Priority.HIGH, None, "0"),
        (Priority.HIGH, "k", "0k"),
        (Priority.NORMAL, None, "1"),
        (Priority.NORMAL, "k", "1k"),
        (Priority.LOW, None, "2"),
        (Priority.LOW, "2", "22"),
    ],
)
def test_a_lane_is_the_digit_of_the_level_and_the_key(
    priority: Priority | None, key: str | None, lane: str | None
) -> None:
    assert lane_of(priority, key) == lane
    if priority is not None:
        assert (priority_in(lane), fairness_key_in(lane)) == (priority, key)


def test_a_task_without_a_lane_has_normal_priority_and_no_key() -> None:
    assert (priority_in(None), fairness_key_in(None)) == (Priority.NORMAL, None)
