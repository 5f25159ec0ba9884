"""GPUs of workers that are processes: each card is for one worker, and a worker for which none is free waits."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from queue_engine.backends.base import STOP_MARGIN_SECONDS, BackendError, EndNotConfirmed, Phase, WorkerSpec
from queue_engine.backends.leftovers import Leftovers
from queue_engine.backends.process import ProcessBackend
from queue_engine.backends.worker_users import WorkerUsers
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import GpuMode, Gpus
from queue_engine.domain.user_ids import UserIds
from queue_engine.processes.process_groups import processes_with
from tests.integration.backend_contract import FOREVER, ended
from tests.integration.test_process_backend import INHERITED, ROOT, STUB_AGENT, agent_of, pids_of, spec_for
from tests.recorded_gpus import FOUR_L4
from tests.waiting import wait_until, wait_until_async

TWO_L4 = FOUR_L4[:2]
WITH_CUDA = INHERITED | {"CUDA_VISIBLE_DEVICES": "7"}


def backend_with(
    directory: Path,
    instance_id: str,
    gpus: Gpus,
    inherited: dict[str, str] = INHERITED,
    users: WorkerUsers | None = None,
    leftovers: Leftovers | None = None,
) -> ProcessBackend:
    return ProcessBackend(
        directory / "work",
        instance_id=instance_id,
        environment=inherited,
        agent_command=STUB_AGENT,
        end_margin_seconds=1.0,
        gpus=gpus,
        users=users,
        leftovers=leftovers,
        kill_seconds=0.1 if leftovers else STOP_MARGIN_SECONDS,
    )


def gpu_spec(worker_id: str, count: int = 1, *, command: str = FOREVER, gpu_type: str = "NVIDIA_L4_24G") -> WorkerSpec:
    return replace(spec_for(worker_id, command), resources=(Resource("local", gpu_type, count),))


@pytest.fixture
def instance_id(tmp_path: Path) -> str:
    return f"test-{os.getpid()}-{tmp_path}"


@pytest.fixture
def gpus() -> Gpus:
    return Gpus(TWO_L4)


@pytest.fixture
async def backend(tmp_path: Path, instance_id: str, gpus: Gpus) -> AsyncIterator[ProcessBackend]:
    backend = backend_with(tmp_path, instance_id, gpus, WITH_CUDA)
    yield backend
    await backend.aclose(0)
    assert pids_of(instance_id) == []


async def environments_of(instance_id: str, worker_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """The environments of agent and container, as soon as both run."""
    agent = await agent_of(instance_id, worker_id)

    def container() -> dict[str, str] | None:
        found = processes_with({protocol.INSTANCE: instance_id, protocol.WORKER_ID: worker_id})
        return next((dict(environment) for process, environment in found if process.pid != agent), None)

    return psutil.Process(agent).environ(), await wait_until_async(container) or {}


async def seen(backend: ProcessBackend, worker_id: str) -> tuple[Phase, str | None]:
    observed = (await backend.observe() or {})[worker_id]
    return observed.phase, observed.reason


async def runs(backend: ProcessBackend, worker_id: str) -> bool:
    return (await seen(backend, worker_id))[0] is Phase.RUNNING


async def test_each_container_sees_the_card_of_its_worker_and_the_agent_sees_none(
    backend: ProcessBackend, instance_id: str
) -> None:
    await backend.start(gpu_spec("w1"))
    await backend.start(gpu_spec("w2"))
    for worker_id, card in (("w1", TWO_L4[0]), ("w2", TWO_L4[1])):
        agent, container = await environments_of(instance_id, worker_id)
        assert container["CUDA_VISIBLE_DEVICES"] == str(card.index)
        assert container["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert container[protocol.CARDS] == agent[protocol.CARDS] == card.uuid
        assert "CUDA_VISIBLE_DEVICES" not in agent


async def test_an_endpoint_cannot_choose_another_card(backend: ProcessBackend, instance_id: str) -> None:
    chosen = {"CUDA_VISIBLE_DEVICES": "0,1", protocol.CARDS: ""}
    await backend.start(replace(gpu_spec("w1"), environment=chosen))
    agent, container = await environments_of(instance_id, "w1")
    assert container["CUDA_VISIBLE_DEVICES"] == "0"
    assert container[protocol.CARDS] == TWO_L4[0].uuid
    assert json.loads(agent[protocol.OVERRIDDEN_NAMES]) == list(chosen)


async def test_a_type_without_gpus_takes_and_sees_none(backend: ProcessBackend, instance_id: str) -> None:
    await backend.start(gpu_spec("w1", 9, gpu_type="CPU"))
    _, container = await environments_of(instance_id, "w1")
    assert container["CUDA_VISIBLE_DEVICES"] == ""
    await backend.start(gpu_spec("w2", 2))
    assert await runs(backend, "w2")


async def test_a_worker_waits_for_cards_and_is_begun_by_the_end_of_another(
    backend: ProcessBackend, instance_id: str, tmp_path: Path
) -> None:
    await backend.start(gpu_spec("w1", command=f"while [ ! -e {tmp_path}/end ]; do sleep 0.02; done; exit 3"))
    await asyncio.gather(backend.start(gpu_spec("w2", 2)), backend.start(gpu_spec("w2", 2)))
    assert await seen(backend, "w2") == (Phase.WAITING, "waits for 2 × NVIDIA L4: 1 of 2 free")
    assert pids_of(instance_id, "w2") == []
    (tmp_path / "end").touch()
    await ended(backend, "w1")
    await wait_until_async(lambda: runs(backend, "w2"), message="the end of another worker does not begin it")
    _, container = await environments_of(instance_id, "w2")
    assert container["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_worker_that_waits_can_be_stopped_and_is_not_begun(backend: ProcessBackend, way: str) -> None:
    await backend.start(gpu_spec("w1", 2))
    await backend.start(gpu_spec("w2"))
    await (backend.stop("w2", 10) if way == "stop" else backend.kill("w2"))
    await backend.kill("w1")
    assert await backend.observe() == {}


async def test_closing_begins_no_worker_that_waits(backend: ProcessBackend, instance_id: str) -> None:
    await backend.start(gpu_spec("w1", 2))
    await backend.start(gpu_spec("w2"))
    await backend.aclose(0)
    assert await backend.observe() == {}
    assert pids_of(instance_id) == []


async def test_more_cards_than_the_host_has_are_refused(backend: ProcessBackend) -> None:
    with pytest.raises(BackendError, match="gpuCount is 3, but this host has 2 × NVIDIA L4"):
        await backend.start(gpu_spec("w1", 3))
    assert await backend.observe() == {}


async def test_a_start_that_fails_after_the_wait_is_an_end_with_its_reason(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    await backend.start(gpu_spec("w1", 2))
    await backend.start(replace(gpu_spec("w2"), environment={"BIG": "x" * 3_000_000}))
    await backend.start(gpu_spec("w3"))
    await backend.kill("w1")
    assert (await ended(backend, "w2")).reason == f"the worker cannot be started: {_too_long()}"
    await wait_until_async(lambda: runs(backend, "w3"))
    await backend.start(replace(gpu_spec("w2"), run=2))
    assert await runs(backend, "w2")


class Stuck:
    """A process of a worker that does not end until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def end(self, marks: Mapping[str, str]) -> None:
        await self.let_go.wait()


