"""The watch of pods, against an API server that forgets versions, becomes unreachable and stays silent."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from queue_engine.aio import Backoff
from queue_engine.backends.kubernetes import watch as watch_module
from queue_engine.backends.kubernetes.kube_api import KubeError
from queue_engine.backends.kubernetes.names import Identity, selector
from queue_engine.backends.kubernetes.pod_view import PodView
from queue_engine.backends.kubernetes.watch import Changes, PodWatch
from tests.unit.kube.fake_api import FakeKube
from tests.unit.kube.parts import INSTANCE
from tests.waiting import wait_until_async


class Seen:
    """The calls of a watch."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.changed: list[str] = []
        self.lists = 0

    def changes(self) -> Changes:
        def on_change(pod: PodView) -> None:
            self.changed.append(pod.name)

        def on_removal(pod: PodView) -> None:
            self.removed.append(pod.name)

        def on_list() -> None:
            self.lists += 1

        return Changes(on_change, on_removal, on_list)


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def watch(kube: FakeKube, seen: Seen) -> AsyncIterator[PodWatch]:
    made = PodWatch(kube, selector(INSTANCE), seen.changes(), name="here")
    yield made
    await made.aclose()


def pod(worker_id: str, instance: str = INSTANCE) -> dict[str, object]:
    identity = Identity("7", worker_id, 1)
    return {"metadata": {"name": identity.name, "labels": identity.labels(instance, 1)}, "spec": {}}


async def until(condition: Callable[[], bool]) -> None:
    await wait_until_async(condition, timeout=30)


async def listed(watch: PodWatch) -> None:
    watch.start()
    assert await watch.until_complete(30)


async def test_all_pages_of_a_list_are_read_and_later_changes_follow(
    kube: FakeKube, watch: PodWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PAGE_PODS", 2)
    for number in range(5):
        await kube.create_pod(pod(f"w{number}"))
    await kube.create_pod(pod("other", instance="another"))
    await listed(watch)
    assert set(watch.pods) == {f"qe-w{number}-1" for number in range(5)}
    assert kube.calls["list_pods"] == 3
    await kube.create_pod(pod("w9"))
    await until(lambda: "qe-w9-1" in watch.pods)
    kube.remove("qe-w0-1")
    await until(lambda: "qe-w0-1" not in watch.pods)
    assert kube.calls["list_pods"] == 3


async def test_expired_versions_lead_to_a_list_at_once(
    kube: FakeKube, watch: PodWatch, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RECONNECT", Backoff(3600, 3600))
    await kube.create_pod(pod("w1"))
    await listed(watch)
    await until(lambda: kube.calls["watch_pods"] == 1)
    kube.pods.pop("qe-w1-1")  # without an event, as if it was lost
    kube.forget_versions()
    await until(lambda: seen.lists == 2)
    assert seen.removed == ["qe-w1-1"]
    assert watch.is_connected


async def test_a_version_that_expires_again_and_again_does_not_flood_the_server(
    kube: FakeKube, watch: PodWatch, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RECONNECT", Backoff(0.2, 0.2))
    kube.refusals["watch_pods"] = [KubeError(410, "too old") for _ in range(3)]
    clock = asyncio.get_running_loop().time
    began = clock()
    await listed(watch)
    await until(lambda: seen.lists >= 4)
    assert clock() - began >= 0.4


async def test_a_server_that_asks_for_a_day_is_asked_again_within_a_minute(
    kube: FakeKube, watch: PodWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_PAUSE_SECONDS", 0.05)
    kube.refusals["list_pods"] = [KubeError(429, "slow down", retry_after_seconds=86_400.0)]
    await listed(watch)
    assert kube.calls["list_pods"] == 2


async def test_a_cluster_that_goes_away_keeps_its_pods_and_is_watched_again_from_the_last_version(
    kube: FakeKube, watch: PodWatch, seen: Seen
) -> None:
    await kube.create_pod(pod("w1"))
    await listed(watch)
    kube.is_away = True
    kube._tell()
    await until(lambda: not watch.is_connected)
    assert set(watch.pods) == {"qe-w1-1"}
    assert "cannot be reached" in str(watch.problem)
    kube.is_away = False
    await kube.create_pod(pod("w2"))
    await until(lambda: "qe-w2-1" in watch.pods)
    assert watch.is_connected
    assert (seen.lists, seen.removed) == (1, [])


async def test_a_silent_watch_is_given_up_and_the_pods_are_listed(
    kube: FakeKube, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "SILENCE_SECONDS", 0.0)
    watch = PodWatch(kube, selector(INSTANCE), seen.changes(), name="here", resync_seconds=1.0)
    kube.is_silent = True
    await listed(watch)
    await kube.create_pod(pod("w1"))
    await until(lambda: "qe-w1-1" in watch.pods)
    assert seen.lists == 2
    await watch.aclose()


async def test_a_watch_has_a_short_limit_and_the_next_one_continues_without_a_list(
    kube: FakeKube, watch: PodWatch, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SECONDS", 1)
    monkeypatch.setattr(watch_module, "SHORT_WATCH_SECONDS", 0.0)
    await listed(watch)
    await until(lambda: kube.calls["watch_pods"] == 2)
    await kube.create_pod(pod("w1"))
    await until(lambda: "qe-w1-1" in watch.pods)
    assert (seen.lists, watch.is_connected) == (1, True)


async def test_a_pod_that_is_created_during_a_list_is_not_taken_as_removed(
    kube: FakeKube, watch: PodWatch, seen: Seen
) -> None:
    await listed(watch)
    await until(lambda: kube.calls["watch_pods"] == 1)
    kube.is_silent = True
    kube.held["list_pods"] = asyncio.Event()
    kube.forget_versions()
    await until(lambda: kube.calls["list_pods"] == 2)
    watch.note_created(await kube.create_pod(pod("w1")))
    kube.held.pop("list_pods").set()
    await until(lambda: seen.lists == 2)
    assert seen.removed == []
    assert set(watch.pods) == {"qe-w1-1"}


async def test_a_response_to_a_creation_after_the_removal_brings_no_pod_back(
    kube: FakeKube, watch: PodWatch, seen: Seen
) -> None:
    await listed(watch)
    created = await kube.create_pod(pod("w1"))
    await until(lambda: "qe-w1-1" in watch.pods)
    kube.remove("qe-w1-1")
    await until(lambda: seen.removed == ["qe-w1-1"])
    watch.note_created(created)
    assert not watch.pods


async def test_a_pod_of_the_same_name_with_another_uid_is_another_pod(
    kube: FakeKube, watch: PodWatch, seen: Seen
) -> None:
    await kube.create_pod(pod("w1"))
    await listed(watch)
    await until(lambda: kube.calls["watch_pods"] == 1)
    kube.pods.pop("qe-w1-1")
    await kube.create_pod(pod("w1"))
    kube.forget_versions()
    await until(lambda: seen.lists == 2)
    assert seen.removed == ["qe-w1-1"]
    assert watch.pods["qe-w1-1"].uid == kube.pods["qe-w1-1"]["metadata"]["uid"]
