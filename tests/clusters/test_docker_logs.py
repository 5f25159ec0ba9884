"""Followers of containers of a real engine. Times of output are whole seconds in podman, and nanoseconds in Docker."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import pytest

from queue_engine.aio import Backoff
from queue_engine.backends.base import Phase
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from queue_engine.backends.docker.engine import AiodockerEngine
from queue_engine.backends.docker.output import follow
from queue_engine.controller.log_follower import Followed
from queue_engine.controller.log_followers import LogFollowers, secrets_reader
from queue_engine.domain.endpoints import Resource
from queue_engine.logs.masking import Secrets
from queue_engine.store.store import Store
from tests.clusters.engine import IMAGE, ContainerEngine
from tests.clusters.installation import Installation, spec_for
from tests.integration.backend_contract import all_of, in_phase
from tests.integration.parts import open_store
from tests.integration.test_log_followers import has_lines, log_of, new_followed
from tests.waiting import wait_until_async

LINES = 400
SCRIPT = f"""
i=0
while [ $i -lt {LINES} ]; do
    echo "line $i of a secret: tiger-4711-canary"
    [ $((i % 50)) = 0 ] && echo "error $i" >&2
    [ $((i % 10)) = 9 ] && sleep 0.1
    i=$((i + 1))
done
printf unfinished
"""


class EngineLogs:
    """The output of one container of an engine."""

    def __init__(self, engine: AiodockerEngine, container: str) -> None:
        self.before_removal: BeforeRemoval = nothing_before_removal
        self._engine = engine
        self._container = container

    def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        return follow(self._engine, self._container, since_ns)

    async def environment(self, worker_id: str, run: int) -> dict[str, str]:
        return {}


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    opened = open_store(valkey_url)
    await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture
async def container(container_engine: ContainerEngine) -> AsyncIterator[EngineLogs]:
    engine = AiodockerEngine(container_engine.url, {})
    name = f"qe-log-{uuid.uuid4().hex}"
    created = await engine.create(name, {"Image": IMAGE, "Entrypoint": ["/bin/sh", "-c", SCRIPT]})
    await engine.start(created)
    yield EngineLogs(engine, created)
    await engine.remove(created)
    await engine.aclose()


async def test_a_log_is_complete_although_its_followers_and_the_engine_are_replaced(
    store: Store, container: EngineLogs, container_engine: ContainerEngine
) -> None:
    followed = await new_followed(store)

    async def secrets_of(_: Followed) -> Secrets:
        return Secrets(["tiger-4711-canary"])

    for round_ in range(3):
        before = len(await log_of(store, followed))
        followers = LogFollowers(
            container, store.logs, secrets_of, retention_seconds=3600, end_seconds=60, retry=Backoff(0.05, 0.5)
        )
        followers.follow({followed: True})
        await wait_until_async(has_lines(store, followed, before))
        if round_ == 1:
            container_engine.stop()
            container_engine.start()
        if round_ == 2:
            await followers.finish(followed.worker_id, 1)
        await followers.aclose()
    lines = await log_of(store, followed)
    written = [f"line {number} of a secret: ***" for number in range(LINES)]
    assert [line for line in lines if not line.startswith("error")] == [*written, "unfinished"]
    assert [line for line in lines if line.startswith("error")] == [f"error {n}" for n in range(0, LINES, 50)]


async def test_a_worker_that_is_stopped_has_the_last_words_of_its_container_in_its_log(
    store: Store, platform: Installation
) -> None:
    followed = await new_followed(store)
    command = "trap 'echo bye; exit 0' TERM; echo hello $TOKEN; while :; do sleep 0.1; done"
    spec = replace(
        spec_for(followed.worker_id, command),
        endpoint_id=followed.endpoint_id,
        environment={"TOKEN": "tiger-4711-canary"},
    )
    backend = platform.backend()
    followers = LogFollowers(
        backend, store.logs, secrets_reader(backend, store.endpoints), retention_seconds=3600, end_seconds=60
    )

    async def has_greeted() -> bool:
        followers.look(await backend.observe() or {})
        return bool(await log_of(store, followed))

    await backend.observe()
    await backend.start(spec)
    await wait_until_async(has_greeted)
    await backend.stop(followed.worker_id, 60.0)  # a machine under load takes seconds until the agent has ended
    await followers.aclose()
    await backend.aclose(0.0)
    assert await log_of(store, followed) == ["hello ***", "bye"]
    assert await platform.left() == []


async def test_a_worker_without_the_gpu_that_it_asks_for_says_so_once_in_its_log(
    store: Store, platform: Installation
) -> None:
    """Also after a change of controllers."""
    followed = await new_followed(store)
    spec = replace(
        spec_for(followed.worker_id, "echo hello; exec sleep 1000"),
        endpoint_id=followed.endpoint_id,
        resources=(Resource("local", "NVIDIA_L4_24G", 1),),
    )
    for number in range(2):
        backend = platform.backend()
        followers = LogFollowers(
            backend, store.logs, secrets_reader(backend, store.endpoints), retention_seconds=3600, end_seconds=60
        )
        await all_of(backend)
        if number == 0:
            await backend.start(spec)
        await in_phase(backend, followed.worker_id, Phase.RUNNING)
        followers.look(await all_of(backend))
        await wait_until_async(has_lines(store, followed, 1))
        if number == 1:
            await backend.stop(followed.worker_id, 0.0)
        await followers.aclose()
        await backend.aclose(0.0)
    note, *rest = await log_of(store, followed)
    assert "no GPU" in note
    assert rest == ["hello"]
