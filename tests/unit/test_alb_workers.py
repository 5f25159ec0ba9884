"""Choosing a worker, and remembering which there are."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.api.proxy.workers import LEFT_OUT_SECONDS, Balancer, least_busy
from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, ServiceMode
from queue_engine.domain.errors import NotFound
from queue_engine.domain.principals import Principal, Role
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.engine.upstreams import CACHE_SECONDS, Listing, Listings, Upstream, upstream_of

ENDPOINT = Endpoint(
    endpoint_id="7",
    tenant="mine",
    config=EndpointConfig("web", "none", ServiceMode.ALB, (), 2, 20),
    desired=DesiredState.RUNNING,
    failed=False,
    created_at_ms=0,
    updated_at_ms=0,
)
MINE, ANOTHER = Principal("mine", Role.ADMIN, "k1"), Principal("another", Role.ADMIN, "k2")
ONE, TWO, THREE = (Upstream(f"w{number}", "127.0.0.1", number) for number in (1, 2, 3))
ALL = Listing(ENDPOINT, (ONE, TWO, THREE))
WORKER = Worker("w1", "7", WorkerStatus.RUNNING, 0, True, address="127.0.0.1:8000", running_tasks=3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("address", "host", "port", "origin"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, "http://127.0.0.1:8000"),
        ("[::1]:1", "::1", 1, "http://[::1]:1"),
        ("model-1.ns.svc:65535", "model-1.ns.svc", 65535, "http://model-1.ns.svc:65535"),
    ],
)
def test_an_address_becomes_an_upstream(address: str, host: str, port: int, origin: str) -> None:
    upstream = upstream_of(replace(WORKER, address=address))
    assert upstream == Upstream("w1", host, port, 3)
    assert upstream.origin == origin


@pytest.mark.parametrize(
    "address",
    [None, "", "host", "host:", ":80", "host:0", "host:65536", "host:٣", "a b:80", "a@b:80", "a/b:80", "host:80/x",
     "::1:80", "[::1]", "[x]:80", "host:80\n", "-a:80", "a-:80", "a?b:80", "a#b:80", "a%b:80", "x" * 300 + ":80"],
)  # fmt: skip
def test_what_is_no_address_is_no_upstream(address: str | None) -> None:
    assert upstream_of(replace(WORKER, address=address)) is None


@pytest.mark.parametrize("status", [status for status in WorkerStatus if status is not WorkerStatus.RUNNING])
def test_a_worker_that_does_not_run_is_no_upstream(status: WorkerStatus) -> None:
    assert upstream_of(replace(WORKER, status=status)) is None


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True), st.data(), st.one_of(st.none(), st.integers(0, 9))
)
def test_the_chosen_one_has_the_least_load_and_ties_take_turns(
    numbers: list[int], data: st.DataObject, last: int | None
) -> None:
    upstreams = [Upstream(f"w{number}", "h", 1) for number in numbers]
    loads = {one: data.draw(st.integers(0, 3)) for one in upstreams}
    chosen = least_busy(upstreams, loads.__getitem__, None if last is None else f"w{last}")
    tied = sorted(one.worker_id for one in upstreams if loads[one] == min(loads.values()))
    after = [worker_id for worker_id in tied if last is None or worker_id > f"w{last}"]
    assert chosen.worker_id == (after or tied)[0]


def test_idle_workers_take_turns(clock: Clock) -> None:
    balancer = Balancer(monotonic=clock)
    chosen = Counter(next(balancer.candidates(ALL)).worker_id for _ in range(30))
    assert chosen == {"w1": 10, "w2": 10, "w3": 10}


def test_a_busy_worker_is_chosen_last(clock: Clock) -> None:
    balancer = Balancer(monotonic=clock)
    with balancer.using(ONE), balancer.using(TWO), balancer.using(ONE):
        assert [one.worker_id for one in balancer.candidates(ALL)] == ["w3", "w2", "w1"]
    assert [one.worker_id for one in balancer.candidates(ALL)] == ["w2", "w3", "w1"]


def test_what_a_worker_is_said_to_do_counts_too(clock: Clock) -> None:
    balancer = Balancer(monotonic=clock)
    listing = Listing(ENDPOINT, (replace(ONE, load=2), TWO))
    with balancer.using(TWO):
        assert next(balancer.candidates(listing)) == TWO


def test_a_worker_that_refused_is_left_out_for_a_while(clock: Clock) -> None:
    balancer = Balancer(monotonic=clock)
    balancer.leave_out(TWO)
    assert {one.worker_id for one in balancer.candidates(ALL)} == {"w1", "w3"}
    moved = replace(TWO, port=9)  # started again elsewhere
    assert moved in list(balancer.candidates(Listing(ENDPOINT, (ONE, moved))))
    clock.now += LEFT_OUT_SECONDS
    assert {one.worker_id for one in balancer.candidates(ALL)} == {"w1", "w2", "w3"}


@dataclass
class Stored:
    """The store's endpoints and workers; counts how often it is asked."""

    endpoint: Endpoint | None = ENDPOINT
    workers: list[Worker] = field(default_factory=lambda: [WORKER])
    asked: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.answers.set()

    async def get(self, endpoint_id: str, tenant: str | None) -> Endpoint | None:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return self.endpoint

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]:
        return self.workers


async def test_the_store_is_asked_once_a_second(clock: Clock) -> None:
    stored = Stored()
    listings = Listings(stored, stored, monotonic=clock)
    first = await listings.of(MINE, "7")
    assert first.upstreams == (Upstream("w1", "127.0.0.1", 8000, 3),)
    stored.workers = []
    assert await listings.of(MINE, "7") is first
    assert stored.asked == 1
    clock.now += CACHE_SECONDS
    second = await listings.of(MINE, "7")
    assert second.upstreams == ()
    assert stored.asked == 2


async def test_however_many_ask_the_store_is_asked_once_even_if_the_first_leaves(clock: Clock) -> None:
    stored = Stored()
    stored.answers.clear()
    listings = Listings(stored, stored, monotonic=clock)
    asking = [asyncio.create_task(listings.of(MINE, "7")) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.wait({asking[0]})
    stored.answers.set()
    assert [listing.endpoint for listing in await asyncio.gather(*asking[1:])] == [ENDPOINT] * 9
    assert stored.asked == 1


async def test_another_tenant_sees_nothing_and_an_unknown_endpoint_is_asked_for_again(clock: Clock) -> None:
    stored = Stored()
    listings = Listings(stored, stored, monotonic=clock)
    assert (await listings.of(MINE, "7")).endpoint == ENDPOINT
    with pytest.raises(NotFound):
        await listings.of(ANOTHER, "7")
    stored.endpoint = None
    clock.now += CACHE_SECONDS
    with pytest.raises(NotFound):
        await listings.of(MINE, "7")
    stored.endpoint = ENDPOINT
    assert (await listings.of(MINE, "7")).endpoint == ENDPOINT


async def test_an_error_reaches_all_who_ask_and_is_not_remembered(clock: Clock) -> None:
    stored = Stored(error=LookupError("broken"))
    listings = Listings(stored, stored, monotonic=clock)
    results = await asyncio.gather(*(listings.of(MINE, "7") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 3
    stored.error = None
    assert (await listings.of(MINE, "7")).endpoint == ENDPOINT
