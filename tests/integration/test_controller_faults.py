"""The controller while its store is frozen, restarts or fails over, and while its backend fails."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from queue_engine.aio import end_tasks
from queue_engine.backends.base import BackendError, WorkerSpec
from queue_engine.controller.controller import FORGET_SECONDS, Controller, ControllerConfig
from queue_engine.controller.jobs import Periodic, run_jobs
from queue_engine.controller.reconcile import Reconciler, ReconcilerConfig
from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.integration.parts import Programs, open_store, programs_on
from tests.ports import free_port
from tests.scripted_backend import ScriptedBackend
from tests.servers import StoreServer, valkey_binary
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe
from tests.topology import SLOW_DETECTION_MS, ClusterSetup, SentinelSetup
from tests.waiting import wait_until_async

QUEUE = "{qe}:jobs:test"


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


class Counting:
    """A job that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1

    async def runs_again(self) -> None:
        before = self.runs
        await wait_until_async(lambda: self.runs > before, message="the jobs do not go on")


async def test_a_controller_that_leads_ends_although_its_store_is_frozen(
    store: Store, valkey_server: StoreServer, programs: Programs
) -> None:
    controller = programs.controller()
    await wait_until_async(lambda: '"leading"' in controller.output(), message="nobody leads")
    valkey_server.pause()
    try:
        controller.signal(signal.SIGTERM)
        assert await asyncio.to_thread(controller.wait, 60) == 0
    finally:
        valkey_server.resume()


async def test_background_jobs_end_although_the_store_is_frozen(valkey_server: StoreServer) -> None:
    job = Counting()
    running = asyncio.create_task(run_jobs(valkey_server.url, QUEUE, [Periodic("counting", job.run, 1)]))
    await job.runs_again()
    valkey_server.pause()
    try:
        async with asyncio.timeout(60):
            await end_tasks(running)
    finally:
        valkey_server.resume()


async def test_background_jobs_go_on_after_the_store_was_frozen_or_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StoreServer(valkey_binary(), tmp_path) as server:
        job = Counting()
        running = asyncio.create_task(run_jobs(server.url, QUEUE, [Periodic("counting", job.run, 1)]))
        try:
            await job.runs_again()
            server.pause()
            await _paused(caplog)
            server.resume()
            await job.runs_again()
            await wait_until_async(lambda: "the store is back" in caplog.text, message="the outage does not end")
            server.kill()
            await _paused(caplog)
            server.start()
            await job.runs_again()
        finally:
            await end_tasks(running)


async def test_background_jobs_follow_the_master(tmp_path: Path) -> None:
    with SentinelSetup(valkey_binary(), tmp_path, replicas=1, sentinels=1) as setup:
        job = Counting()
        running = asyncio.create_task(run_jobs(setup.url, QUEUE, [Periodic("counting", job.run, 1)]))
        try:
            await job.runs_again()
            await asyncio.to_thread(setup.kill_master)
            await job.runs_again()
        finally:
            await end_tasks(running)


@dataclass
class FailingBackend(ScriptedBackend):
    """The first tries to close it fail."""

    failures: int = 0

    async def aclose(self, grace_seconds: float) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise BackendError("the machine does not respond")
        await super().aclose(grace_seconds)


async def test_a_controller_that_has_lost_the_leadership_tries_until_its_workers_are_stopped(store: Store) -> None:
    # Not listed, so that the reconciler leaves workers without a record alone.
    backend = FailingBackend(failures=2, listed=False)
    leading = asyncio.Event()
    controller = _controller(store, backend, leading)
    running = asyncio.create_task(controller.run())
    keeping: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(20):
            await leading.wait()
        backend.running |= {worker_id: WorkerSpec("1", worker_id, "image") for worker_id in ("1-a", "1-b")}
        await store.redis.delete("{qe}:leader")
        keeping = asyncio.create_task(_keep_leading(store))
        await wait_until_async(
            lambda: not backend.running, message="workers go on under a controller that does not lead"
        )
        assert backend.failures == 0
    finally:
        controller.stop()
        await running
        if keeping is not None:
            await end_tasks(keeping)


