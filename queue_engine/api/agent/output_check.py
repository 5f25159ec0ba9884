"""Check the outputs that agents send, without delaying other requests for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from queue_engine.api.http.bodies import MAX_SPLIT_BYTES
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.tasks import Outcome, Succeeded
from queue_engine.rules.strict_json import is_json


class OutputCheck:
    """Checks the outputs of one request after another. Longer ones than MAX_SPLIT_BYTES are checked in a thread."""

    def __init__(self) -> None:
        self._in_thread = asyncio.Lock()

    async def check(self, outcomes: Sequence[Outcome | None]) -> None:
        """Raise InvalidRequest for an output that is not JSON, because clients get it inside a JSON response.

        Other requests are served after each MAX_SPLIT_BYTES that are checked on the event loop.
        """
        checked_bytes = 0
        for output in [one.output for one in outcomes if isinstance(one, Succeeded)]:
            if len(output) <= MAX_SPLIT_BYTES:
                checked_bytes += len(output)
                if checked_bytes > MAX_SPLIT_BYTES:
                    await asyncio.sleep(0)
                    checked_bytes = len(output)
                is_valid = is_json(output)
            else:
                async with self._in_thread:  # one at a time, because the threads share the interpreter
                    is_valid = await asyncio.to_thread(is_json, output)
            if not is_valid:
                raise InvalidRequest("body", "an output is not JSON")
