"""A process uses data of its own format and of the one before; an agent of the next one too."""

import pytest

from queue_engine.domain.data_formats import format_refusal


@pytest.mark.parametrize("found", ["3", "4"])
@pytest.mark.parametrize("is_agent", [False, True])
def test_a_version_uses_data_of_its_own_format_and_of_the_one_before(found: str, is_agent: bool) -> None:
    assert format_refusal(found, 4, is_agent=is_agent) is None


def test_only_an_agent_uses_data_of_the_next_format() -> None:
    assert format_refusal("5", 4, is_agent=True) is None
    assert format_refusal("6", 4, is_agent=True) is not None
    assert format_refusal("5", 4) == (
        "it holds data of format 5, this version reads formats 3 and 4: install the version that the other processes "
        "have"
    )


@pytest.mark.parametrize("found", ["2", "1", "0", "-1", "", "four", "४"])
def test_data_that_is_too_old_is_refused_with_the_way_to_go(found: str) -> None:
    refusal = format_refusal(found, 4)
    assert refusal == (
        f"it holds data of format {found}, this version reads formats 3 and 4: first install the version before this "
        "one, and wait until it has migrated the data"
    )


def test_the_first_version_reads_one_format() -> None:
    assert format_refusal("1", 1) is None
    assert "this version reads format 1:" in str(format_refusal("0", 1))
    assert "this version reads format 1:" in str(format_refusal("2", 1))


def test_a_process_of_the_version_before_does_not_start_once_a_migration_has_begun() -> None:
    assert format_refusal("4", 5, migrates_to=5) is None
    assert format_refusal("4", 4, migrates_to=5, is_agent=True) is None
    assert str(format_refusal("4", 4, migrates_to=5)).startswith("its data is being migrated to format 5, this version")