@pytest.mark.parametrize("forget_seconds", [60.0, 0.0], ids=["in time", "too late"])
async def test_a_controller_that_ends_removes_records_for_a_limited_time_and_resigns(
    store: Store, forget_seconds: float
) -> None:
    backend = FailingBackend(listed=False)  # so that the reconciler leaves the records alone
    leading = asyncio.Event()
    controller = _controller(store, backend, leading, leader_lease_seconds=60.0, forget_seconds=forget_seconds)
    running = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(20):
            await leading.wait()
        ids = [(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(40)]
        of_ended, *others = ids
        for endpoint_id in ids:
            await store.workers.put(endpoint_id, f"{endpoint_id}-a", managed=True)
        backend.running[f"{of_ended}-a"] = WorkerSpec(of_ended, f"{of_ended}-a", "image")
        backend.listed = True
    finally:
        controller.stop()
        await running
    assert await store.leadership.hold("new", lease_ms=60_000)
    assert set(await store.workers.of_endpoints(ids)) == (set() if forget_seconds else {of_ended, *others})


async def test_a_sweep_does_what_it_can_while_one_node_of_a_cluster_is_frozen(tmp_path: Path) -> None:
    options = ("--cluster-require-full-coverage", "no")
    with ClusterSetup(
        valkey_binary(), tmp_path, replicas_each=0, node_timeout_ms=SLOW_DETECTION_MS, options=options
    ) as setup:
        store = open_store(setup.url)
        try:
            endpoints = [await store.endpoints.create(TENANT, config()) for _ in range(16)]
            benches = [Bench(store, endpoint.endpoint_id, Probe(store.redis)) for endpoint in endpoints]
            for one in benches:
                await one.submit_and_start("t1")
                await one.run_out("t1")
            for one in benches:  # after all else, because a sweep seconds later would grant a grace
                await one.steady()
            frozen = setup.owner_of(store.partitions.all()[0].outbox)  # the first that is swept
            others = [one for one in benches if setup.owner_of(one.keys.queue) is not frozen]
            assert others
            frozen.pause()
            with pytest.raises(RedisError):
                await _controller(store, FailingBackend(failures=0)).sweep()
            assert {(await one.task("t1")).state for one in others} == {TaskState.QUEUED}
        finally:
            await store.close()


@pytest.mark.parametrize("command", ["api", "controller", "delivery"])
@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis+sentinel://:canary@a:1,b:2", "must name the service"),
        ("redis+cluster://:canary@a:1/3", "a cluster has database 0 only"),
        ("http://:canary@a", "must begin with redis://"),
    ],
)
def test_a_bad_url_ends_the_process_with_its_name_and_rule(
    programs: Programs, command: str, url: str, rule: str
) -> None:
    program = programs.start(command, "queue_engine", command, QUEUE_ENGINE_REDIS_URL=url)
    assert program.wait() == 2
    assert f"QUEUE_ENGINE_REDIS_URL: {rule}" in program.output()
    assert "canary" not in program.output()


def test_an_agent_names_a_bad_url_too(programs: Programs) -> None:
    agent = programs.agent("1", "http://127.0.0.1:1", QUEUE_ENGINE_REDIS_URL="redis+sentinel://:canary@a:1")
    assert agent.wait() == 2
    assert "QUEUE_ENGINE_REDIS_URL): must name the service" in agent.output()
    assert "canary" not in agent.output()


@pytest.mark.parametrize("control", ["", "redis+cluster://a:1"])
def test_a_controller_on_a_cluster_needs_another_place_for_its_jobs(programs: Programs, control: str) -> None:
    controller = programs.controller(
        QUEUE_ENGINE_REDIS_URL="redis+cluster://127.0.0.1:1", QUEUE_ENGINE_CONTROL_REDIS_URL=control
    )
    assert controller.wait() == 2
    assert "QUEUE_ENGINE_CONTROL_REDIS_URL: " in controller.output()


def test_files_of_tls_that_cannot_be_read_are_named(programs: Programs, tmp_path: Path) -> None:
    url = f"rediss://127.0.0.1:1?ssl_ca_certs={tmp_path}/missing.pem"
    api = programs.start("api", "queue_engine", "api", QUEUE_ENGINE_REDIS_URL=url, QUEUE_ENGINE_PORT=str(free_port()))
    assert api.wait() == 2
    assert "ssl_ca_certs: cannot use" in api.output()
    assert "No such file" in api.output()


def _controller(
    store: Store,
    backend: FailingBackend,
    leading: asyncio.Event | None = None,
    *,
    leader_lease_seconds: float = 0.3,
    forget_seconds: float = FORGET_SECONDS,
) -> Controller:
    """Return a controller that sets `leading` when it begins to lead."""
    config = ControllerConfig(
        controller_id="old",
        jobs_redis_url=store.url,
        lease_seconds=1.0,
        max_lost=3,
        leader_lease_seconds=leader_lease_seconds,
        grace_seconds=0.0,
        forget_seconds=forget_seconds,
    )
    rules = ReconcilerConfig(agent_environment=lambda _: {}, grace_seconds=0.0, silence_seconds=60.0)

    def make_reconciler(leads: Callable[[], bool]) -> Reconciler:
        if leading is not None:
            leading.set()
        stores = (store.endpoints, store.workers, store.checks, store.credentials, store.platform_note)
        return Reconciler(rules, *stores, backend, store.now_ms, leads=leads)

    return Controller(config, store, backend, make_reconciler)


async def _keep_leading(store: Store) -> None:
    while True:
        await store.leadership.hold("new", lease_ms=60_000)
        await asyncio.sleep(0.01)


async def _paused(caplog: pytest.LogCaptureFixture) -> None:
    """The jobs have noticed that the store is away."""
    caplog.clear()
    await wait_until_async(lambda: "the store is away" in caplog.text, message="the jobs notice nothing")
