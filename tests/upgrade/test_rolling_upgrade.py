"""Real processes are replaced by processes of a next version one by one, under load, and a migration runs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from queue_engine.domain.tasks import TaskStatus
from queue_engine.store.keys import FORMAT, META, MIGRATION
from queue_engine.store.migrations.migrator import Progress, progress_from
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Programs, open_store, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.store.probe import Probe
from tests.upgrade.made_up import FIELD, TO
from tests.upgrade.next_version import GATE, PAGE
from tests.waiting import wait_until_async

API_KEY = "qe_upgraded"
BEFORE = "queue_engine"
NEXT = "tests.upgrade.next_version"
SETTINGS = {"QUEUE_ENGINE_LEASE_SECONDS": "2", "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "1"}
OLD_TASKS = 6 * PAGE
KILLS = 2
MAX_LOAD = 300


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


@pytest.fixture
async def opened(valkey_server: StoreServer) -> AsyncIterator[Store]:
    store = open_store(valkey_server.url)
    await store.prepare()
    yield store
    await store.close()


class Client:
    """Submits tasks through an API process that serves now, and remembers the accepted ones."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.endpoint_id = ""
        self.accepted: list[str] = []

    @asynccontextmanager
    async def api(self, version: str) -> AsyncIterator[httpx.AsyncClient]:
        port = free_port()
        program = self._programs.start("api", version, "api", "--port", str(port), QUEUE_ENGINE_API_KEY=API_KEY)
        await asyncio.to_thread(wait_for_port, port)
        url, headers = f"http://127.0.0.1:{port}/v2/serverless", {"X-Api-Key": API_KEY}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            yield client
        program.stop()

    async def submit(self, client: httpx.AsyncClient) -> None:
        task_id = f"t{len(self.accepted)}"
        body = {"taskId": task_id, "input": 1, "workerPort": 8000, "processUri": "/run"}
        (await client.post(f"/{self.endpoint_id}/tasks", json=body)).raise_for_status()
        self.accepted.append(task_id)

    async def load(self, client: httpx.AsyncClient) -> None:
        for _ in range(MAX_LOAD):
            await self.submit(client)


async def progress(probe: Probe) -> Progress:
    """Wait until the migration has begun, and return its progress."""

    async def begun() -> Progress | None:
        return progress_from((await probe.hash(META)).get(MIGRATION, "").encode())

    found = await wait_until_async(begun, 60, "the migration does not begin")
    assert found is not None
    return found


async def let_pages_be_done(probe: Probe, count: int) -> None:
    """Open the gate for some pages, and wait until their progress is recorded."""
    before = await progress(probe)
    await probe.ask("RPUSH", GATE, *["go"] * count)

    async def are_done() -> bool:
        return (await progress(probe)).seen >= before.seen + count * PAGE

    await wait_until_async(are_done, 60, "the migration does not go on")


@pytest.mark.timeout(240)
async def test_a_migration_under_load_survives_the_death_of_its_leaders(
    opened: Store, programs: Programs, container: HttpServer
) -> None:
    probe, client = Probe(opened.redis), Client(programs)
    async with client.api(BEFORE) as http:
        body = {
            "name": "e", "image": "none", "serviceMode": "QUEUE", "workers": 0, "containerVolumeInGb": 20,
            "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        }  # fmt: skip
        client.endpoint_id = str((await http.post("", json=body)).json()["data"]["id"])
        for _ in range(OLD_TASKS):
            await client.submit(http)
        old_agent = programs.agent(client.endpoint_id, container.url, lease=2)
        leader = programs.start("controller", NEXT, "controller", **SETTINGS)
        waits = '"the migration waits for processes'
        await wait_until_async(lambda: waits in leader.output(), 60, "the migration does not wait")
        assert (await probe.hash(META)).get(MIGRATION) is None
    async with client.api(NEXT) as http:
        load = asyncio.create_task(client.load(http))
        for _ in range(KILLS):
            await let_pages_be_done(probe, 1)
            leader.kill()
            leader = programs.start("controller", NEXT, "controller", **SETTINGS)
        assert 0 < (await progress(probe)).changed <= OLD_TASKS
        assert (await probe.hash(META))[FORMAT] == str(TO - 1)
        await load
        await probe.ask("RPUSH", GATE, *["go"] * 10_000)

        async def is_complete() -> bool:
            return (await probe.hash(META))[FORMAT] == str(TO)

        await wait_until_async(is_complete, 90, "the migration does not end")
        await client.submit(http)
        await _all_succeed(opened, client)
    tasks = [await probe.hash(opened.partitions.of(client.endpoint_id).task(one)) for one in client.accepted]
    assert [task.get(FIELD) for task in tasks] == ["1"] * len(client.accepted)
    assert old_agent.running
    await _old_processes_are_refused_but_agents(programs, client, container)


async def _all_succeed(store: Store, client: Client) -> None:
    async def have_succeeded() -> bool:
        counts = await store.tasks.counts(client.endpoint_id)
        assert counts.failed == 0
        return counts.success == counts.total == len(client.accepted)

    await wait_until_async(have_succeeded, 60, "tasks do not end")
    page = await store.tasks.page(client.endpoint_id, TaskStatus.SUCCESS, page=1, size=1)
    assert page.total == len(client.accepted)


async def _old_processes_are_refused_but_agents(programs: Programs, client: Client, container: HttpServer) -> None:
    commands = (("api", "--port", str(free_port())), ("controller",), ("delivery",))
    refused = [programs.start(words[0], BEFORE, *words) for words in commands]
    agent = programs.agent(client.endpoint_id, container.url)
    for program in refused:
        assert await asyncio.to_thread(program.wait, 60) == 2
        assert f"it holds data of format {TO}, this version reads" in program.output()
    await wait_until_async(lambda: '"started"' in agent.output(), 60, "an agent of the version before does not start")
