"""Starts that a cluster does not take yet: their backoff, and their share of the writes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from queue_engine.aio import Backoff, end_tasks
from queue_engine.backends.base import Phase
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes import refusals as refusals_module
from queue_engine.backends.kubernetes.refusals import Demand, Refusals
from queue_engine.backends.turns import Party
from tests.unit.kube.parts import HERE
from tests.waiting import wait_until_async

FULL = Explanation(Phase.WAITING, "waits for the quota")
DEMAND = Demand(Party("a", "7"), 1, HERE)


class Cluster:
    """Takes as many starts as it has room for, and notes each try."""

    def __init__(self) -> None:
        self.refusals = Refusals()
        self.room = 0
        self.tried: list[str] = []
        self.taken: list[str] = []
        self.shown: dict[str, Explanation] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, worker_id: str, demand: Demand = DEMAND) -> None:
        self.tasks[worker_id] = asyncio.create_task(self._start(worker_id, demand))

    async def _start(self, worker_id: str, demand: Demand) -> None:
        def show(reason: Explanation) -> None:
            self.shown[worker_id] = reason

        with self.refusals.tries(demand, show) as tries:
            while True:
                await tries.turn()
                self.tried.append(worker_id)
                await asyncio.sleep(0)
                if self.room:
                    self.room -= 1
                    self.taken.append(worker_id)
                    return tries.taken()
                tries.refused(FULL)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    await end_tasks(*made.tasks.values())
    assert made.refusals._refused == {}


async def until_tried(cluster: Cluster, count: int) -> None:
    await wait_until_async(lambda: len(cluster.tried) >= count, timeout=10)


async def test_starts_that_were_not_refused_do_not_wait_for_each_other(cluster: Cluster) -> None:
    cluster.room = 3
    for number in range(3):
        cluster.start(f"w{number}")
    await asyncio.gather(*cluster.tasks.values())
    assert len(cluster.taken) == 3


async def test_one_of_the_refused_workers_of_an_endpoint_tries_again_and_all_show_the_reason(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.02, 0.02))
    cluster.start("w0")
    await until_tried(cluster, 1)
    for number in range(1, 500):
        cluster.start(f"w{number}")
    await until_tried(cluster, 4)
    assert set(cluster.tried) == {"w0"}
    assert set(cluster.shown.values()) == {FULL}
    assert len(cluster.shown) == 500


async def test_a_success_lets_the_next_ones_try_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(3600, 3600))
    for number in range(20):
        cluster.start(f"w{number}")
    await until_tried(cluster, 20)
    cluster.room = 15
    cluster.refusals.hasten()
    await wait_until_async(lambda: len(cluster.taken) == 15, timeout=10)
    await until_tried(cluster, 36)
    assert len(cluster.tried) == 36


async def test_a_start_that_ends_lets_the_next_one_try(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.02, 0.02))
    cluster.start("w0")
    await until_tried(cluster, 1)
    cluster.start("w1")
    await until_tried(cluster, 2)
    await end_tasks(cluster.tasks.pop("w0"))
    await wait_until_async(lambda: "w1" in cluster.tried, timeout=10)


async def test_the_pauses_of_a_demand_grow_and_are_its_own(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.05, 3600))
    monkeypatch.setattr(refusals_module, "RETRIES_BURST", 1000)
    cluster.refusals = Refusals()
    clock = asyncio.get_running_loop().time
    began = clock()
    cluster.start("w0")
    await until_tried(cluster, 5)
    assert clock() - began >= 0.05 * (1 + 2 + 4 + 8) / 2
    cluster.room = 1
    cluster.start("other", replace(DEMAND, resource=replace(HERE, gpu_type="NVIDIA L4")))
    await cluster.tasks["other"]


async def test_tenants_take_turns_in_the_share_of_the_tries(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.0, 0.0))
    monkeypatch.setattr(refusals_module, "RETRIES_PER_SECOND", 50.0)
    monkeypatch.setattr(refusals_module, "RETRIES_BURST", 1)
    cluster.refusals = Refusals()
    for number in range(40):
        cluster.start(f"w{number}", replace(DEMAND, party=Party("a", str(number))))
    cluster.start("of b", replace(DEMAND, party=Party("b", "99")))
    await until_tried(cluster, 41)
    await until_tried(cluster, 41 + 20)
    tries = cluster.tried[41:]
    assert tries.count("of b") >= len(tries) // 2 - 2
