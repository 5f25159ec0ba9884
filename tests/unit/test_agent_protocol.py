import pytest

from queue_engine.domain.agent_protocol import END_BYTES, WorkerEnd, container_end, read_end, write_end


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "container exited with status 0"),
        (3, "container exited with status 3"),
        (127, "container exited with status 127"),
        (-9, "container killed by signal 9 (SIGKILL), perhaps out of memory"),
        (-11, "container killed by signal 11 (SIGSEGV)"),
        (-40, "container killed by signal 40"),
        (137, "container exited with status 137 (SIGKILL), perhaps out of memory"),
        (143, "container exited with status 143 (SIGTERM)"),
        (255, "container exited with status 255"),
    ],
)
def test_the_end_of_a_container_is_described(status: int, text: str) -> None:
    assert container_end(status) == text


@pytest.mark.parametrize("end", [WorkerEnd("why"), WorkerEnd("wärum", ("one", "", "\x1b[31mtwo"))])
def test_what_an_agent_says_at_its_end_is_read_again(end: WorkerEnd) -> None:
    assert read_end(write_end(end)) == end


def test_an_end_is_bounded() -> None:
    end = WorkerEnd("\0" * 10**6, ("\0" * 10**6,) * 1000)
    data = write_end(end)
    assert len(data) <= END_BYTES
    assert read_end(data) == WorkerEnd("\0" * 1000, ("\0" * 1000,) * 20)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"{}", b'{"reason": "x"}', b'{"reason": "x", "lines": 3}', b"\xff"]
)
def test_an_agent_that_was_killed_has_said_nothing(data: bytes) -> None:
    assert read_end(data) is None
