"""A controller of containers that is killed, deposed or late at its calls to the engine."""

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from queue_engine.backends.base import Backend, Phase
from queue_engine.backends.docker.backend import DockerBackend
from queue_engine.backends.docker.engine import AiodockerEngine, Document, EngineError, EngineUnavailable
from tests.clusters.installation import Installation, spec_for
from tests.integration.backend_contract import FOREVER, all_of, ended, in_phase, observed
from tests.waiting import wait_until_async

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


async def test_the_output_of_a_container_that_is_not_started_yet_has_not_ended(platform: Installation) -> None:
    halt = Halt(START_CALLS, is_carried_out=False)
    first = dying(platform, halt)
    await first.start(SPEC)
    await killed(first, halt)
    second = platform.backend()
    await in_phase(second, "w1", Phase.STARTING)
    async with asyncio.timeout(60), aclosing(second.follow("w1", 1, 0)) as entries:
        with pytest.raises(EngineError, match="has ended the stream"):
            await anext(entries)
    await second.kill("w1")
    await second.aclose(0)


@dataclass
class Creation:
    """The creation of the second container, until a test lets it go on."""

    is_refused: bool
    """True if the engine refuses it; False if it has an effect after its call has failed by its timeout."""
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    late: asyncio.Task[str] | None = None


class SlowEngine(AiodockerEngine):
    """An engine that does not create the endpoint's containers at once."""

    def __init__(self, url: str, creation: Creation) -> None:
        super().__init__(url, os.environ)
        self._creation = creation

    async def create(self, name: str, config: Document) -> str:
        if not name.endswith("-main"):
            return await super().create(name, config)
        if self._creation.is_refused:
            await self._creation.may_go.wait()
            raise EngineError(500, "the disk is full")
        self._creation.late = self._creation.late or asyncio.create_task(self._create_late(name, config))
        raise EngineUnavailable("timeout")

    async def _create_late(self, name: str, config: Document) -> str:
        await self._creation.may_go.wait()
        return await super().create(name, config)


async def test_a_start_that_fails_in_a_deposed_controller_takes_nothing_from_the_next_one(
    platform: Installation,
) -> None:
    creation = Creation(is_refused=True)
    first = platform.backend(lambda: SlowEngine(platform.engine.url, creation))
    await first.start(SPEC)

    async def has_agent() -> bool:
        return len(await platform.left()) == 1

    await wait_until_async(has_agent)
    second = platform.backend()
    await in_phase(second, "w1", Phase.STARTING)
    await second.start(SPEC)
    await in_phase(second, "w1", Phase.RUNNING, 60)
    creation.may_go.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "make-w1"], timeout=60)
    assert "the disk is full" in str((await ended(first, "w1")).reason)
    assert len(await platform.left()) == 2
    assert (await observed(second, "w1")).phase is Phase.RUNNING
    await first.aclose(0)
    await second.kill("w1")
    await second.aclose(0)


async def test_a_container_that_appears_after_its_creation_timed_out_is_an_interrupted_start(
    platform: Installation,
) -> None:
    creation = Creation(is_refused=False)
    backend = platform.backend(lambda: SlowEngine(platform.engine.url, creation))
    await backend.start(SPEC)
    await ended(backend, "w1")
    creation.may_go.set()
    assert creation.late is not None
    await creation.late
    await backend.aclose(0)
    after = platform.backend()
    assert (await in_phase(after, "w1", Phase.STARTING)).is_interrupted
    await after.start(SPEC)
    assert not (await in_phase(after, "w1", Phase.RUNNING, 60)).is_interrupted
    await after.kill("w1")
    await after.aclose(0)
