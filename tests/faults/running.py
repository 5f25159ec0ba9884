"""Runs scenarios: an engine for each flavour, a directory for each scenario, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from glob import glob
from pathlib import Path

import httpx
from redis.exceptions import RedisError

from tests.clusters.engine import IMAGE, ContainerEngine, missing, shell_image
from tests.faults.checker import Verdict
from tests.faults.container_hosting import CONTAINERS, ContainerHosting
from tests.faults.disks import fillable_server, script
from tests.faults.engine import CLOCK_FILE, ROOT, Engine, Group, set_clock
from tests.faults.groups import cluster_group, sentinel_group
from tests.faults.proxy import Network
from tests.faults.recovery import Recoveries
from tests.faults.scenarios import Scenario
from tests.faults.stage import Outcome, Stage
from tests.servers import StoreServer, StoreServerError, redis_binary, valkey_binary

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
FLAVOURS = ("standard", "redis", "limited", "volatile", "clock", "sentinel", "cluster", CONTAINERS)
"""Kinds of stores: Valkey that writes to disk at once; Debian's Redis that does; one whose disk can be full; one that
forgets everything when it ends; Debian's Redis with a clock that can be moved;
a master with replicas and sentinels; a cluster of three masters with a replica each. The last kind has the first store,
and a container engine."""
FAKE_TIME = "/usr/lib/*/faketime/libfaketime.so.1"


class NotHere(Exception):
    """This machine lacks what a flavour needs; the message says what."""


def store_of(flavour: str, directory: Path) -> AbstractContextManager[StoreServer | Group]:
    """A store for as long as the context. Raises NotHere."""
    if flavour == "sentinel":
        return sentinel_group(directory)
    if flavour == "cluster":
        return cluster_group(directory)
    if flavour == "redis":
        binary = redis_binary()
        if binary is None:
            raise NotHere("no redis-server 7.0 or newer: apt-get install redis-server")
        return StoreServer(binary, directory, options=DURABLE)
    if flavour == "limited":
        return fillable_server(valkey_binary(), directory)
    if flavour == "clock":
        return StoreServer(_with_own_clock(directory), directory, options=DURABLE)
    return StoreServer(valkey_binary(), directory, options=() if flavour == "volatile" else DURABLE)


def _with_own_clock(directory: Path) -> Path:
    """Debian's server, which is linked dynamically, with libfaketime before it. Raises NotHere."""
    binary, library = redis_binary(), next(iter(glob(FAKE_TIME)), None)
    if binary is None or library is None:
        raise NotHere("no redis-server or no libfaketime: apt-get install redis-server faketime")
    set_clock(directory, 0)
    environment = {
        # Its jemalloc would ask for the time before libfaketime is ready: the C library's own allocator comes first.
        "LD_PRELOAD": f"{library}:{_c_library(Path(library))}",
        "FAKETIME_TIMESTAMP_FILE": str(directory / CLOCK_FILE),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    return script(directory, f"{exports}\nexec {shlex.quote(str(binary))}")


def _c_library(beside: Path) -> Path:
    """Of the same architecture."""
    return beside.parents[1] / "libc.so.6"


@contextmanager
def _hosting_of(flavour: str, directory: Path) -> Iterator[ContainerHosting | None]:
    """A container engine, for the flavour that has one. Raises NotHere."""
    if flavour != CONTAINERS:
        yield None
        return
    if (reason := missing()) is not None:
        raise NotHere(reason)
    with ContainerEngine() as engine:
        engine.load(IMAGE, shell_image(directory), ["/bin/sh"], {"PATH": "/bin"})
        if (reason := engine.unable()) is not None:
            raise NotHere(reason)
        yield ContainerHosting(engine, directory)


class ProcessesLeft(Exception):
    """Processes did not end in order, or were left by others; they have been killed."""


@contextmanager
def running_engine(flavour: str, directory: Path, *, code: Path = ROOT) -> Iterator[Engine]:
    """An engine on a store of this flavour, up and ready."""
    with (
        _hosting_of(flavour, directory) as hosting,
        store_of(flavour, directory / "store") as store,
        Network() as network,
    ):
        engine = Engine(store, directory, network, code=code, hosting=hosting)
        try:
            engine.start()
            yield engine
        finally:
            try:
                engine.heal_for_the_end()
            finally:
                faults = engine.stop()
            if faults:
                raise ProcessesLeft("; ".join(faults))


async def run_scenario(scenario: Scenario, engine: Engine, directory: Path, seed: int) -> Outcome:
    """Play one scenario and check. Its choices depend on the seed and its name only."""
    directory.mkdir(parents=True)
    began = time.monotonic()
    stage = Stage(engine, directory, rng_for(scenario.name, seed), rest_seconds=scenario.rest_seconds)
    try:
        await stage.prepare(
            workers=scenario.workers,
            container_links=scenario.container_links,
            over_api=scenario.over_api,
            **dict(scenario.endpoint),
        )
        await play(scenario, stage)
        return await _ended(scenario, stage, began)
    finally:
        await stage.close()


async def _ended(scenario: Scenario, stage: Stage, began: float) -> Outcome:
    """Return the outcome; a failed one without evidence, so that the others are still played."""
    try:
        return await stage.finish(scenario.name, scenario.goal_seconds, began)
    except (AssertionError, OSError, RedisError, httpx.HTTPError, StoreServerError) as error:
        traceback.print_exc()
        sentence = f"nothing is known of the end: {type(error).__name__} {error}"
        verdict = Verdict((*stage.violations, sentence), tasks=0, executions=0, lost=0, duplicated=0)
        seconds = time.monotonic() - began
        return Outcome(
            scenario.name, stage.rate, verdict, Recoveries(), scenario.goal_seconds, seconds, stage.directory,
            notes=tuple(stage.notes), weaker=stage.weaker,
        )  # fmt: skip


async def play(scenario: Scenario, stage: Stage) -> None:
    """Play the scenario; one that raises has failed, and the others are still played.

    Evidence is collected all the same.
    """
    try:
        async with asyncio.timeout(scenario.play_seconds):
            await scenario.play(stage)
    except (AssertionError, TimeoutError, StoreServerError) as error:
        stage.violations.append(f"the scenario was given up: {type(error).__name__} {error}")
    except Exception as error:  # noqa: BLE001 - a fault of the suite must not hide what the other scenarios would find
        stage.violations.append(f"the scenario broke: {type(error).__name__} {error}")
        traceback.print_exc()


def run_all(
    scenarios: Sequence[Scenario],
    directory: Path,
    seed: int,
    announce: Callable[[Scenario], None],
    skip: Callable[[Scenario, str], None],
    *,
    code: Path = ROOT,
) -> Iterator[Outcome]:
    """Play these scenarios; those of one flavour one after the other on one engine, as long as none fails.

    `announce` hears of each before it is played, `skip` of those that cannot be played here, and why.
    """
    waiting = list(scenarios)
    while waiting:
        flavour = waiting[0].flavour
        group = [one for one in waiting if one.flavour == flavour]
        place = directory / f"engine-{flavour}-{len(waiting)}"
        try:
            for outcome in _run_group(group, flavour, place, seed, announce, code):
                waiting = [one for one in waiting if one.name != outcome.name]
                yield outcome
        except NotHere as lack:
            for scenario in group:
                skip(scenario, str(lack))
            waiting = [one for one in waiting if one not in group]


def _run_group(
    group: Sequence[Scenario], flavour: str, place: Path, seed: int, announce: Callable[[Scenario], None], code: Path
) -> Iterator[Outcome]:
    """One after the other on one engine; the first that fails is the last, so that it spoils nothing."""
    place.mkdir(parents=True)
    with running_engine(flavour, place, code=code) as engine:
        for scenario in group:
            announce(scenario)
            outcome = asyncio.run(run_scenario(scenario, engine, place / scenario.name.replace(" ", "-"), seed))
            yield outcome
            if not outcome.passed:
                return


def end_like_ctrl_c() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does, with every process that was started.

    A shell's background job ignores Ctrl-C, and would ignore both.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))


def rng_for(name: str, seed: int) -> random.Random:
    """Where all random choices of a scenario come from: others do not change them, whether they run or not."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
