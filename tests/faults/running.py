"""Runs scenarios: an engine for each flavour, a directory for each scenario, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.engine import ROOT, Engine
from tests.faults.proxy import Network
from tests.faults.scenarios import Scenario
from tests.faults.stage import Outcome, Stage
from tests.servers import StoreServer, valkey_binary

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class ProcessesLeft(Exception):
    """Processes did not end in order, or were left by others; they have been killed."""


@contextmanager
def running_engine(flavour: str, directory: Path, *, code: Path = ROOT) -> Iterator[Engine]:
    """An engine on a store of this flavour, up and ready."""
    with StoreServer(valkey_binary(), directory / "store", options=DURABLE) as store, Network() as network:
        engine = Engine(store, directory, network, code=code)
        try:
            engine.start()
            yield engine
        finally:
            engine.heal_for_the_end()
            if faults := engine.stop():
                raise ProcessesLeft("; ".join(faults))


async def run_scenario(scenario: Scenario, engine: Engine, directory: Path, seed: int) -> Outcome:
    """Play one scenario and check. Its choices depend on the seed and its name only."""
    directory.mkdir(parents=True)
    began = time.monotonic()
    stage = Stage(engine, directory, rng_for(scenario.name, seed), rest_seconds=scenario.rest_seconds)
    try:
        await stage.prepare(
            workers=scenario.workers,
            worker_environment=dict(scenario.worker_environment),
            **dict(scenario.endpoint),
        )
        await scenario.play(stage)
        return await stage.finish(scenario.name, scenario.goal_seconds, began)
    finally:
        await stage.close()


def run_all(
    scenarios: Sequence[Scenario], directory: Path, seed: int, report: Callable[[Scenario], None], *, code: Path = ROOT
) -> Iterator[Outcome]:
    """Play these scenarios; those of one flavour one after the other on one engine, as long as none fails."""
    waiting = list(scenarios)
    while waiting:
        flavour = waiting[0].flavour
        group = [one for one in waiting if one.flavour == flavour]
        engine_directory = directory / f"engine-{flavour}-{len(waiting)}"
        engine_directory.mkdir(parents=True)
        with running_engine(flavour, engine_directory, code=code) as engine:
            for scenario in group:
                report(scenario)
                waiting.remove(scenario)
                place = engine_directory / scenario.name.replace(" ", "-")
                outcome = asyncio.run(run_scenario(scenario, engine, place, seed))
                yield outcome
                if not outcome.passed:
                    break


def rng_for(name: str, seed: int) -> random.Random:
    """Where all random choices of a scenario come from: others do not change them, whether they run or not."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
