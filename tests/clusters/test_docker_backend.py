"""The Docker backend on a real container engine."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from queue_engine.backends.base import Backend, BackendError, Phase, RegistryCredential, WorkerSpec
from queue_engine.backends.docker.backend import DockerBackend, DockerOptions
from queue_engine.backends.docker.engine import AiodockerEngine, EngineError, EngineUnavailable
from queue_engine.backends.docker.names import Part
from queue_engine.backends.docker.network import gateway_of, make_network, remove_network
from queue_engine.backends.docker.pull import PullPolicy
from queue_engine.backends.docker.specs import Hosting
from queue_engine.backends.docker.worker import INTERRUPTED
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import Card, GpuMode, Gpus
from tests.clusters.cases import RecordCase
from tests.clusters.engine import IMAGE
from tests.clusters.image_registry import PASSWORD, USERNAME, ImageRegistry
from tests.clusters.installation import Installation, of_registry, spec_for
from tests.integration.backend_contract import (
    FOREVER,
    MakeSpec,
    OutlivesController,
    all_of,
    ended,
    in_phase,
    observed,
)
from tests.waiting import wait_until_async

CARD = Card(0, "GPU-5e1f0000-0000-0000-0000-000000000000", "NVIDIA L4", 23034)
STARTED_AGAIN = "started again after the backoff"
FINAL = "FAILED; tried again once a minute"
ON_CARD = Resource("local", "NVIDIA_L4_24G", 1)


@pytest.fixture
def make_spec() -> MakeSpec:
    return spec_for


@pytest.fixture
async def backend(platform: Installation) -> AsyncIterator[DockerBackend]:
    made = platform.backend()
    yield made
    await made.aclose(0)


class TestDockerBackend(OutlivesController):
    LIMIT_SECONDS = 60
    LAST_LINES = ()


# Reasons in words


async def failed(backend: Backend, spec: WorkerSpec) -> str:
    """The reason of a start that fails and leaves nothing."""
    await backend.start(spec)
    return str((await ended(backend, spec.worker_id)).reason)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 0", "container exited with status 0"),
        ("nosuch", "container exited with status 127 (command not found)"),
        ("exit 139", "container killed by signal 11 (SIGSEGV)"),
        ('["nosuch"]', "the container cannot be started, because its command is not found: "),
    ],
)
async def test_the_end_of_a_container_is_explained(
    backend: DockerBackend, command: str, reason: str, record_case: RecordCase
) -> None:
    seen = await failed(backend, spec_for("w1", command))
    assert seen.startswith(reason)
    record_case(f"command: {command}", seen=seen, recovery=STARTED_AGAIN)


async def test_a_start_that_fails_stays_with_its_reason_until_nothing_is_left_of_it(
    backend: DockerBackend, platform: Installation
) -> None:
    await failed(backend, spec_for("w1", '["nosuch"]'))
    assert list(await all_of(backend)) == ["w1"]
    await backend.stop("w1", 0)
    assert await all_of(backend) == {}
    assert await platform.left() == []


async def test_the_end_of_an_agent_is_explained_also_while_the_container_is_made(backend: DockerBackend) -> None:
    assert await failed(backend, spec_for("w1", FOREVER, STUB_EXIT="2")) == "agent exited with status 2"


async def test_a_missing_image_is_final_until_something_changes(
    backend: DockerBackend, record_case: RecordCase
) -> None:
    await backend.start(replace(spec_for("w1", FOREVER), image="localhost/queue-engine-test/none:1"))
    seen = await ended(backend, "w1")
    assert (seen.reason, seen.retry_helps) == (
        "the image localhost/queue-engine-test/none:1 is not on this host",
        False,
    )
    record_case("image missing", seen=str(seen.reason), recovery=FINAL)


async def test_a_missing_agent_image_is_explained_with_its_setting(
    platform: Installation, record_case: RecordCase
) -> None:
    options = DockerOptions(Hosting(platform.instance), "queue-engine/none:1", agent_pull=PullPolicy.NEVER)
    backend = DockerBackend(lambda: AiodockerEngine(platform.engine.url, os.environ), options, Gpus())
    reason = await failed(backend, spec_for("w1", FOREVER))
    assert "docker.io/queue-engine/none:1 is not on this host" in reason
    assert "make images" in reason
    assert "QUEUE_ENGINE_AGENT_IMAGE" in reason
    await backend.aclose(0)
    record_case("agent's image missing", seen=reason, recovery=FINAL)


async def test_an_image_is_pulled_with_the_credential_of_its_endpoint(
    backend: DockerBackend, platform: Installation, registry: ImageRegistry, record_case: RecordCase
) -> None:
    spec = replace(spec_for("w1", FOREVER), image=registry.name)
    assert "the registry refuses access without a credential" in await failed(backend, spec)
    wrong = RegistryCredential(USERNAME, "wrong")
    wrong_spec = replace(spec, worker_id="w2", registry_credential=wrong)
    refused = await failed(backend, wrong_spec)
    assert "the registry refuses the credential" in refused
    record_case("registry refuses", seen=refused, recovery=FINAL)
    right = RegistryCredential(USERNAME, PASSWORD)
    absent_spec = replace(spec, worker_id="w3", registry_credential=right, image=registry.name.replace(":1", ":2"))
    assert "the image does not exist" in await failed(backend, absent_spec)
    await backend.start(replace(spec, worker_id="w4", registry_credential=right))
    await in_phase(backend, "w4", Phase.RUNNING, 60)
    # The image is on the host now, but only for those that the registry lets pull it.
    assert "the registry refuses access" in await failed(backend, replace(spec, worker_id="w5"))
    await asyncio.gather(*(backend.kill(worker_id) for worker_id in ("w1", "w2", "w3", "w4", "w5")))
    platform.engine.run("rmi", "--force", registry.name, check=False)


async def test_a_container_that_needs_too_much_memory_is_explained(
    platform: Installation, record_case: RecordCase
) -> None:
    platform.limits = True
    backend = platform.backend()
    spec = replace(spec_for("w1", "exec tail /dev/zero"), card_ram_gb=1)
    reason = await failed(backend, spec)
    assert "out of memory" in reason
    await backend.kill("w1")
    await backend.aclose(0)
    record_case("out of memory", seen=reason, recovery=STARTED_AGAIN)


async def test_a_gpu_that_the_engine_drops_fails_the_start_and_is_free_again(
    platform: Installation, record_case: RecordCase
) -> None:
    """With podman, and with Docker on a host without GPUs."""
    platform.gpus = Gpus((CARD,), GpuMode.AUTO)
    backend = platform.backend()
    spec = replace(spec_for("w1", FOREVER), resources=(ON_CARD,))
    for worker_id in ("w1", "w2"):
        reason = await failed(backend, replace(spec, worker_id=worker_id))
        assert "GPU" in reason or "device" in reason
        await backend.kill(worker_id)
    await backend.aclose(0)
    record_case("device missing", seen=reason, recovery=FINAL)


async def test_a_gpu_is_refused_where_the_engines_gpus_are_not_known(platform: Installation) -> None:
    platform.gpus = Gpus(problem="the GPUs of the container engine's host cannot be listed from the controller")
    backend = platform.backend()
    with pytest.raises(BackendError, match="QUEUE_ENGINE_GPUS must be none or shared"):
        await backend.start(replace(spec_for("w1", FOREVER), resources=(ON_CARD,)))
    await backend.start(spec_for("w2", FOREVER))
    await in_phase(backend, "w2", Phase.RUNNING)
    await backend.kill("w2")
    assert await all_of(backend) == {}
    await backend.aclose(0)


async def test_a_worker_waits_for_the_gpu_of_another_also_after_a_change_of_controllers(
    platform: Installation, registry: ImageRegistry, record_case: RecordCase
) -> None:
    platform.gpus = Gpus((CARD,), GpuMode.AUTO)
    first = platform.backend()
    # While its image is pulled it holds its card, and the engine, which may have none, was not asked for it.
    registry.layer_may_go.clear()
    await first.start(replace(of_registry(spec_for("w1", FOREVER), registry), resources=(ON_CARD,)))
    await asyncio.to_thread(registry.layer_was_asked.wait, 60)
    await first.aclose(0)
    second = platform.backend()
    await second.start(replace(spec_for("w2", FOREVER), resources=(ON_CARD,)))
    waiting = await observed(second, "w2")
    assert (waiting.phase, waiting.reason) == (Phase.WAITING, "waits for 1 × NVIDIA L4: 0 of 1 free")
    await second.kill("w1")

    async def goes_on() -> bool:
        return (await observed(second, "w2")).phase is not Phase.WAITING

    await wait_until_async(goes_on)
    await second.kill("w2")
    await second.aclose(0)
    record_case("no GPU free", seen=str(waiting.reason), recovery="goes on when the other worker ends")


async def test_tenants_take_turns_for_a_gpu(platform: Installation, registry: ImageRegistry) -> None:
    platform.gpus = Gpus((CARD,), GpuMode.AUTO)
    backend = platform.backend()
    registry.layer_may_go.clear()  # so that each worker keeps its card while its image is pulled
    for worker_id, tenant, endpoint_id in (("a1", "a", "7"), ("a2", "a", "7"), ("a3", "a", "7"), ("b1", "b", "8")):
        spec = replace(of_registry(spec_for(worker_id, FOREVER), registry), resources=(ON_CARD,))
        await backend.start(replace(spec, tenant=tenant, endpoint_id=endpoint_id))

    async def with_card() -> list[str]:
        return [one for one, seen in (await all_of(backend)).items() if seen.phase is not Phase.WAITING]

    for first, second in (("a1", "a2"), ("a2", "b1"), ("b1", "a3")):
        assert await with_card() == [first]
        await backend.kill(first)

        async def is_next(worker_id: str = second) -> bool:
            return await with_card() == [worker_id]

        await wait_until_async(is_next)
    await backend.kill("a3")
    await backend.aclose(0)


# Changes by others


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Part.MAIN, "the container was removed by somebody else"),
        (Part.AGENT, "removed by somebody else"),
    ],
)
async def test_a_container_removed_by_somebody_else_is_an_end_with_a_reason(
    backend: DockerBackend, platform: Installation, part: Part, reason: str, record_case: RecordCase
) -> None:
    await backend.start(spec_for("w1", FOREVER))
    await in_phase(backend, "w1", Phase.RUNNING)
    if part is Part.AGENT:  # the owner of the network can only be removed after the other one
        platform.engine.remove(platform.id_of("w1", Part.MAIN))
    platform.engine.remove(platform.id_of("w1", part))
    seen = await ended(backend, "w1")
    assert reason in str(seen.reason)
    assert seen.retry_helps
    await backend.kill("w1")
    assert await platform.left() == []
    record_case(f"{part} removed by somebody else", seen=str(seen.reason), recovery=STARTED_AGAIN)


async def test_workers_go_on_while_the_engine_restarts(
    backend: DockerBackend, platform: Installation, record_case: RecordCase
) -> None:
    if platform.engine.given:
        pytest.skip("an engine that was given is not restarted")
    await backend.start(spec_for("w1", FOREVER))
    before = await in_phase(backend, "w1", Phase.RUNNING)
    platform.engine.stop()
    unknown = await in_phase(backend, "w1", Phase.UNKNOWN)
    assert unknown.reason == "the container engine does not respond"
    with pytest.raises(EngineUnavailable):
        await backend.kill("w1")
    assert str(backend.problem).startswith("the container engine cannot be reached: ")
    platform.engine.start()
    assert await in_phase(backend, "w1", Phase.RUNNING) == before
    assert backend.problem is None
    await backend.stop("w1", 10)
    assert await platform.left() == []
    record_case("engine killed and started", seen=unknown.reason, recovery="the same containers run on")


async def test_a_start_cut_off_by_the_end_of_its_controller_is_completed_by_the_next_one(
    platform: Installation, registry: ImageRegistry, record_case: RecordCase
) -> None:
    registry.layer_may_go.clear()
    spec = of_registry(spec_for("w1", FOREVER), registry)
    first = platform.backend()
    await first.start(spec)
    await asyncio.to_thread(registry.layer_was_asked.wait, 60)
    seen = await observed(first, "w1")
    assert seen.phase is Phase.STARTING
    assert "pulling" in str(seen.reason)
    agent = platform.id_of("w1", Part.AGENT)
    await first.aclose(0)
    registry.layer_may_go.set()
    second = platform.backend()
    assert (await in_phase(second, "w1", Phase.STARTING)).reason == INTERRUPTED
    await second.start(replace(spec, agent_environment={}))
    await in_phase(second, "w1", Phase.RUNNING, 60)
    assert platform.id_of("w1", Part.AGENT) == agent
    await second.stop("w1", 10)
    assert await platform.left() == []
    await second.aclose(0)
    platform.engine.run("rmi", "--force", registry.name, check=False)
    record_case("controller ends during a pull", seen=INTERRUPTED, recovery="the next one completes the start")


async def test_an_installation_does_not_see_the_workers_of_another(
    backend: DockerBackend, platform: Installation
) -> None:
    await backend.start(spec_for("w1", FOREVER))
    await in_phase(backend, "w1", Phase.RUNNING)
    other = Installation(platform.engine, uuid.uuid4().hex)
    others = other.backend()
    assert await all_of(others) == {}
    await others.kill("w1")
    await others.aclose(0)
    assert await platform.containers("w1") == 1


async def test_a_worker_of_another_installation_with_the_same_id_is_left_alone(
    backend: DockerBackend, platform: Installation
) -> None:
    """As of a copied store whose installation was renewed."""
    await backend.start(spec_for("w1", FOREVER))
    await in_phase(backend, "w1", Phase.RUNNING)
    before = await platform.left()
    other = Installation(platform.engine, uuid.uuid4().hex)
    others = other.backend()
    assert "in use" in await failed(others, spec_for("w1", FOREVER))
    await others.start(spec_for("w1", FOREVER, run=2))
    await in_phase(others, "w1", Phase.RUNNING)
    assert len(await other.left()) == 2
    await others.stop("w1", 0)
    await others.aclose(0)
    assert (await other.left(), await platform.left()) == ([], before)
    assert await platform.containers("w1") == 1


# Containers


async def test_the_container_shares_the_agents_network_and_nothing_else(
    backend: DockerBackend, platform: Installation
) -> None:
    spec = replace(spec_for("w1", FOREVER, WORKER_AGENT_TOKEN="canary-a9e1"), environment={"MODEL": "canary-7d2c"})
    await backend.start(spec)
    await in_phase(backend, "w1", Phase.RUNNING)
    agent, main = (platform.engine.inspect(platform.id_of("w1", part)) for part in (Part.AGENT, Part.MAIN))
    assert main["HostConfig"]["NetworkMode"] == f"container:{agent['Id']}"
    assert "canary-a9e1" not in str(main)
    assert "canary-7d2c" not in str(agent)
    assert main["HostConfig"]["PidMode"] in ("", "private")
    assert await backend.environment("w1", 1) == {"MODEL": "canary-7d2c"}
    await backend.kill("w1")


async def test_the_output_of_a_container_is_read_to_its_end(backend: DockerBackend) -> None:
    await backend.start(spec_for("w1", "echo first; echo second >&2; exit 3"))
    await ended(backend, "w1")
    async with aclosing(backend.follow("w1", 1, 0)) as entries:
        found = [entry async for entry in entries]
    assert sorted(entry.data for entry in found) == [b"first\n", b"second\n"]
    assert all(entry.stamp_ns > 1_600_000_000 * 10**9 for entry in found)
    with pytest.raises(BackendError, match="does not exist"):
        async with aclosing(backend.follow("w1", 2, 0)) as entries:
            await anext(entries)
    await backend.kill("w1")


async def test_a_network_for_workers_is_made_once_and_removed_when_no_container_uses_it(
    platform: Installation,
) -> None:
    url, name = platform.engine.url, f"qe-test-{platform.instance[:12]}"
    before = platform.engine.objects()
    gateways = {await make_network(url, name, os.environ) for _ in range(2)}
    assert gateways == {await gateway_of(url, name, os.environ)}
    hosting = Hosting(platform.instance, network=name)
    backend = platform.backend(hosting=hosting)
    await backend.start(spec_for("w1", FOREVER))
    await in_phase(backend, "w1", Phase.RUNNING)
    assert name in platform.engine.inspect(platform.id_of("w1", Part.AGENT))["NetworkSettings"]["Networks"]
    with pytest.raises(EngineError):
        await remove_network(url, name, os.environ)
    await backend.kill("w1")
    await backend.aclose(0)
    for _ in range(2):
        await remove_network(url, name, os.environ)
    assert platform.engine.objects() == before


async def test_a_network_without_a_gateway_is_refused_in_words(platform: Installation) -> None:
    with pytest.raises(BackendError, match="no network 'nowhere'"):
        await gateway_of(platform.engine.url, "nowhere", os.environ)
    with pytest.raises(EngineUnavailable):
        await gateway_of("unix:///nowhere.sock", "bridge", os.environ)


ROUNDS, AT_ONCE = 5, 20


async def test_a_hundred_starts_and_ends_leave_nothing(platform: Installation, record_case: RecordCase) -> None:
    """Containers, networks and volumes in the engine, and folders of containers in its storage."""
    before = platform.engine.objects_of_backend(), platform.engine.folders()
    backend = platform.backend()
    for run in range(1, ROUNDS + 1):
        names = [f"w{number}" for number in range(AT_ONCE)]
        await asyncio.gather(*(backend.start(spec_for(name, FOREVER, run=run)) for name in names))
        for name in names:
            await in_phase(backend, name, Phase.RUNNING, 240)
        assert len(await platform.left()) == 2 * AT_ONCE
        await asyncio.gather(*(backend.stop(name, 60) for name in names))
        assert await all_of(backend) == {}
    await backend.aclose(0)
    assert (platform.engine.objects_of_backend(), platform.engine.folders()) == before
    record_case(
        f"{ROUNDS * AT_ONCE} starts and ends",
        seen="each worker runs",
        recovery="no container, network, volume or folder is left",
    )


async def test_without_an_engine_nothing_is_observed_and_no_worker_is_started(tmp_path: Path) -> None:
    options = DockerOptions(Hosting("here"), IMAGE)
    backend = DockerBackend(lambda: AiodockerEngine(f"unix://{tmp_path}/none.sock", os.environ), options, Gpus())
    assert await backend.observe() is None
    with pytest.raises(BackendError, match="cannot be reached"):
        await backend.start(spec_for("w1", FOREVER))
    assert await backend.observe() is None
    await backend.aclose(0)
