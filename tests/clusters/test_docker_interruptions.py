"""A controller of containers that is killed before or after any of its calls to the engine."""

import asyncio
import os
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from queue_engine.backends.base import Backend, Phase
from queue_engine.backends.docker.backend import DockerBackend
from queue_engine.backends.docker.engine import AiodockerEngine
from tests.clusters.installation import Installation, spec_for
from tests.integration.backend_contract import FOREVER, all_of, in_phase

CHANGES = ("create", "start", "signal", "stop", "remove")
"""The calls that change something."""
START_CALLS = 4
"""Both containers are created and started."""
SPEC = replace(spec_for("w1", FOREVER), volume_gb=0)  # because an engine may refuse to limit a disk at first
STOP_CALLS = 4
"""The agent is asked to end, the other container is stopped, and both are removed."""


@dataclass
class Halt:
    """The call at which the controller dies, and whether the engine still carries it out."""

    at: int
    is_carried_out: bool
    calls: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, call: Any) -> Any:
        self.calls += 1
        if self.calls < self.at:
            return await call
        if self.is_carried_out and self.calls == self.at:
            await call
        else:
            call.close()
        self.reached.set()
        return await asyncio.Event().wait()


class HaltingEngine(AiodockerEngine):
    """An engine whose calls that change something are counted, up to the one at which the controller dies."""

    def __init__(self, url: str, halt: Halt) -> None:
        super().__init__(url, os.environ)
        for name in CHANGES:
            setattr(self, name, self._counted(getattr(self, name), halt))

    @staticmethod
    def _counted(method: Any, halt: Halt) -> Any:
        return lambda *given: halt.run(method(*given))


def dying(platform: Installation, halt: Halt) -> DockerBackend:
    return platform.backend(lambda: HaltingEngine(platform.engine.url, halt))


async def killed(backend: Backend, halt: Halt) -> None:
    async with asyncio.timeout(60):
        await halt.reached.wait()
    await backend.aclose(0)


@pytest.mark.parametrize("is_carried_out", [False, True])
@pytest.mark.parametrize("at", range(1, START_CALLS + 1))
async def test_the_next_controller_completes_a_start_from_any_step(
    platform: Installation, at: int, is_carried_out: bool
) -> None:
    halt = Halt(at, is_carried_out)
    first = dying(platform, halt)
    await first.start(SPEC)
    await killed(first, halt)
    second = platform.backend()
    found = await all_of(second)
    assert set(found) == (set() if (at, is_carried_out) == (1, False) else {"w1"})
    await second.start(SPEC)
    assert (await in_phase(second, "w1", Phase.RUNNING, 60)).run == 1
    assert len(await platform.left()) == 2
    await second.stop("w1", 10)
    assert await platform.left() == []
    await second.aclose(0)


@pytest.mark.parametrize("is_carried_out", [False, True])
@pytest.mark.parametrize("at", range(1, STOP_CALLS + 1))
async def test_the_next_controller_completes_an_end_from_any_step(
    platform: Installation, at: int, is_carried_out: bool
) -> None:
    halt = Halt(START_CALLS + at, is_carried_out)
    first = dying(platform, halt)
    await first.start(SPEC)
    await in_phase(first, "w1", Phase.RUNNING, 60)
    stopping = asyncio.create_task(first.stop("w1", 10))
    await killed(first, halt)
    await asyncio.gather(stopping, return_exceptions=True)
    second = platform.backend()
    await all_of(second)
    await second.stop("w1", 10)
    assert await all_of(second) == {}
    assert await platform.left() == []
    await second.aclose(0)
