"""When a controller looks at the queue of the background jobs."""

import pytest

from queue_engine.controller.jobs import DUE_MICROSECOND, LOOK_SECONDS, seconds_to_next_look


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 0.13), (100.12, 0.01), (100.131, 0.999), (100.2, 0.93), (100.999, 0.131)]
)
def test_a_worker_looks_at_its_queue_once_a_second(now: float, wait: float) -> None:
    assert seconds_to_next_look(now) == pytest.approx(wait, abs=1e-6)


def test_a_worker_looks_at_its_queue_just_after_jobs_are_due() -> None:
    assert 0 < LOOK_SECONDS - DUE_MICROSECOND / 1e6 < 0.01
