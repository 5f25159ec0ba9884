"""The Kubernetes backend against an API server in memory."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from queue_engine.aio import Backoff
from queue_engine.backends.base import BackendError, EndNotConfirmed, Observed, Phase
from queue_engine.backends.kubernetes import backend as backend_module
from queue_engine.backends.kubernetes import ending as ending_module
from queue_engine.backends.kubernetes import placing as placing_module
from queue_engine.backends.kubernetes import refusals as refusals_module
from queue_engine.backends.kubernetes import watch as watch_module
from queue_engine.backends.kubernetes import worker as worker_module
from queue_engine.backends.kubernetes.backend import KubernetesBackend, KubernetesOptions
from queue_engine.backends.kubernetes.kube_api import KubeApi, KubeError, KubeUnavailable
from queue_engine.controller.controller import Controller, ControllerConfig
from queue_engine.domain.endpoints import Resource
from queue_engine.observability.metrics import Role, registry_of
from tests.unit.kube.fake_api import FakeKube, now_text
from tests.unit.kube.parts import HERE, INSTANCE, FirstPlaces, SmallDocuments, spec_for
from tests.waiting import wait_until_async

POD = "qe-w1-1"
OPTIONS = KubernetesOptions(INSTANCE, pod_margin_seconds=2)


class Clock:
    """The time in epoch seconds, ahead of the machine's."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.ahead


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def places() -> FirstPlaces:
    return FirstPlaces()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def backend_of(
    clusters: Mapping[str, FakeKube],
    places: FirstPlaces,
    clock: Clock | None = None,
    options: KubernetesOptions = OPTIONS,
) -> KubernetesBackend:
    def connection(kube: FakeKube) -> Callable[[], KubeApi]:
        return lambda: kube

    connect = {name: connection(kube) for name, kube in clusters.items()}
    made = KubernetesBackend(connect, options, SmallDocuments(), places, epoch_seconds=clock or Clock())
    made.leads = lambda: True
    return made


@pytest.fixture
async def backend(kube: FakeKube, places: FirstPlaces, clock: Clock) -> AsyncIterator[KubernetesBackend]:
    made = backend_of({"here": kube}, places, clock)
    yield made
    await made.aclose(0)


async def seen(backend: KubernetesBackend, worker_id: str, phase: Phase, words: str = "") -> Observed:
    """The worker, as soon as it is in this phase with a reason that has these words."""

    async def found() -> Observed | None:
        one = (await backend.observe() or {}).get(worker_id)
        return one if one is not None and one.phase is phase and words in (one.reason or "") else None

    one = await wait_until_async(found, timeout=30, message=f"{worker_id} is not {phase}: {words}")
    assert one is not None
    return one


async def until(condition: Callable[[], object]) -> None:
    await wait_until_async(lambda: bool(condition()), timeout=30)


async def running(backend: KubernetesBackend, worker_id: str = "w1") -> Observed:
    await backend.start(spec_for(worker_id))
    return await seen(backend, worker_id, Phase.RUNNING)


def left(kube: FakeKube) -> list[str]:
    return [*kube.pods, *kube.secrets]


# Starts


async def test_a_start_makes_the_secrets_and_the_pod_once(backend: KubernetesBackend, kube: FakeKube) -> None:
    await asyncio.gather(backend.start(spec_for("w1")), backend.start(spec_for("w1")))
    one = await seen(backend, "w1", Phase.RUNNING)
    assert (one.run, one.container_id) == (1, "containerd://main")
    await backend.start(spec_for("w1"))
    assert left(kube) == [POD, "qe-env-7-1", "qe-agent-w1-1"]
    assert kube.calls["create_pod"] == 1


async def test_nothing_is_kept_about_the_secrets_of_a_finished_start(backend: KubernetesBackend) -> None:
    await running(backend)
    await until(lambda: not backend._clusters["here"]._using)


async def test_the_metrics_say_which_clusters_respond(places: FirstPlaces) -> None:
    here, there = FakeKube(), FakeKube()
    there.is_away = True
    backend = backend_of({"here": here, "there": there}, places)
    await backend.observe()

    registry = registry_of(Role.CONTROLLER)

    def values() -> list[float | None]:
        return [registry.get_sample_value("queue_engine_backend_up", {"cluster": name}) for name in ("here", "there")]

    await until(lambda: values() == [1, 0])
    await backend.aclose(0)
    assert values() == [None, None]


async def test_two_controllers_that_start_one_run_make_it_once(kube: FakeKube, places: FirstPlaces) -> None:
    first, second = (backend_of({"here": kube}, places) for _ in range(2))
    await asyncio.gather(first.start(spec_for("w1")), second.start(spec_for("w1")))
    for one in (first, second):
        await seen(one, "w1", Phase.RUNNING)
        await one.aclose(0)
    assert list(kube.pods) == [POD]


