"""Check the outputs that agents send, without delaying other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from queue_engine.api.http.turns import Turns
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.tasks import Outcome, Succeeded
from queue_engine.rules.json_pieces import is_json_in_pieces
from queue_engine.rules.strict_json import is_json

MAX_WHOLE_BYTES = 256 * 1024
"""Longest output that is checked in one step, in 3 ms at worst. This also limits the outputs of one request that are
checked before its leases."""
_UNUSED = Succeeded(b"null")


class OutputCheck:
    """Checks the outputs of requests, in `turns` with other long work."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def checked(
        self, outcomes: Sequence[Outcome | None], hold: Callable[[Sequence[int]], Awaitable[Sequence[bool]]]
    ) -> Sequence[Outcome | None]:
        """Return the outcomes. Raises InvalidRequest for an output that is not JSON, because clients get it inside a
        JSON response.

        `hold` gets the places of outcomes, and returns True for each whose lease is valid. If the outputs are large,
        those without a valid lease are not checked, because anybody with a token can send such outputs. Each is
        replaced by `null`, which has the same effect: none.
        """
        outputs = {place: one.output for place, one in enumerate(outcomes) if isinstance(one, Succeeded)}
        if sum(map(len, outputs.values())) > MAX_WHOLE_BYTES:
            held = await hold(list(outputs))
            refused = {place for place, is_held in zip(outputs, held, strict=True) if not is_held}
            outcomes = [_UNUSED if place in refused else one for place, one in enumerate(outcomes)]
            outputs = {place: output for place, output in outputs.items() if place not in refused}
        await self._check(list(outputs.values()))
        return outcomes

    async def _check(self, outputs: Sequence[bytes | memoryview]) -> None:
        checked_bytes = 0
        for output in outputs:
            if len(output) <= MAX_WHOLE_BYTES:
                checked_bytes += len(output)
                if checked_bytes > MAX_WHOLE_BYTES:
                    await asyncio.sleep(0)
                    checked_bytes = len(output)
                is_valid = is_json(output)
            else:
                is_valid = await self._turns.run(is_json_in_pieces(output))
            if not is_valid:
                raise InvalidRequest("body", "an output is not JSON")
