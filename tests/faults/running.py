"""Runs scenarios: an engine for each flavour, a directory for each scenario, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.engine import ROOT, Engine
from tests.faults.proxy import Network
from tests.faults.scenarios import Scenario
from tests.faults.stage import Outcome, Stage
from tests.servers import StoreServer, redis_binary, valkey_binary

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
FLAVOURS = ("standard", "redis", "limited", "volatile")
"""Kinds of stores: Valkey that writes to disk at once; Debian's Redis that does; one whose disk can be full; one that
forgets everything when it ends."""


class NotHere(Exception):
    """This machine lacks what a flavour needs; the message says what."""


def store_of(flavour: str, directory: Path) -> StoreServer:
    """A server that is not started yet. Raises NotHere."""
    if flavour == "redis":
        binary = redis_binary()
        if binary is None:
            raise NotHere("no redis-server 7.0 or newer: apt-get install redis-server")
        return StoreServer(binary, directory, options=DURABLE)
    if flavour == "limited":
        # At its limit a write fails and the server goes on, as on a full disk. With `always` it would end instead.
        return StoreServer(_ignoring_limits(directory), directory, options=("--appendonly", "yes"))
    return StoreServer(valkey_binary(), directory, options=() if flavour == "volatile" else DURABLE)


def _ignoring_limits(directory: Path) -> Path:
    """The server in a shell that ignores SIGXFSZ: a file that may not grow is an error of its write, not a signal."""
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / "server.sh"
    script.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shlex.quote(str(valkey_binary()))} \"$@\"\n")
    script.chmod(0o755)
    return script


class ProcessesLeft(Exception):
    """Processes did not end in order, or were left by others; they have been killed."""


@contextmanager
def running_engine(flavour: str, directory: Path, *, code: Path = ROOT) -> Iterator[Engine]:
    """An engine on a store of this flavour, up and ready."""
    with store_of(flavour, directory / "store") as store, Network() as network:
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


def end_like_ctrl_c() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: with every process that was started."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))


def rng_for(name: str, seed: int) -> random.Random:
    """Where all random choices of a scenario come from: others do not change them, whether they run or not."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
