"""The check of outputs that agents send: other requests are served between its steps."""

import asyncio
from collections.abc import Sequence

import pytest

from queue_engine.api.agent.output_check import MAX_WHOLE_BYTES, OutputCheck
from queue_engine.api.http.turns import Turns
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.tasks import Failed, Outcome, Succeeded
from queue_engine.rules.json_pieces import PIECE_BYTES


def output_of(size: int) -> Succeeded:
    return Succeeded(b'"%b"' % (b"x" * (size - 2)))


async def checked(*outcomes: Outcome | None, held: Sequence[int] = range(100)) -> list[Outcome | None]:
    """Return the checked outcomes. The leases of the outcomes at the places `held` are valid."""

    async def hold(places: Sequence[int]) -> list[bool]:
        return [place in held for place in places]

    return list(await OutputCheck(Turns()).checked(outcomes, hold))


async def turns_during(check: asyncio.Task[list[Outcome | None]]) -> int:
    """Return how often other work was done during a check."""
    turns = 0
    while not check.done():
        turns += 1
        await asyncio.sleep(0)
    await check
    return turns


async def test_other_requests_are_served_while_many_outputs_are_checked() -> None:
    """A request may have dozens of outputs, each short enough for one step."""
    outputs = [output_of(MAX_WHOLE_BYTES)] * 8
    assert await turns_during(asyncio.create_task(checked(*outputs))) >= len(outputs) - 1


async def test_other_requests_are_served_while_a_long_output_is_checked() -> None:
    pieces = 100
    check = asyncio.create_task(checked(output_of(pieces * PIECE_BYTES)))
    assert await turns_during(check) >= pieces


async def test_a_short_check_does_not_wait_for_the_end_of_a_long_one() -> None:
    check = OutputCheck(Turns())

    async def hold(places: Sequence[int]) -> list[bool]:
        return [True] * len(places)

    long = asyncio.create_task(check.checked([output_of(100 * PIECE_BYTES)], hold))
    short = asyncio.create_task(check.checked([output_of(MAX_WHOLE_BYTES + 1)], hold))
    await short
    assert not long.done()
    await long


@pytest.mark.parametrize("size", [1, MAX_WHOLE_BYTES + 1])
async def test_an_output_that_is_not_json_is_refused_wherever_it_is_checked(size: int) -> None:
    with pytest.raises(InvalidRequest, match="an output is not JSON"):
        await checked(Succeeded(b"1"), None, Succeeded(b"x" * size))


async def test_large_outputs_without_a_valid_lease_are_not_checked() -> None:
    """Otherwise invented leases would suffice to keep the process busy. Their calls have no effect in any case."""
    bad, good, failed = Succeeded(b"x" * MAX_WHOLE_BYTES), Succeeded(b"1"), Failed("no")
    assert await checked(failed, bad, good, None, held=[2]) == [failed, Succeeded(b"null"), good, None]
