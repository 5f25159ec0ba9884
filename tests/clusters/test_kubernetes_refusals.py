"""The Kubernetes backend while a real API server refuses what it asks: expired versions, and too many requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from queue_engine.backends.base import Phase
from queue_engine.backends.kubernetes import watch as watch_module
from queue_engine.backends.kubernetes.cluster import MAX_WRITE_TRIES
from queue_engine.backends.kubernetes.kube_api import ClientApi, Document, KubeError, PodPage
from queue_engine.backends.kubernetes.kube_client import ClusterAccess
from queue_engine.observability import metrics
from tests.clusters.cases import RecordCase
from tests.clusters.kube_installation import KubeInstallation, spec_for
from tests.clusters.kube_limited_server import LimitedServer
from tests.clusters.test_kubernetes_faults import OBEDIENT, explained, pid_file_of
from tests.integration.backend_contract import FOREVER, all_of, ended, in_phase
from tests.waiting import wait_until_async

OLDEST_VERSION = "1"
"""A version that no API server knows the changes since."""


class ExpiringApi(ClientApi):
    """The API. From `expire` on, all versions but that of a later list are as old as can be."""

    def __init__(self, access: ClusterAccess) -> None:
        super().__init__(access)
        self._is_expired = False
        self.refused: list[KubeError] = []
        self.watch_is_held = asyncio.Event()
        self._may_watch = asyncio.Event()

    def expire(self) -> None:
        """Let the next watch begin only after `watch`, and from an expired version."""
        self._is_expired = True

    def watch(self) -> None:
        self._may_watch.set()

    async def list_pods(self, selector: str, *, limit: int, page: str = "") -> PodPage:
        self._is_expired = False
        return await super().list_pods(selector, limit=limit, page=page)

    async def watch_pods(self, selector: str, version: str, seconds: int) -> AsyncGenerator[Document, None]:
        if self._is_expired:
            self.watch_is_held.set()
            await self._may_watch.wait()
            version = OLDEST_VERSION
        try:
            async with aclosing(super().watch_pods(selector, version, seconds)) as events:
                async for event in events:
                    yield event
        except KubeError as error:
            self.refused.append(error)
            raise


async def test_no_change_is_lost_when_the_version_of_a_watch_has_expired(
    kube: KubeInstallation, monkeypatch: pytest.MonkeyPatch, record_case: RecordCase
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SECONDS", 2)  # the time until the next watch
    made: list[ExpiringApi] = []

    def make(access: ClusterAccess) -> ExpiringApi:
        made.append(ExpiringApi(access))
        return made[-1]

    backend = kube.backend(make)
    for worker_id in ("w1", "w2"):
        await backend.start(spec_for(worker_id, OBEDIENT))
    before = await in_phase(backend, "w1", Phase.RUNNING)
    await in_phase(backend, "w2", Phase.RUNNING)
    [pod] = kube.pods("w1")
    [api] = made
    api.expire()
    await asyncio.wait_for(api.watch_is_held.wait(), 60)
    # No watch is open, and no list is due for minutes.
    kube.kubectl("delete", "pod", "qe-w2-1", "--grace-period=1")
    api.watch()
    assert (await ended(backend, "w2")).reason == "deleted by somebody else"
    assert [error.status for error in api.refused] == [410]
    assert await in_phase(backend, "w1", Phase.RUNNING) == before
    # The watch goes on from the version of the list.
    await backend.stop("w2", 0)
    await backend.start(spec_for("w2", OBEDIENT, run=2))
    await in_phase(backend, "w2", Phase.RUNNING)
    kube.kubectl("delete", "pod", "qe-w2-2", "--grace-period=1")
    assert (await ended(backend, "w2")).reason == "deleted by somebody else"
    assert [one["metadata"]["uid"] for one in kube.pods("w1")] == [pod["metadata"]["uid"]]
    record_case(
        "version of the watch expired (410)", seen=str(api.refused[0]), recovery="listed again; nothing is lost"
    )
    await asyncio.gather(backend.kill("w1"), backend.kill("w2"))
    assert await kube.left() == []
    await backend.aclose(0)


async def test_workers_go_on_and_no_start_is_lost_while_the_api_server_refuses_requests(
    kube: KubeInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_case: RecordCase
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SECONDS", 2)
    kube.options = replace(kube.options, resync_seconds=2.0)
    pid_file = pid_file_of(kube.cluster, "apiserver")
    async with LimitedServer(kube.cluster, pid_file, kube.namespace, tmp_path) as server:
        backend = kube.backend(lambda access: ClientApi(replace(access, kubeconfig=server.kubeconfig)))
        for worker_id in ("w1", "w2"):
            await backend.start(spec_for(worker_id, FOREVER if worker_id == "w1" else OBEDIENT))
        before = await in_phase(backend, "w1", Phase.RUNNING)
        await in_phase(backend, "w2", Phase.RUNNING)
        [pod] = kube.pods("w1")
        lists, starts = refused("GET"), refused("POST")
        async with server.full():
            await backend.start(spec_for("w3", OBEDIENT))
            kube.kubectl("delete", "pod", "qe-w2-1", "--grace-period=1")
            await wait_until_async(lambda: refused("GET") > lists, message="no list is refused")
            # Until the start itself tries again, and not only its write.
            tries = starts + MAX_WRITE_TRIES
            await wait_until_async(lambda: refused("POST") >= tries, message="no start is refused")
            reason = await explained(backend, "w1", Phase.UNKNOWN, "the cluster has too many requests and asks to wait")
            assert [one["metadata"]["uid"] for one in kube.pods("w1")] == [pod["metadata"]["uid"]]
            assert set(await all_of(backend)) == {"w1", "w2", "w3"}
        assert await in_phase(backend, "w1", Phase.RUNNING) == before
        assert (await ended(backend, "w2")).reason == "deleted by somebody else"
        await in_phase(backend, "w3", Phase.RUNNING)
        assert [one["metadata"]["uid"] for one in kube.pods("w1")] == [pod["metadata"]["uid"]]
        record_case(
            "API server refuses requests (429)", seen=reason, recovery="nothing is replaced; starts go on by themselves"
        )
        await asyncio.gather(*(backend.kill(worker_id) for worker_id in ("w1", "w2", "w3")))
        assert await kube.left() == []
        await backend.aclose(0)


def refused(method: str) -> float:
    """The number of requests that servers have refused with 429 so far."""
    samples = [one for family in metrics.backend_requests.collect() for one in family.samples]
    return sum(
        one.value
        for one in samples
        if one.name.endswith("_total") and (one.labels["verb"], one.labels["code"]) == (method, "429")
    )
