"""Long work of requests on the event loop, done in steps so that no request delays the others."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")


class Turns:
    """Does one step at a time, for each request in turn. Other work of the event loop is done after each step."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, steps: Generator[None, None, Result]) -> Result:
        """Do all steps, and return the result of the generator. Raises what it raises."""
        while True:
            async with self._turn:
                try:
                    next(steps)
                except StopIteration as end:
                    result: Result = end.value
                    return result
                await asyncio.sleep(0)  # with the lock: without it every request would do a step in the same round
