"""Workers whose containers' output the leading controller follows: what their owner sees of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from queue_engine.backends.base import Observed, WorkerSpec
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from queue_engine.controller.log_follower import LAST_LINES, Followed
from queue_engine.controller.log_followers import LogFollowers, secrets_reader
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import Worker
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, new_endpoint
from tests.integration.test_log_followers import CONTAINER, SECRET, check_is_complete, has_lines, log_of
from tests.integration.test_outliving_workers import all_run, controller_on
from tests.recorded_output import RecordedOutput
from tests.scripted_backend import ScriptedBackend
from tests.waiting import wait_until_async


@dataclass
class Platform(ScriptedBackend):
    """A backend whose containers are real processes with recorded output, and whose agents are only scripted."""

    directory: Path = Path()
    source: str = ""
    containers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    outlives_controller: bool = True

    def __post_init__(self) -> None:
        self.before_removal: BeforeRemoval = nothing_before_removal
        self.output = RecordedOutput(self.directory, {"TOKEN": SECRET})

    async def start(self, spec: WorkerSpec) -> None:
        await super().start(spec)
        command = [sys.executable, "-c", self.source, str(self.directory / "stop")]
        self.containers[spec.worker_id] = self.output.start(spec.worker_id, spec.run, command)

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        (self.directory / "stop").touch()
        self.containers[worker_id].wait()
        await self.before_removal(worker_id, self._run_of(worker_id))
        await super().stop(worker_id, grace_seconds)

    async def observe(self) -> Mapping[str, Observed] | None:
        found = await super().observe()
        return None if found is None else {one: replace(seen, container_id=one) for one, seen in found.items()}

    def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        return self.output.follow(worker_id, run, since_ns)

    async def environment(self, worker_id: str, run: int) -> Mapping[str, str]:
        return await self.output.environment(worker_id, run)

    def _run_of(self, worker_id: str) -> int:
        return self.running[worker_id].run if worker_id in self.running else self.ended[worker_id].run


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(directory=tmp_path)
    yield made
    (tmp_path / "stop").touch()
    for container in made.containers.values():
        container.wait()


def followers(store: Store, platform: Platform) -> Callable[[], LogFollowers]:
    secrets_of = secrets_reader(platform, store.endpoints)
    return lambda: LogFollowers(platform, store.logs, secrets_of, retention_seconds=3600, end_seconds=60)


async def test_the_error_of_a_worker_that_ended_has_the_last_lines_of_its_container(
    store: Store, platform: Platform
) -> None:
    platform.source = "for number in range(30): print('line', number, flush=True)"
    endpoint_id = await new_endpoint(store, workers=1)
    async with controller_on(store, platform, "first", make_output=followers(store, platform)):
        [worker_id] = await all_run(platform, 1)
        platform.end(worker_id, "container exited with status 3")

        async def failed() -> Worker | None:
            [worker] = await store.workers.of_endpoint(endpoint_id)
            return worker if worker.error else None

        worker = await wait_until_async(failed)
        assert worker is not None
        last = [f"line {number}" for number in range(30 - LAST_LINES, 30)]
        assert worker.error == "\n".join(["container exited with status 3", *last])
        first_run = [*(f"line {number}" for number in range(30)), "container exited with status 3"]
        assert (await log_of(store, Followed(endpoint_id, worker_id, 1)))[:31] == first_run


async def test_the_next_leader_continues_the_log_and_stops_the_worker_after_its_last_line(
    store: Store, platform: Platform
) -> None:
    platform.source = CONTAINER
    endpoint_id = await new_endpoint(store, workers=1)
    make_output = followers(store, platform)
    async with controller_on(store, platform, "first", make_output=make_output):
        [worker_id] = await all_run(platform, 1)
        followed = Followed(endpoint_id, worker_id, 1)
        await wait_until_async(has_lines(store, followed, 0))
    before = len(await log_of(store, followed))
    async with controller_on(store, platform, "second", make_output=make_output):
        await wait_until_async(has_lines(store, followed, before))
        await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.STOPPED)
        await wait_until_async(lambda: not platform.running)
    check_is_complete(await log_of(store, followed))
    assert platform.output.connections == 0
