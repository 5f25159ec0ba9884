import pytest

from queue_engine.domain.agent_protocol import container_end, find_container_end


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
def test_the_end_of_a_container_is_described_and_found_again(status: int, text: str) -> None:
    assert container_end(status) == text
    assert find_container_end(["loading", container_end(status)]) == text


@pytest.mark.parametrize("status", [-9, 137])
def test_a_container_that_the_kernel_ended_for_lack_of_memory_is_said_to_be_that(status: int) -> None:
    assert container_end(status, out_of_memory=True).endswith(" (SIGKILL): out of memory")


def test_lack_of_memory_explains_no_other_end() -> None:
    assert container_end(3, out_of_memory=True) == "container exited with status 3"
    assert container_end(-15, out_of_memory=True) == "container killed by signal 15 (SIGTERM)"


def test_it_is_found_inside_a_longer_line() -> None:
    line = '{"message":"draining: container killed by signal 11 (SIGSEGV)","level":"info"}'
    assert find_container_end(["first", line, "released 3 tasks"]) == "container killed by signal 11 (SIGSEGV)"


def test_the_newest_word_counts() -> None:
    lines = ["container exited with status 1", "container exited with status 3"]
    assert find_container_end(lines) == "container exited with status 3"


@pytest.mark.parametrize(
    "lines", [[], ["Traceback"], ["container exited with status"], ["container exited with status ٣"]]
)
def test_without_a_word_the_fact_remains(lines: list[str]) -> None:
    assert find_container_end(lines).startswith("container exited")
