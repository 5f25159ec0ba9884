"""Containers of the process backend: the isolation from each other, from their agent and from the controller."""

import base64
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import queue_engine
from queue_engine.backends.worker_users import isolation
from queue_engine.domain.agent_protocol import CONTAINER_COMMAND, WORKER_ID
from queue_engine.domain.endpoints import DesiredState, Expose
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.user_ids import UserIds
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.store import Store
from tests.integration import hostile_container
from tests.integration.other_users import PYTHON
from tests.integration.parts import TENANT, Program, Programs, new_endpoint, open_store, programs_on
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until_async

as_root = pytest.mark.skipif(
    isolation(None, shared=False).ids is None, reason="needs root, to run containers as other users"
)
SECOND = "second"
IDS = UserIds(1_950_000_000, 1_950_000_019)
_CODE = base64.b64encode(Path(hostile_container.__file__).read_bytes()).decode()
HOSTILE = f"exec {PYTHON} -c 'import base64; exec(base64.b64decode(\"{_CODE}\"))'"
VICTIM = f"echo secret > $HOME/secret; exec {PYTHON} -m http.server --bind 127.0.0.1 $PORT --directory $HOME"


class Engine:
    """A controller on a store of its own."""

    def __init__(self, store: Store, work_dir: Path) -> None:
        self.store, self.work_dir = store, work_dir

    async def run(self, command: str, *, tenant: str = TENANT, **environment: str) -> str:
        """Create an endpoint with one worker."""
        return await new_endpoint(
            self.store,
            tenant,
            workers=1,
            initialization_command=command,
            environment=environment,
            plain_variables=frozenset(environment),
            expose=Expose(8000, "HTTP"),
        )

    async def worker(self, endpoint_id: str, status: WorkerStatus = WorkerStatus.RUNNING) -> Worker:
        """The endpoint's worker, when it has this status."""

        async def found() -> Worker | None:
            workers = await self.store.workers.of_endpoint(endpoint_id)
            return next((worker for worker in workers if worker.status is status), None)

        worker = await wait_until_async(found, 60, f"the worker is not {status}")
        assert worker is not None
        return worker

    async def output(self, worker: Worker) -> list[str]:
        page = await self.store.logs.page(worker.endpoint_id, worker.worker_id, LogQuery(size=1000))
        return [] if page is None else [line.text for line in page.lines]

    async def tries(self, endpoint_id: str) -> dict[str, bool]:
        """The tries of the endpoint's hostile container, and whether each has succeeded."""
        worker = await self.worker(endpoint_id)

        async def said() -> str | None:
            return next((one for one in await self.output(worker) if one.startswith(hostile_container.MARK)), None)

        line = await wait_until_async(said, 60, "the container says nothing")
        found: dict[str, bool] = json.loads((line or "").removeprefix(hostile_container.MARK))
        return found

    async def attack(self, victim: psutil.Process) -> dict[str, bool]:
        """Let a container of the second tenant try all it can on the victim."""
        environment = victim.environ()
        endpoint_id = await self.run(
            HOSTILE,
            tenant=SECOND,
            VICTIM_PID=str(victim.pid),
            VICTIM_PORT=environment["PORT"],
            VICTIM_FILE=environment["HOME"] + "/secret",
            WORK_DIR=str(self.work_dir),
            ENGINE_CODE=queue_engine.__file__,
        )
        return await self.tries(endpoint_id)


def container_of(worker: Worker) -> psutil.Process:
    """The main process of a worker's container."""
    agents = [
        process
        for process in psutil.process_iter(["environ"])
        if (found := process.info["environ"])
        and found.get(WORKER_ID) == worker.worker_id
        and CONTAINER_COMMAND in found
    ]
    [container] = agents[0].children()
    return container


def processes_of(*user_ids: int) -> list[psutil.Process]:
    """The processes that run as one of these users."""
    running = psutil.process_iter(["uids"])
    return [one for one in running if one.info["uids"] is not None and one.info["uids"].real in user_ids]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(valkey_binary(), tmp_path_factory.mktemp("store")) as started:
        yield started


class Controllers:
    """Controllers that are root, one after the other."""

    def __init__(self, programs: Programs, work_dir: Path) -> None:
        self.work_dir = work_dir
        self._programs = programs
        self.current = self.start()

    def start(self) -> Program:
        self.current = self._programs.controller(
            QUEUE_ENGINE_WORKER_UIDS=str(IDS), QUEUE_ENGINE_WORKER_GRACE_SECONDS="0"
        )
        return self.current


@pytest.fixture
def programs(executed_programs: Programs) -> Programs:
    return executed_programs


@pytest.fixture(scope="module")
def controllers(server: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controllers]:
    """A controller that is root, on a store with two tenants."""
    server.command("SADD", "{qe}:tenants", TENANT, SECOND)
    directory = tmp_path_factory.mktemp("engine")
    with programs_on(server.url, directory, may_fork=False) as programs:
        yield Controllers(programs, directory / "workers")


@pytest.fixture
async def apart(server: StoreServer, controllers: Controllers) -> AsyncIterator[Engine]:
    store = open_store(server.url)
    await store.prepare()
    yield Engine(store, controllers.work_dir)
    for tenant in (TENANT, SECOND):
        for endpoint in await store.endpoints.of_tenant(tenant):
            await store.endpoints.set_desired_state(endpoint.endpoint_id, tenant, DesiredState.DELETED)

    async def nothing_runs() -> bool:
        return not processes_of(*range(IDS.first, IDS.last + 1))

    await wait_until_async(nothing_runs, 60, "a container is left")
    await store.close()


