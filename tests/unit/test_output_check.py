"""The check of outputs that agents send: other requests are served between its parts."""

import asyncio

import pytest

from queue_engine.api.agent.output_check import OutputCheck
from queue_engine.api.http.bodies import MAX_SPLIT_BYTES
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.tasks import Succeeded


async def test_other_requests_are_served_while_many_outputs_are_checked() -> None:
    """A request may have dozens of outputs, each short enough for the event loop."""
    outputs = [Succeeded(b'"%b"' % (b"x" * (MAX_SPLIT_BYTES // 2)))] * 8
    check = asyncio.create_task(OutputCheck().check(outputs))
    turns = 0
    while not check.done():
        turns += 1
        await asyncio.sleep(0)
    await check
    assert turns >= len(outputs) - 1


@pytest.mark.parametrize("size", [1, MAX_SPLIT_BYTES + 1])
async def test_an_output_that_is_not_json_is_refused_wherever_it_is_checked(size: int) -> None:
    outcomes = [Succeeded(b"1"), None, Succeeded(b"x" * size)]
    with pytest.raises(InvalidRequest, match="an output is not JSON"):
        await OutputCheck().check(outcomes)