async def test_nothing_is_observed_before_a_cluster_is_listed(places: FirstPlaces) -> None:
    here, there = FakeKube(), FakeKube()
    here.is_away = there.is_away = True
    backend = backend_of({"here": here, "there": there}, places)
    assert await backend.observe() is None
    await until(lambda: here.calls["list_pods"] > 1 and there.calls["list_pods"] > 1)
    assert await backend.observe() is None
    assert str(backend.problem).startswith("the cluster cannot be reached: ")
    here.is_away = there.is_away = False
    await wait_until_async(lambda: is_observed(backend), timeout=30)
    assert backend.problem is None
    await backend.aclose(0)


async def test_a_cluster_that_neither_lists_its_pods_nor_refuses_is_a_problem(
    places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = FakeKube()
    kube.held["list_pods"] = asyncio.Event()
    backend = backend_of({"here": kube}, places)
    await backend.observe()
    monkeypatch.setattr(backend_module, "LIST_WAIT_SECONDS", 0.0)
    assert str(backend.problem) == "the cluster does not respond"
    kube.held.pop("list_pods").set()
    await wait_until_async(lambda: is_observed(backend), timeout=30)
    assert backend.problem is None
    await backend.aclose(0)


async def is_observed(backend: KubernetesBackend) -> bool:
    return await backend.observe() is not None


async def test_a_cluster_that_is_slow_to_list_is_waited_for_and_one_that_is_away_is_not(
    places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = FakeKube(), FakeKube()
    there.held["list_pods"] = asyncio.Event()
    backend = backend_of({"here": here, "there": there}, places)
    await backend.observe()
    await until(lambda: here.calls["watch_pods"])
    assert await backend.observe() is None
    monkeypatch.setattr(backend_module, "LIST_WAIT_SECONDS", 0.0)
    assert await backend.observe() == {}
    assert backend.unlisted == {"there"}
    there.held.pop("list_pods").set()
    await until(lambda: not backend.unlisted)
    await backend.aclose(0)
    there.is_away = True
    monkeypatch.setattr(backend_module, "LIST_WAIT_SECONDS", 3600.0)
    await backend.observe()
    await wait_until_async(lambda: is_observed(backend), timeout=30)
    assert backend.unlisted == {"there"}
    away = Resource("there", "CPU", 1)
    reason = "waits for the cluster of there, which does not respond"
    assert [backend.unlisted_reason(one) for one in ([HERE], [HERE, away], None)] == [
        None,
        reason,
        "a cluster does not respond",
    ]
    await running(backend)
    await backend.aclose(0)


async def test_a_start_before_the_first_list_is_refused(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "LIST_WAIT_SECONDS", 0.05)
    kube.is_away = True
    with pytest.raises(BackendError, match="cannot be reached"):
        await backend.start(spec_for("w1"))
    assert kube.calls["create_secret"] == 0


async def test_a_start_waits_for_the_quota_of_the_namespace(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", replace(refusals_module.CREATE, first_seconds=0.05))
    full = KubeError(403, 'pods "qe-w1-1" is forbidden: exceeded quota: workers', reason="Forbidden")
    kube.refusals["create_pod"] = [full, full]
    await backend.start(spec_for("w1"))
    waiting = await seen(backend, "w1", Phase.WAITING, "waits for the quota of the namespace: ")
    assert waiting.retry_helps
    await seen(backend, "w1", Phase.RUNNING)


FULL = KubeError(403, "pods is forbidden: exceeded quota: workers", reason="Forbidden")


async def test_workers_that_wait_for_quota_spend_no_writes_that_the_starts_of_others_need(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    kube.refusals["create_pod"] = [FULL] * 1000
    await backend.start(spec_for("w0", tenant="a"))
    await seen(backend, "w0", Phase.WAITING, "waits for the quota")
    writes = kube.calls["create_pod"] + kube.calls["create_secret"]
    for number in range(1, 200):
        await backend.start(spec_for(f"w{number}", tenant="a"))
    await seen(backend, "w199", Phase.WAITING, "waits for the quota")
    assert kube.calls["create_pod"] + kube.calls["create_secret"] - writes <= 2
    assert kube.calls["create_secret"] == 2
    kube.refusals.clear()
    await backend.start(spec_for("other", tenant="b", endpoint_id="8"))
    await seen(backend, "other", Phase.RUNNING)


async def test_a_start_that_waits_for_quota_keeps_its_secrets_and_tries_again_when_a_pod_has_gone(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(3600, 3600))
    await running(backend, "w2")
    kube.refusals["create_pod"] = [FULL]
    await backend.start(spec_for("w1", endpoint_id="8"))
    await seen(backend, "w1", Phase.WAITING, "waits for the quota")
    for _ in range(2):
        await backend._clusters["here"].sweep_secrets()
    assert "qe-agent-w1-1" in kube.secrets
    await backend.stop("w2", 0)
    await seen(backend, "w1", Phase.RUNNING)
    assert kube.calls["create_secret"] == 4


async def test_a_start_that_is_stopped_while_it_waits_for_quota_leaves_nothing(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    kube.refusals["create_pod"] = [FULL] * 100
    for worker_id in ("w1", "w2"):
        await backend.start(spec_for(worker_id))
        await seen(backend, worker_id, Phase.WAITING, "waits for the quota")
    await backend.stop("w1", 0)
    await backend.stop("w2", 0)
    assert left(kube) == []
    assert backend._clusters["here"].refusals._refused == {}


async def test_tenants_take_turns_for_the_places_of_a_cluster(
    backend: KubernetesBackend, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing_module, "PLACE_SECONDS", 0.02)
    places.later = "waits for its turn: the cluster has its limit of 1 worker"
    for number in range(100):
        await backend.start(spec_for(f"a{number}", tenant="a"))
    await backend.start(spec_for("b0", tenant="b", endpoint_id="8"))
    await seen(backend, "a99", Phase.WAITING, "waits for its turn")
    await seen(backend, "b0", Phase.WAITING, "waits for its turn")
    order: list[str] = []
    place = places.place

    def one_place(*arguments: Any) -> Any:
        places.later = None if len(order) < 3 else "waits"
        found = place(*arguments)
        order.append("a place")
        return found

    monkeypatch.setattr(places, "place", one_place)
    await seen(backend, "b0", Phase.RUNNING)
    observed = await backend.observe() or {}
    assert sum(one.phase is not Phase.WAITING for one in observed.values()) == 3
    assert all(not one.starting for one in backend._clusters.values())


async def test_a_start_goes_on_when_the_cluster_responds_again(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", replace(refusals_module.CREATE, first_seconds=0.05))
    kube.refusals["create_secret"] = [KubeUnavailable("connection reset")]
    kube.refusals["create_pod"] = [KubeError(500, "etcd is slow"), KubeError(409, "try again", reason="Conflict")]
    assert (await running(backend)).run == 1
    assert len(kube.pods) == 1


@pytest.mark.parametrize(("status", "retry_helps"), [(422, False), (403, True)])
async def test_a_pod_that_the_server_refuses_is_an_end_that_leaves_nothing(
    backend: KubernetesBackend, kube: FakeKube, status: int, retry_helps: bool
) -> None:
    kube.refusals["create_pod"] = [KubeError(status, "no such priority class")]
    await backend.start(spec_for("w1"))
    one = await seen(backend, "w1", Phase.ENDED, "the cluster refuses the worker: no such priority class")
    assert one.retry_helps is retry_helps
    await until(lambda: not left(kube))
    await backend.stop("w1", 0)
    assert await backend.observe() == {}


async def test_writes_pause_when_the_server_is_overloaded(backend: KubernetesBackend, kube: FakeKube) -> None:
    kube.refusals["create_secret"] = [KubeError(429, "too many requests", retry_after_seconds=0.2)]
    clock = asyncio.get_running_loop().time
    began = clock()
    await running(backend)
    assert clock() - began >= 0.2
    assert kube.calls["create_secret"] == 3


async def test_a_controller_that_does_not_lead_writes_nothing(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    backend.leads = lambda: False
    await backend.start(spec_for("w2"))
    with pytest.raises(BackendError, match="does not lead"):
        await backend.stop("w1", 0)
    assert list(kube.pods) == [POD]
    assert not kube.deletions
    assert kube.calls["create_pod"] == 1


async def test_nothing_is_changed_before_the_controller_has_said_that_it_leads(kube: FakeKube) -> None:
    kube.has_anchor = False
    place = FirstPlaces().place(spec_for("w1").resources, {}, {}, 0.0)
    stranger = SmallDocuments().pod(spec_for("w1"), place, None)  # type: ignore[arg-type]
    stranger["metadata"]["labels"].pop("queue-engine/worker")
    await kube.create_pod(stranger)
    backend = KubernetesBackend({"here": lambda: kube}, OPTIONS, SmallDocuments(), FirstPlaces())
    await backend.observe()
    await until(lambda: all(one.done() for one in backend._sweeps.values()) and backend._sweeps)
    assert (kube.calls["create_anchor"], kube.deletions) == (0, [])
    await backend.aclose(0)


def test_the_controller_says_whether_it_leads_from_its_beginning_on(kube: FakeKube) -> None:
    backend = KubernetesBackend({"here": lambda: kube}, OPTIONS, SmallDocuments(), FirstPlaces())
    config = ControllerConfig("c1", "redis://unused", 1.0, 1, 1.0, 1.0)
    controller = Controller(config, MagicMock(), backend, MagicMock())
    assert not backend.leads()
    controller._leads_until = math.inf
    assert backend.leads()


async def test_a_start_during_which_the_leadership_was_lost_can_be_repeated(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", replace(refusals_module.CREATE, first_seconds=0.05))
    kube.refusals["create_pod"] = [KubeError(500, "etcd is slow")]
    backend.leads = lambda: not kube.calls["create_pod"]
    await backend.start(spec_for("w1"))

    async def is_forgotten() -> bool:
        return await backend.observe() == {}

    await wait_until_async(is_forgotten, timeout=10)
    backend.leads = lambda: True
    await backend.start(spec_for("w1", run=2))
    assert (await seen(backend, "w1", Phase.RUNNING)).run == 2
    assert list(kube.pods) == ["qe-w1-2"]


async def test_a_later_run_removes_the_pod_of_the_earlier_one_first(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.end(POD, "main", exitCode=3)
    await seen(backend, "w1", Phase.ENDED, "container exited with status 3")
    await backend.start(spec_for("w1", run=2))
    assert (await seen(backend, "w1", Phase.RUNNING)).run == 2
    assert list(kube.pods) == ["qe-w1-2"]


async def test_a_start_waits_for_its_turn_where_no_cluster_takes_it(
    backend: KubernetesBackend, kube: FakeKube, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing_module, "PLACE_SECONDS", 0.05)
    places.later = "waits for its turn: the cluster has its limit of 1 worker"
    await backend.start(spec_for("w1"))
    await seen(backend, "w1", Phase.WAITING, "waits for its turn")
    places.later = None
    await seen(backend, "w1", Phase.RUNNING)
    await backend.start(spec_for("w2"))
    await seen(backend, "w2", Phase.RUNNING)
    assert places.load["here"].pods == 1


async def test_an_error_of_the_choice_of_a_place_ends_its_start_and_no_other(
    backend: KubernetesBackend, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.observe()
    place = places.place

    def fail_once(*arguments: Any) -> Any:
        monkeypatch.setattr(places, "place", place)
        raise ZeroDivisionError

    monkeypatch.setattr(places, "place", fail_once)
    await backend.start(spec_for("w1"))
    await backend.start(spec_for("w2"))
    await seen(backend, "w1", Phase.ENDED, "an error of the controller")
    await seen(backend, "w2", Phase.RUNNING)


@pytest.mark.parametrize("status", [0, 401, 409, 500, 503])
async def test_a_start_that_is_refused_for_a_passing_reason_waits_and_takes_no_place_of_others(
    backend: KubernetesBackend, kube: FakeKube, status: int
) -> None:
    kube.refusals["create_pod"] = [KubeError(status, "failed calling webhook")] * 100
    await backend.start(spec_for("w1"))
    one = await seen(backend, "w1", Phase.WAITING, "the cluster does not take it yet: failed calling webhook")
    assert one.retry_helps
    kube.refusals.clear()
    await seen(backend, "w1", Phase.RUNNING)


async def test_a_credential_that_the_cluster_refuses_fails_no_worker(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "CREATE", Backoff(0.05, 0.05))
    kube.refusals["create_secret"] = [KubeError(401, "Unauthorized", reason="Unauthorized")]
    assert (await running(backend)).run == 1


async def test_a_start_is_stopped_before_its_pod_exists(
    backend: KubernetesBackend, kube: FakeKube, places: FirstPlaces
) -> None:
    places.later = "waits for its turn"
    await backend.start(spec_for("w1"))
    await backend.stop("w1", 10)
    assert await backend.observe() == {}
    places.later = None
    kube.held["create_pod"] = asyncio.Event()
    await backend.start(spec_for("w2"))
    await until(lambda: kube.pods)
    stopping = asyncio.create_task(backend.stop("w2", 0))
    await asyncio.sleep(0)
    kube.held.pop("create_pod").set()
    await stopping
    assert left(kube) == []


# Reasons


async def test_a_worker_without_a_node_waits_and_its_resource_is_skipped(kube: FakeKube, places: FirstPlaces) -> None:
    kube.has_node = False
    there = FakeKube()
    backend = backend_of({"here": kube, "there": there}, places)
    card, other = Resource("here", "NVIDIA L4", 2), Resource("there", "NVIDIA L4", 2)
    await backend.start(spec_for("w1", resources=(card, other)))
    await until(lambda: POD in kube.pods)
    kube.make_unschedulable(POD, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    reason = "waits for 2 × NVIDIA L4: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    assert (await seen(backend, "w1", Phase.WAITING)).reason == reason
    await backend.start(spec_for("w2", resources=(card, other)))
    await seen(backend, "w2", Phase.RUNNING)
    assert list(there.pods) == ["qe-w2-1"]
    assert places.load["here"].waiting == 1
    kube.run(POD)
    await seen(backend, "w1", Phase.RUNNING)
    await backend.start(spec_for("w3", resources=(card, other)))
    await until(lambda: "qe-w3-1" in kube.pods)
    await backend.aclose(0)


@pytest.mark.parametrize(
    "message",
    ["1 Insufficient cpu.", "1 node(s) didn't match Pod's node affinity.", "1 Insufficient nvidia.com/gpu.x."],
)
async def test_an_endpoint_that_no_node_can_take_takes_no_resource_from_others(
    backend: KubernetesBackend, kube: FakeKube, places: FirstPlaces, message: str
) -> None:
    kube.has_node = False
    cards = (Resource("here", "NVIDIA L4", 1), Resource("here", "NVIDIA A100", 1))
    await backend.start(spec_for("w1", resources=cards))
    await until(lambda: POD in kube.pods)
    kube.make_unschedulable(POD, f"0/1 nodes are available: {message}")
    await seen(backend, "w1", Phase.WAITING)
    kube.has_node = True
    await backend.start(spec_for("w2", resources=cards))
    await seen(backend, "w2", Phase.RUNNING)
    assert (set(places.recent), backend._workers["w2"].pod.resource) == ({cards[0]}, cards[1])  # type: ignore[union-attr]
    await backend.start(spec_for("w3", endpoint_id="8", resources=cards))
    await seen(backend, "w3", Phase.RUNNING)
    assert (places.recent, backend._workers["w3"].pod.resource) == ({}, cards[0])  # type: ignore[union-attr]


async def test_the_cause_of_a_failed_pull_stays_while_the_node_waits_for_the_next_try(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    kube.has_node = False
    await backend.start(spec_for("w1"))
    await until(lambda: POD in kube.pods)
    kube.block(POD, "ErrImagePull", "dial tcp 10.0.0.1:443: connection refused")
    reason = "the image cannot be pulled: dial tcp 10.0.0.1:443: connection refused"
    await seen(backend, "w1", Phase.STARTING, reason)
    kube.block(POD, "ImagePullBackOff", 'Back-off pulling image "x"')
    await until(lambda: backend._workers["w1"].pod.main.reason == "ImagePullBackOff")  # type: ignore[union-attr]
    assert (await seen(backend, "w1", Phase.STARTING)).reason == reason


async def test_the_cluster_is_asked_for_warnings_only_about_a_start_that_takes_long(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.has_node = False
    await backend.start(spec_for("w1"))
    await until(lambda: POD in kube.pods)
    kube.events[kube.pods[POD]["metadata"]["uid"]] = [
        {"type": "Normal", "lastTimestamp": now_text(9), "message": "Successfully assigned"},
        {"type": "Warning", "lastTimestamp": now_text(1), "message": 'secret "of-the-operator" not found'},
        {"type": "Warning", "lastTimestamp": now_text(), "message": "older"},
        {"type": "Warning", "lastTimestamp": now_text(2), "message": "Error: ImagePullBackOff"},
    ]
    kube.block(POD, "ContainerCreating")
    await seen(backend, "w1", Phase.STARTING)
    assert kube.calls["list_events"] == 0
    monkeypatch.setattr(worker_module, "WARNING_SECONDS", 0.0)
    monkeypatch.setattr(worker_module, "REASON_SECONDS", 0.0)
    await seen(backend, "w1", Phase.STARTING, 'secret "of-the-operator" not found')
    assert kube.calls["list_events"] == 1


async def test_a_reason_that_changes_often_is_shown_after_a_pause(backend: KubernetesBackend, kube: FakeKube) -> None:
    kube.has_node = False
    await backend.start(spec_for("w1"))
    await until(lambda: POD in kube.pods)
    kube.make_unschedulable(POD, "first")
    assert "first" in str((await seen(backend, "w1", Phase.WAITING)).reason)
    kube.make_unschedulable(POD, "second")
    await until(lambda: backend._workers["w1"].pod.scheduled.message == "second")  # type: ignore[union-attr]
    assert "first" in str((await seen(backend, "w1", Phase.WAITING)).reason)
    kube.run(POD)
    assert (await seen(backend, "w1", Phase.RUNNING)).reason is None


async def test_values_of_variables_are_masked_in_reasons(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.end(POD, "main", exitCode=128, reason="StartError", message="exec: canary-5e1f: not found")
    reason = "the container cannot be started: exec: ***: not found"
    assert (await seen(backend, "w1", Phase.ENDED)).reason == reason


# Ends


async def test_a_stop_gives_the_pod_its_grace_period_and_leaves_nothing(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    await running(backend, "w2")
    await backend.stop("w1", 300)
    assert kube.deletions == [(POD, 302)]
    assert left(kube) == ["qe-w2-1", "qe-env-7-1", "qe-agent-w2-1"]
    await backend.kill("w2")
    assert kube.deletions[1:] == [("qe-w2-1", 1)]
    assert left(kube) == []
    assert await backend.observe() == {}


async def test_only_the_pod_with_the_known_uid_is_ended(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.pods[POD]["metadata"]["uid"] = "of-another-pod"
    stopping = asyncio.create_task(backend.stop("w1", 0))
    await until(lambda: kube.deletions)
    assert POD in kube.pods
    kube.forget_versions()
    await stopping
    assert POD in kube.pods


async def test_a_worker_can_be_killed_while_it_is_being_stopped(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.ignores_shorter_ends = True
    stopping = asyncio.create_task(backend.stop("w1", 600))
    await seen(backend, "w1", Phase.ENDING)
    kube.ignores_shorter_ends = False
    await backend.kill("w1")
    await stopping
    assert kube.deletions == [(POD, 602), (POD, 1)]


async def test_a_shorter_end_that_an_old_node_does_not_notice_is_forced(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_module, "CONFIRM_SECONDS", 0.1)
    monkeypatch.setattr(ending_module, "LOOK_SECONDS", 0.1)
    await running(backend)
    kube.ignores_shorter_ends = True
    stopping = asyncio.create_task(backend.stop("w1", 600))
    await until(lambda: kube.deletions)
    await backend.kill("w1")
    await stopping
    assert kube.deletions == [(POD, 602), (POD, 1), (POD, 0)]


async def test_a_pod_whose_containers_have_ended_is_removed_before_its_node_has_cleaned_up(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    kube.ignores_shorter_ends = True
    stopping = asyncio.create_task(backend.stop("w1", 600))
    await until(lambda: kube.deletions)
    kube.end(POD, "main", exitCode=143)
    kube.set_status(POD, phase="Failed")  # as kubelets report it, some of them without the state of the agent
    await stopping
    assert kube.deletions == [(POD, 602), (POD, 0)]
    assert left(kube) == []


async def test_a_kill_that_a_node_does_not_confirm_is_not_forced(
    backend: KubernetesBackend, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_module, "CONFIRM_SECONDS", 0.05)
    monkeypatch.setattr(ending_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(backend_module, "STOP_MARGIN_SECONDS", 0.5)
    await running(backend)
    kube.ignores_shorter_ends = True
    with pytest.raises(EndNotConfirmed):
        await backend.kill("w1")
    assert kube.deletions == [(POD, 1)]
    assert "w1" in (await backend.observe() or {})


@pytest.mark.parametrize("ends_workers", [True, False])
async def test_the_end_of_the_workers_with_their_controller_leaves_no_secret_of_a_deleted_pod(
    kube: FakeKube, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch, ends_workers: bool
) -> None:
    monkeypatch.setattr(backend_module, "STOP_MARGIN_SECONDS", 0.1)
    backend = backend_of({"here": kube}, places, options=replace(OPTIONS, ends_workers=ends_workers))
    await running(backend)
    await backend.start(spec_for("w2", endpoint_id="8"))
    await seen(backend, "w2", Phase.RUNNING)
    kube.ignores_shorter_ends = True
    with pytest.raises(EndNotConfirmed):
        await backend.kill("w1")
    await until(lambda: backend._clusters["here"].watch.pods[POD].is_deleted)
    await backend.aclose(0)
    of_others = ["qe-env-8-1", "qe-agent-w2-1"]
    assert list(kube.secrets) == ([] if ends_workers else ["qe-env-7-1", "qe-agent-w1-1"]) + of_others


async def test_a_lost_node_is_an_end_and_its_pod_is_removed_by_force_much_later(
    backend: KubernetesBackend, kube: FakeKube, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(ending_module, "CONFIRM_SECONDS", -3.0)
    monkeypatch.setattr(backend_module, "STOP_MARGIN_SECONDS", 0.3)
    await running(backend)
    kube.ignores_shorter_ends = True
    kube.set_status(POD, conditions=[*kube.pods[POD]["status"]["conditions"], {"type": "Ready", "status": "False"}])
    kube.delete_by_hand(POD, 30)  # as the node controller does after its mark
    await seen(backend, "w1", Phase.ENDING, "deleted by somebody else")
    clock.ahead = 30 + 61
    one = await seen(backend, "w1", Phase.ENDED, "the node is lost")
    assert one.retry_helps
    with pytest.raises(EndNotConfirmed):
        await backend.stop("w1", 0)
    assert (POD, 0) not in kube.deletions
    clock.ahead = 30 + 301
    await backend.stop("w1", 0)
    assert kube.deletions[-1] == (POD, 0)
    assert left(kube) == []


async def test_a_pod_that_was_deleted_by_hand_on_a_slow_node_is_an_end_without_a_lost_node(
    backend: KubernetesBackend, kube: FakeKube, clock: Clock
) -> None:
    await running(backend)
    kube.ignores_shorter_ends = True
    kube.delete_by_hand(POD, 30)
    await seen(backend, "w1", Phase.ENDING, "deleted by somebody else")
    clock.ahead = 30 + 61
    one = await seen(backend, "w1", Phase.ENDED, "deleted by somebody else; its node has not confirmed the end")
    assert one.retry_helps


async def test_a_controller_whose_clock_is_ahead_takes_no_pod_that_is_ending_as_lost(
    backend: KubernetesBackend, kube: FakeKube, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_module, "LOOK_SECONDS", 0.05)
    await running(backend)
    kube.ignores_shorter_ends = True
    clock.ahead, kube.clock_ahead_ms = 3600, -3_600_000
    kube.delete_by_hand(POD, 30)
    await seen(backend, "w1", Phase.ENDING, "deleted by somebody else")
    stopping = asyncio.create_task(backend.stop("w1", 600))
    await until(lambda: kube.deletions)
    assert (POD, 0) not in kube.deletions
    clock.ahead += 30 + 61
    kube.remove(POD)
    await stopping
    assert (POD, 0) not in kube.deletions


async def test_a_kill_long_after_the_beginning_of_a_drain_is_not_taken_as_a_lost_node(
    backend: KubernetesBackend, kube: FakeKube, clock: Clock
) -> None:
    await running(backend)
    kube.ignores_shorter_ends = True
    stopping = asyncio.create_task(backend.stop("w1", 600))
    await seen(backend, "w1", Phase.ENDING)
    clock.ahead = 500
    killing = asyncio.create_task(backend.kill("w1"))
    await until(lambda: len(kube.deletions) == 2)
    assert (await seen(backend, "w1", Phase.ENDING)).reason is None
    kube.remove(POD)
    await asyncio.gather(stopping, killing)
    assert kube.deletions == [(POD, 602), (POD, 1)]


async def test_a_pod_deleted_by_hand_is_an_end_with_its_reason(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.delete_by_hand(POD)
    one = await seen(backend, "w1", Phase.ENDED, "deleted by somebody else")
    assert (one.run, one.retry_helps) == (1, True)
    await backend.stop("w1", 0)
    assert await backend.observe() == {}
    assert left(kube) == []


async def test_the_output_is_read_before_the_pod_is_deleted(backend: KubernetesBackend, kube: FakeKube) -> None:
    read: list[tuple[str, int, bool]] = []

    async def before_removal(worker_id: str, run: int) -> None:
        read.append((worker_id, run, bool(kube.deletions)))

    backend.before_removal = before_removal
    await running(backend)
    kube.end(POD, "main", exitCode=3)
    await seen(backend, "w1", Phase.ENDED)
    await backend.stop("w1", 0)
    assert read == [("w1", 1, False)]


async def test_an_agent_that_has_ended_leaves_its_container_little_time(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    kube.end(POD, "agent", exitCode=137)
    await seen(backend, "w1", Phase.ENDED, "agent killed by signal 9")
    await backend.stop("w1", 600)
    assert kube.deletions == [(POD, ending_module.MAIN_STOP_SECONDS)]


async def test_workers_are_unknown_while_the_cluster_does_not_respond(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    kube.is_away = True
    kube._tell()
    await seen(backend, "w1", Phase.UNKNOWN, "the cluster does not respond")
    with pytest.raises(KubeUnavailable):
        await backend.kill("w1")
    kube.is_away = False
    assert (await seen(backend, "w1", Phase.RUNNING)).run == 1
    await backend.kill("w1")
    assert left(kube) == []


async def test_a_cluster_that_asks_to_wait_is_not_said_to_be_silent(
    kube: FakeKube, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RECONNECT", Backoff(0.05, 0.05))
    backend = backend_of({"here": kube}, places)
    await running(backend)
    for method in ("list_pods", "watch_pods"):
        kube.refusals[method] = [KubeError(429, "slow down", retry_after_seconds=0.05) for _ in range(10_000)]
    kube.forget_versions()
    asking = "has too many requests and asks to wait"
    await seen(backend, "w1", Phase.UNKNOWN, f"the cluster {asking}")
    assert str(backend.problem) == f"the cluster {asking}"
    await backend.start(spec_for("w2"))
    await until(lambda: places.load and places.load["here"].outage == asking)
    await backend.aclose(0)
    await backend.observe()
    await until(lambda: str(backend.problem) == f"the cluster {asking}")
    assert [backend.unlisted_reason(one) for one in ([HERE], None)] == [
        f"waits for the cluster of here, which {asking}",
        f"a cluster {asking}",
    ]
    kube.refusals.clear()
    await seen(backend, "w1", Phase.RUNNING)
    assert backend.problem is None
    await backend.aclose(0)


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_a_cluster_that_refuses_to_list_its_pods_is_not_said_to_be_silent(
    kube: FakeKube, places: FirstPlaces, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(watch_module, "RECONNECT", Backoff(0.05, 0.05))
    backend = backend_of({"here": kube}, places)
    await running(backend)
    for method in ("list_pods", "watch_pods"):
        kube.refusals[method] = [KubeError(status, "no") for _ in range(10_000)]
    kube.forget_versions()
    await seen(backend, "w1", Phase.UNKNOWN, "the cluster does not list its pods: no")
    assert str(backend.problem) == "the cluster does not list its pods: no"
    await backend.aclose(0)


# Controllers that come and go


async def test_the_next_controller_adopts_the_pods(kube: FakeKube, places: FirstPlaces) -> None:
    first = backend_of({"here": kube}, places)
    before = await running(first)
    await first.aclose(10)
    await first.aclose(10)
    second = backend_of({"here": kube}, places)
    assert await seen(second, "w1", Phase.RUNNING) == before
    await second.start(spec_for("w1", environment={}))
    assert (kube.calls["create_pod"], kube.deletions) == (1, [])
    await second.stop("w1", 10)
    assert left(kube) == []
    await second.aclose(0)


async def test_secrets_that_a_killed_controller_has_left_are_removed_by_the_second_sweep(
    kube: FakeKube, places: FirstPlaces
) -> None:
    documents = SmallDocuments()
    place = places.place(spec_for("w0").resources, {}, {}, 0.0)
    for secret in documents.secrets(spec_for("w0"), place, None):  # type: ignore[arg-type]
        await kube.create_secret(secret)
    backend = backend_of({"here": kube}, places, options=replace(OPTIONS, resync_seconds=1.0))
    await running(backend)
    assert "qe-agent-w0-1" in kube.secrets
    await until(lambda: "qe-agent-w0-1" not in kube.secrets)
    assert kube.calls["list_secrets"] >= 2
    assert left(kube) == [POD, "qe-env-7-1", "qe-agent-w1-1"]
    await backend.aclose(0)


async def test_a_sweep_removes_pods_of_earlier_runs_and_those_that_are_no_worker(
    kube: FakeKube, places: FirstPlaces
) -> None:
    place = places.place(spec_for("w1").resources, {}, {}, 0.0)
    for run in (1, 2):
        await kube.create_pod(SmallDocuments().pod(spec_for("w1", run=run), place, None))  # type: ignore[arg-type]
    stranger = SmallDocuments().pod(spec_for("w3"), place, None)  # type: ignore[arg-type]
    stranger["metadata"]["labels"].pop("queue-engine/worker")
    await kube.create_pod(stranger)
    backend = backend_of({"here": kube}, places)
    await backend.observe()
    await until(lambda: list(kube.pods) == ["qe-w1-2"])
    assert (await seen(backend, "w1", Phase.RUNNING)).run == 2
    await backend.aclose(0)


async def test_a_secret_that_is_just_being_removed_is_made_again_for_the_next_worker(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    kube.held["delete_secret"] = asyncio.Event()
    stopping = asyncio.create_task(backend.stop("w1", 0))
    await until(lambda: kube.calls["delete_secret"])
    await backend.start(spec_for("w2"))
    await until(lambda: kube.calls["list_pods"])
    kube.held.pop("delete_secret").set()
    await stopping
    await seen(backend, "w2", Phase.RUNNING)
    assert left(kube) == ["qe-w2-1", "qe-env-7-1", "qe-agent-w2-1"]


async def test_a_missing_owner_is_made_and_owns_all_pods(
    backend: KubernetesBackend, kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.has_anchor = False
    await running(backend)
    assert kube.has_anchor
    assert kube.pods[POD]["metadata"]["ownerReferences"] == [{"uid": "uid-of-the-anchor"}]
    assert "there is no ConfigMap queue-engine-anchor" in caplog.text


@pytest.mark.parametrize(
    ("made_by", "ends_workers", "is_left"),
    [(INSTANCE, True, False), (INSTANCE, False, True), ("", True, True), ("another", True, True)],
)
async def test_the_owner_that_an_installation_has_made_ends_with_its_workers(
    kube: FakeKube, places: FirstPlaces, made_by: str, ends_workers: bool, is_left: bool
) -> None:
    kube.has_anchor, kube.anchor_instance = made_by != INSTANCE, made_by
    backend = backend_of({"here": kube}, places, options=replace(OPTIONS, ends_workers=ends_workers))
    await running(backend)
    await backend.stop("w1", 0)
    await backend.aclose(0)
    assert kube.has_anchor is is_left


async def test_the_owner_stays_while_it_owns_a_pod_of_any_installation(kube: FakeKube, places: FirstPlaces) -> None:
    kube.has_anchor = False
    options = replace(OPTIONS, ends_workers=True)
    first = backend_of({"here": kube}, places, options=options)
    await running(first)
    of_another = SmallDocuments().pod(spec_for("w3"), places.place((HERE,), {}, {}, 0.0), None)  # type: ignore[arg-type]
    of_another["metadata"]["labels"]["queue-engine/instance"] = "another"
    await kube.create_pod(of_another)
    await first.stop("w1", 0)
    await first.aclose(0)
    assert kube.has_anchor
    kube.remove("qe-w3-1")
    second = backend_of({"here": kube}, places, options=options)
    await wait_until_async(lambda: is_observed(second), timeout=30)
    await second.aclose(0)
    assert not kube.has_anchor


async def test_without_the_right_to_make_an_owner_workers_have_none(
    backend: KubernetesBackend, kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.has_anchor = kube.may_make_anchor = False
    await running(backend)
    assert kube.pods[POD]["metadata"]["ownerReferences"] == []
    assert "workers have no owner" in caplog.text


# Output


async def test_the_output_of_a_worker_is_read_until_its_container_has_ended(
    backend: KubernetesBackend, kube: FakeKube
) -> None:
    await running(backend)
    kube.output[POD] = [b"2026-11-28T14:03:07.5Z first\n2026-11-28T14:03:0", b"8Z second\n"]
    kube.end(POD, "main")
    await seen(backend, "w1", Phase.ENDED)
    assert [entry.data async for entry in backend.follow("w1", 1, 0)] == [b"first\n", b"second\n"]
    with pytest.raises(BackendError, match="does not exist"):
        await anext(backend.follow("w1", 2, 0))


async def test_output_that_ends_before_its_container_is_an_error(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue_engine.backends.kubernetes.output.END_SECONDS", 0.05)
    await running(backend)
    with pytest.raises(BackendError, match="has ended the stream"):
        await anext(backend.follow("w1", 1, 0))


async def test_the_variables_of_a_worker_are_those_of_its_secret(backend: KubernetesBackend, kube: FakeKube) -> None:
    await running(backend)
    kube.secrets["qe-env-7-1"]["data"] = {"KEY": "Y2FuYXJ5LTVlMWY="}
    assert await backend.environment("w1", 1) == {"KEY": "canary-5e1f"}
    del kube.secrets["qe-env-7-1"]
    with pytest.raises(BackendError, match="qe-env-7-1 does not exist"):
        await backend.environment("w1", 1)