async def test_a_card_is_held_until_the_last_process_of_its_worker_has_ended(
    tmp_path: Path, instance_id: str, gpus: Gpus
) -> None:
    stuck = Stuck()
    backend = backend_with(tmp_path, instance_id, gpus, leftovers=stuck)
    await backend.start(gpu_spec("w1", 2))
    await backend.start(gpu_spec("w2"))
    with pytest.raises(EndNotConfirmed):
        await backend.kill("w1")
    assert set(await backend.observe() or {}) == {"w1", "w2"}
    assert (await seen(backend, "w2"))[0] is Phase.WAITING
    stuck.let_go.set()
    await wait_until_async(lambda: runs(backend, "w2"))
    await backend.aclose(0)


class Tenants:
    """The tenants of a store, as the users of containers depend on them."""

    one = True
    error: Exception | None = None

    async def are_one(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.one


class TestUserOfAWorkerThatHasWaited:
    @pytest.fixture
    def tenants(self) -> Tenants:
        return Tenants()

    @pytest.fixture
    async def backend(
        self, tmp_path: Path, instance_id: str, gpus: Gpus, tenants: Tenants
    ) -> AsyncIterator[ProcessBackend]:
        """A backend with a worker that holds all cards, and another one that waits."""
        users = WorkerUsers(UserIds(1_950_000_040, 1_950_000_041), tenants.are_one)
        backend = backend_with(tmp_path, instance_id, gpus, users=users)
        await backend.start(gpu_spec("w1", 2))
        await backend.start(gpu_spec("w2"))
        yield backend
        await backend.aclose(0)
        assert pids_of(instance_id) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a home for another user")
    async def test_is_that_of_the_time_of_its_start(
        self, backend: ProcessBackend, tenants: Tenants, instance_id: str
    ) -> None:
        tenants.one = False
        await backend.kill("w1")
        agent = await agent_of(instance_id, "w2")
        assert psutil.Process(agent).environ()[protocol.CONTAINER_USER].startswith("19500000")

    async def test_is_a_reason_of_its_end_while_the_tenants_are_not_known(
        self, backend: ProcessBackend, tenants: Tenants
    ) -> None:
        tenants.error = ConnectionError("the store is away")
        await backend.kill("w1")
        reason = (await ended(backend, "w2")).reason
        assert reason == "the worker cannot be started: the number of tenants could not be read"
        tenants.error = None
        await backend.start(gpu_spec("w3", 2))
        assert await runs(backend, "w3"), "its cards are still held"


def _too_long() -> str:
    return f"{sys.executable}: Argument list too long"


@pytest.mark.parametrize("gpus", [Gpus(), Gpus(mode=GpuMode.SHARED)], ids=["no GPU", "shared"])
async def test_without_assigned_gpus_the_environment_stays_as_it_was(
    backend: ProcessBackend, instance_id: str, gpus: Gpus
) -> None:
    await backend.start(gpu_spec("w1", 2))
    agent, container = await environments_of(instance_id, "w1")
    assert container["CUDA_VISIBLE_DEVICES"] == "7"
    assert "CUDA_DEVICE_ORDER" not in container
    notes = json.loads(agent.get(protocol.LOG_NOTES, "[]"))
    words = "this host has no GPU: the worker runs without the 2 × NVIDIA_L4_24G of its endpoint"
    assert notes == ([] if gpus.mode is GpuMode.SHARED else [words])


CONTROLLER = """
import asyncio, sys
from pathlib import Path
from queue_engine.domain.gpus import Gpus
from tests.integration.test_process_gpus import TWO_L4, backend_with, gpu_spec
from dataclasses import replace

async def main(directory, instance_id):
    backend = backend_with(Path(directory), instance_id, Gpus(TWO_L4))
    spec = gpu_spec("old", command=f"touch {directory}/up; exec sleep 600")
    await backend.start(replace(spec, agent_environment={"STUB_DRAIN": "never"}))
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class TestAnotherController:
    @pytest.fixture
    def controller(self, tmp_path: Path, instance_id: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another controller, with a worker that holds the first card and does not end with it."""
        process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, str(tmp_path), instance_id], env=INHERITED, cwd=ROOT
        )
        wait_until((tmp_path / "up").exists)
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("dies", [True, False], ids=["killed", "alive"])
    async def test_a_card_of_its_worker_is_handed_out_after_the_end_of_the_worker(
        self, backend: ProcessBackend, controller: subprocess.Popen[bytes], instance_id: str, dies: bool
    ) -> None:
        old = await agent_of(instance_id, "old")
        if dies:
            controller.kill()
            controller.wait()
        await backend.start(gpu_spec("w1", 2))
        assert await seen(backend, "w1") == (Phase.WAITING, "waits for 2 × NVIDIA L4: 1 of 2 free")
        await backend.start(gpu_spec("w2"))
        _, container = await environments_of(instance_id, "w2")
        assert container["CUDA_VISIBLE_DEVICES"] == "1"
        await backend.kill("w2")
        assert (await seen(backend, "w1"))[0] is Phase.WAITING
        for pid in pids_of(instance_id, "old"):
            if pid != old:
                os.kill(pid, signal.SIGKILL)
        os.kill(old, signal.SIGKILL)
        await wait_until_async(lambda: runs(backend, "w1"), message="the end of the other worker is not noticed")

    async def test_a_container_that_has_lost_agent_and_controller_is_ended_before_its_card_is_handed_out(
        self, backend: ProcessBackend, controller: subprocess.Popen[bytes], instance_id: str
    ) -> None:
        old = await agent_of(instance_id, "old")
        controller.kill()
        os.kill(old, signal.SIGKILL)
        controller.wait()
        await backend.start(gpu_spec("w1", 2))
        assert pids_of(instance_id, "old") == []
        assert await runs(backend, "w1")