@as_root
async def test_with_several_tenants_a_hostile_container_can_do_nothing_to_others(apart: Engine) -> None:
    victim = container_of(await apart.worker(await apart.run(VICTIM)))
    home = Path(victim.environ()["HOME"])
    assert victim.uids().real in IDS
    assert home.stat().st_uid == victim.uids().real
    assert await apart.attack(victim) == dict.fromkeys(hostile_container.TRIES, False)
    assert victim.is_running()


@as_root
async def test_workers_of_an_endpoint_share_a_user_that_no_other_endpoint_has(apart: Engine) -> None:
    first = await apart.run(VICTIM)
    await apart.store.endpoints.update(first, TENANT, lambda config: replace(config, workers=2))
    other = container_of(await apart.worker(await apart.run(VICTIM)))

    async def two() -> list[Worker]:
        workers = await apart.store.workers.of_endpoint(first)
        return workers if [worker.status for worker in workers] == [WorkerStatus.RUNNING] * 2 else []

    workers = await wait_until_async(two, 60)
    users = {container_of(worker).uids() for worker in workers}
    assert len(users) == 1
    assert other.uids() not in users


@as_root
async def test_a_container_and_what_it_has_detached_end_with_its_home(apart: Engine) -> None:
    detached = f"setsid env -i {PYTHON} -c 'import time; time.sleep(600)' & "
    endpoint_id = await apart.run(detached + VICTIM)
    container = container_of(await apart.worker(endpoint_id))
    home, user_id = Path(container.environ()["HOME"]), container.uids().real
    await apart.store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.STOPPED)

    async def gone() -> bool:
        return not home.exists() and not processes_of(user_id)

    await wait_until_async(gone, 60, "something of the container is left")


@as_root
async def test_a_command_that_its_user_cannot_read_fails_with_these_words(apart: Engine, tmp_path: Path) -> None:
    program = tmp_path / "serve.py"
    program.write_text("print('never run')")
    tmp_path.chmod(0o700)
    endpoint_id = await apart.run(f"{PYTHON} {program}")

    async def failed() -> str | None:
        errors = [one.error or "" for one in await apart.store.workers.of_endpoint(endpoint_id)]
        return next((error for error in errors if "exited" in error), None)

    error = await wait_until_async(failed, 60, "the worker does not fail") or ""
    assert f"as which this endpoint's containers run, cannot read {program}" in error.splitlines()[0]
    assert error.startswith("container exited with status 2: user 19500000")


@as_root
async def test_without_a_free_user_the_reason_is_on_the_worker(apart: Engine) -> None:
    holders = [_holder(user_id) for user_id in range(IDS.first, IDS.last + 1)]
    try:
        endpoint_id = await apart.run(VICTIM)

        async def refused() -> str | None:
            return next((one.error for one in await apart.store.workers.of_endpoint(endpoint_id) if one.error), None)

        error = await wait_until_async(refused, 60)
        assert error == (
            f"no user id is free for the endpoint: all {IDS.count} of QUEUE_ENGINE_WORKER_UIDS ({IDS}) are in use"
        )
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _holder(user_id: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], user=user_id, group=user_id, extra_groups=(user_id,))


@as_root
async def test_the_next_controller_ends_containers_whose_agent_and_controller_were_killed(
    apart: Engine, controllers: Controllers
) -> None:
    container = container_of(await apart.worker(await apart.run(VICTIM)))
    homes = Path(container.environ()["HOME"]).parent
    agent = container.parent()
    assert agent is not None
    controllers.current.signal(signal.SIGSTOP)
    agent.kill()
    controllers.current.kill()
    assert container.is_running()
    controllers.start()
    await wait_until_async(lambda: not container.is_running(), 60, "the container lives on")
    await wait_until_async(lambda: not homes.exists(), 60, "its home is left")


async def test_with_one_user_a_hostile_container_can_do_what_the_docs_list(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    programs.controller(QUEUE_ENGINE_PROCESS_BACKEND_SHARED="yes", QUEUE_ENGINE_WORKER_GRACE_SECONDS="0")
    engine = Engine(store, tmp_path / "workers")
    await store.tenants.create(TENANT)
    await store.tenants.create(SECOND)
    endpoint_id = await engine.run(VICTIM, HOME=str(tmp_path))
    victim = container_of(await engine.worker(endpoint_id))
    can = await engine.attack(victim)
    page = (Path(__file__).parents[2] / "docs/operations/isolation.md").read_text()
    assert {name for name, succeeded in can.items() if succeeded} >= {
        "agent's environment",
        "agent's descriptors",
        "signal the agent",
        "another container's environment",
        "signal another container",
        "another container's file",
        "controller's files",
        "engine's code",
    }
    for name, succeeded in can.items():
        assert not succeeded or f"| {name} |" in page, f"not in the docs: {name}"


async def test_a_controller_without_the_rights_of_root_lets_only_one_tenant_have_endpoints(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    for tenant in (TENANT, SECOND):
        await store.tenants.create(tenant)
        await new_endpoint(store, tenant)
    controller = programs.start("controller", "tests.integration.unprivileged", "queue_engine", "controller")

    async def refused() -> str | None:
        return await store.one_tenant.refusal(SECOND)

    reason = await wait_until_async(refused, 60, "the rule is not noted")
    assert "cannot keep tenants apart: the controller is " in (reason or "")
    assert "QUEUE_ENGINE_PROCESS_BACKEND_SHARED=yes" in (reason or "")
    assert await store.one_tenant.refusal(TENANT) is None
    assert '"endpoints of several tenants run as one user"' in controller.output()
    assert '"default, second"' in controller.output()
