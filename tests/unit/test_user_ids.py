"""User ids for the containers of endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.domain.user_ids import (
    MAX_USER_ID,
    NEEDED_CAPABILITIES,
    UserIds,
    choose_user_id,
    default_user_ids,
    missing_capabilities,
    parse_user_ids,
)

EVERY = [UserIds(0, 2**32 - 1)]


def test_a_range_has_both_ends() -> None:
    ids = parse_user_ids(" 70000-70009 ")
    assert ids == UserIds(70000, 70009)
    assert ids.count == 10
    assert 70009 in ids
    assert 70010 not in ids
    assert str(ids) == "70000-70009"


@pytest.mark.parametrize("text", ["", "70000", "70009-70000", "0-10", "a-b", "1-2-3", "-5", "1-70000", f"1-{2**32}"])
def test_a_range_that_cannot_be_used_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_user_ids(text)


@pytest.mark.parametrize(
    ("used", "mapped", "expected"),
    [
        ([], EVERY, UserIds(1_900_000_000, 1_900_000_999)),
        ([UserIds(1_900_000_500, 1_900_000_500)], EVERY, UserIds(1_900_001_000, 1_900_001_999)),
        ([], [UserIds(0, 65_535)], UserIds(64_536, 65_535)),
        ([UserIds(65_534, 65_534)], [UserIds(0, 65_535)], UserIds(63_536, 64_535)),
        ([], [UserIds(0, 0), UserIds(1, 500)], None),
        ([UserIds(0, MAX_USER_ID + 2)], EVERY, None),
        ([], [], None),
    ],
)
def test_the_default_is_a_range_that_no_account_uses_and_that_exists(
    used: list[UserIds], mapped: list[UserIds], expected: UserIds | None
) -> None:
    assert default_user_ids(used, mapped) == expected


def test_an_endpoint_gets_the_same_id_again_and_another_one_if_it_is_taken() -> None:
    ids = UserIds(70000, 70009)
    assert choose_user_id("7", ids, set()) == 70007
    assert choose_user_id("17", ids, {70007}) == 70008
    assert choose_user_id("9", ids, {70009}) == 70000
    assert choose_user_id("9", ids, ids) is None


@given(st.integers(1, 2**53), st.sets(st.integers(70000, 70019)))
def test_an_id_that_is_taken_is_never_chosen(endpoint: int, taken: set[int]) -> None:
    ids = UserIds(70000, 70019)
    chosen = choose_user_id(str(endpoint), ids, taken)
    assert (chosen is None) == (len(taken) == ids.count)
    assert chosen is None or (chosen in ids and chosen not in taken)


def test_missing_capabilities_are_named() -> None:
    assert missing_capabilities(2**40 - 1) == []
    assert missing_capabilities(0) == list(NEEDED_CAPABILITIES)
    docker_default = 0xA80425FB
    assert missing_capabilities(docker_default) == ["CAP_SYS_PTRACE"]
