import pytest

from queue_engine.domain.agent_protocol import container_end, find_container_end


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "container exited with status 0"),
        (127, "container exited with status 127"),
        (-9, "container killed by signal 9"),
    ],
)
def test_the_agents_last_word_is_found_again(status: int, text: str) -> None:
    assert container_end(status) == text
    assert find_container_end(["loading", container_end(status)]) == text


def test_it_is_found_inside_a_longer_line() -> None:
    line = '{"message":"draining: container killed by signal 9 (SIGKILL)","level":"info"}'
    assert find_container_end(["first", line, "released 3 tasks"]) == "container killed by signal 9"


def test_the_newest_word_counts() -> None:
    lines = ["container exited with status 1", "container exited with status 2 container exited with status 3"]
    assert find_container_end(lines) == "container exited with status 3"


@pytest.mark.parametrize(
    "lines", [[], ["Traceback"], ["container exited with status"], ["container exited with status ٣"]]
)
def test_without_a_word_the_fact_remains(lines: list[str]) -> None:
    assert find_container_end(lines).startswith("container exited")
