"""`up` tells by the exit status of its controller which workers may be left, why, and how to find them."""

from pathlib import Path

import pytest

from queue_engine.backends.docker.names import WORKER
from queue_engine.domain.workers_left import WorkersLeft
from queue_engine.local.up import PLATFORMS, UpOptions, _Stack

KILLED = -9


def warning(backend: str | None, status: int | None) -> str | None:
    """Return the warning of an `up` with this backend whose controller has ended with this status."""
    given = {} if backend is None else {"QUEUE_ENGINE_BACKEND": backend}
    options = UpOptions("127.0.0.1", 9000, Path("data"), None, given)
    return _Stack(options, lambda _: None)._workers_left(status)


@pytest.mark.parametrize("backend", sorted(PLATFORMS))
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (WorkersLeft.UNLISTED, "did not list them"),
        (WorkersLeft.NOT_ENDED, "did not end them"),
        (WorkersLeft.NOT_LEADING, "another controller leads"),
        (KILLED, "the controller ended before it had removed them"),
        (1, "the controller ended before it had removed them"),
    ],
)
def test_a_status_other_than_zero_is_a_warning_with_its_reason(backend: str, status: int, reason: str) -> None:
    assert reason in (warning(backend, status) or "")


@pytest.mark.parametrize("backend", sorted(PLATFORMS))
def test_the_command_lists_by_the_label_that_all_workers_have(backend: str) -> None:
    assert PLATFORMS[backend].list_command.split("=")[-1].split()[-1] == WORKER


@pytest.mark.parametrize(
    ("backend", "status"),
    [("docker", 0), ("kubernetes", 0), ("docker", None), ("process", KILLED), (None, KILLED)],
)
def test_there_is_no_warning_if_all_are_removed_or_workers_end_with_the_controller(
    backend: str | None, status: int | None
) -> None:
    assert warning(backend, status) is None
