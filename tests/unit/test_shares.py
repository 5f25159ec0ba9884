"""How tenants share the slots of a delivery process. Times are plain numbers; nothing waits."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from queue_engine.delivery.breaker import BreakerLimits
from queue_engine.delivery.lanes import MAX_POSTPONED, POSTPONED_EACH, Kind, LaneLimits, Turn
from queue_engine.delivery.shares import ShareLimits, Shares
from tests.examples import examples
from tests.simulated_deliveries import CROWDS, Crowd, Receiver, Simulation, beside, percentile

LIMITS = ShareLimits()
SLOTS = 256


def made(limits: ShareLimits = LIMITS) -> Shares[int]:
    return Shares(limits)


def start_all(shares: Shares[int], now: float = 0.0) -> list[Turn[int]]:
    turns = []
    while (turn := shares.next(now)) is not None:
        turns.append(turn)
    return turns


def make_trusted(shares: Shares[int], tenant: str, destinations: int) -> None:
    """Deliver one item to each of some destinations of a tenant."""
    for number in range(destinations):
        shares.add(tenant, f"{tenant}{number}", -1)
        for turn in start_all(shares):
            shares.finished(turn, 0.0, None)
    assert shares.take_deferred(0.0) == []


def fill(shares: Shares[int], tenant: str, destinations: int, each: int = 100) -> None:
    for number in range(destinations):
        for item in range(each):
            shares.add(tenant, f"{tenant}{number}", item)


def held(turns: list[Turn[int]]) -> Counter[str]:
    return Counter(turn.tenant for turn in turns)


# Slots


def test_no_tenant_takes_the_last_slots_and_another_gets_them() -> None:
    shares = made()
    make_trusted(shares, "a", 20)
    fill(shares, "a", 20)
    assert len(start_all(shares)) <= LIMITS.slots_each == 244
    fill(shares, "b", 1)
    assert held(start_all(shares))["b"] >= 8


@pytest.mark.parametrize("tenants", [2, 5, 10, 40])
def test_a_slot_is_left_for_a_tenant_without_one(tenants: int) -> None:
    shares = made()
    names = [f"t{number:02}-" for number in range(tenants)]
    for name in names:
        make_trusted(shares, name, 5)
    for name in names:
        fill(shares, name, 5)
    counts = held(start_all(shares))
    assert len(counts) == tenants
    assert max(counts.values()) - min(counts.values()) <= 2
    assert shares.in_flight < SLOTS
    shares.add("late", "late", 1)
    assert held(start_all(shares)) == {"late": 1}


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8, 16])
def test_few_slots_are_enough_for_every_tenant(slots: int) -> None:
    shares = made(ShareLimits(slots=slots))
    for tenant in "abc":
        shares.add(tenant, tenant, 1)
    served = []
    while shares.waiting:
        turn = shares.next(0.0)
        assert turn is not None
        served.append(turn.tenant)
        shares.finished(turn, 0.0, None)
    assert served == ["a", "b", "c"]


def test_what_is_known_of_a_destination_is_known_of_one_tenant_only() -> None:
    shares = made()
    for _ in range(5):
        shares.add("a", "http://shared", 1)
        [turn] = start_all(shares)
        shares.finished(turn, 0.0, "read_timeout")
    shares.add("a", "http://shared", 1)
    shares.add("b", "http://shared", 1)
    assert held(start_all(shares)) == {"b": 1}
    of_a = shares.lanes_of("a")
    assert of_a is not None
    assert of_a.kind_of("http://shared") is Kind.PARKED


def test_a_tenant_that_has_nothing_to_send_now_is_asked_again_when_that_may_have_changed() -> None:
    shares = made()
    for number in range(64):
        shares.add("a", f"hangs{number}", 1)
    assert len(start_all(shares, 0.0)) == 64
    shares.add("a", "next", 1)
    assert shares.next(1.9) is None
    assert shares.changes_at() == 2.0
    turn = shares.next(2.0)
    assert turn is not None
    assert turn.destination == "next"


# Room


def test_a_tenant_that_fills_its_room_takes_none_of_another() -> None:
    shares = made(ShareLimits(items=100, items_each=40))
    fill(shares, "a", 1, 100)
    assert len(shares.take_deferred(0.0)) == 60
    shares.add("b", "b", 1)
    assert shares.take_deferred(0.0) == []
    assert (shares.waiting, shares.has_room("a"), shares.has_room("b")) == (41, False, True)


def test_a_tenant_with_few_items_has_room_while_others_fill_the_memory() -> None:
    shares = made(ShareLimits(items=1000, items_each=400))
    for tenant in "abc":
        fill(shares, tenant, 4, 100)
    shares.take_deferred(0.0)
    assert shares.waiting > 750
    assert [shares.has_room(tenant) for tenant in ("a", "b", "c", "victim")] == [False, False, False, True]
    fill(shares, "victim", 1, 100)
    assert "victim" not in {one.tenant for one in shares.take_deferred(0.0)}
    assert shares.has_room("victim"), "a quarter of the room is its own, and half of that is free"
    fill(shares, "victim", 1, 50)
    assert not shares.has_room("victim")
    assert shares.waiting <= 1000


def test_many_tenants_stay_within_the_limit_of_all() -> None:
    shares = made(ShareLimits(items=1000, items_each=400))
    for number in range(20):
        fill(shares, f"t{number}", 4, 100)
        assert shares.waiting <= 1000
    deferred = shares.take_deferred(0.0)
    assert shares.waiting + len(deferred) == 20 * 400
    assert {one.parked for one in deferred} == {False}
    assert {one.tenant for one in deferred} == {f"t{number}" for number in range(20)}


def test_known_destinations_and_tenants_are_limited() -> None:
    shares = made(ShareLimits(items=10, histories=500))
    for number in range(3000):
        shares.add(f"t{number % 1500}", f"d{number}", 1)
        for turn in start_all(shares, float(number) / 1e6):
            shares.finished(turn, float(number) / 1e6, "read_timeout")
        shares.take_deferred(0.0)
    assert shares.destinations <= 510
    assert shares.tenants <= 1000


def test_a_tenant_is_forgotten_when_nothing_was_heard_of_it_for_long() -> None:
    shares = made()
    make_trusted(shares, "a", 3)
    shares.add("b", "b", 1)
    [turn] = start_all(shares, 900.0)
    shares.finished(turn, 900.0, None)
    assert (shares.tenants, shares.destinations) == (1, 1)


def test_draining_takes_out_all_that_is_not_in_flight() -> None:
    shares = made(ShareLimits(items_each=3))
    fill(shares, "a", 1, 5)
    fill(shares, "b", 1, 2)
    turn = shares.next(0.0)
    assert turn is not None
    assert len(shares.drain()) == 6
    assert (shares.waiting, shares.next(0.0)) == (0, None)
    shares.finished(turn, 1.0, None)
    assert shares.in_flight == 0


# Simulated: a healthy receiver beside the crowd of another tenant


@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: crowd.name)
def test_a_healthy_receiver_is_not_delayed_by_another_tenant(crowd: Crowd) -> None:
    world = beside(crowd)
    assert world.delivered["good"] == len(world.waits["good"]) == 1500
    assert percentile(world.waits["good"], 0.99) <= 0.5
    assert world.most_in_flight <= SLOTS
    assert world.waits["crowd"]


def test_a_healthy_tenant_gets_its_share_beside_a_hundred_slow_tenants() -> None:
    slow = {f"slow{number}": Receiver(1.9) for number in range(100)}
    world = Simulation({**slow, "healthy": Receiver(0.01)})
    for name in slow:
        world.submit(name, name, 0.0, 100)
    for number in range(1000):
        world.submit("good", "healthy", 5 + number / 50)
    world.run(30.0)
    assert world.delivered["good"] == 1000
    assert percentile(world.waits["good"], 0.99) <= 0.5


@pytest.mark.parametrize(("receivers", "seconds"), [(10, 0.05), (10, 1.0), (400, 1.9)])
def test_a_tenant_that_is_alone_reaches_nine_tenths_of_the_rate(receivers: int, seconds: float) -> None:
    names = {f"r{number}": Receiver(seconds, None, "net") for number in range(receivers)}
    world = Simulation(names, processes=1)
    for name in names:
        world.submit("alone", name, 0.0, int(30 * SLOTS / receivers))
    world.run(3 * seconds)
    before = world.delivered["alone"]
    world.run(13 * seconds)
    assert (world.delivered["alone"] - before) / (10 * SLOTS) >= 0.9


def test_a_tenant_that_is_heard_of_again_after_its_items_were_deferred_gets_its_turn() -> None:
    shares = made()
    shares.add("a", "a", 1)
    shares.add("b", "b", 1)
    assert sorted(shares.drain()) == [1, 1]
    assert shares.take_deferred(0.0) == []
    shares.add("a", "a", 2)
    turn = shares.next(1e6)
    assert turn is not None
    shares.finished(turn, 1e6, None)  # forgets b
    assert shares.tenants == 1
    shares.add("b", "b", 2)
    assert held(start_all(shares, now=1e6)) == {"b": 1}


# Any order of calls


class SharesMachine(RuleBasedStateMachine):
    """Any order of calls keeps the promises, against a count of the test's own."""

    limits = ShareLimits(
        slots=12, items=30, items_each=15, histories=20,
        lanes=LaneLimits(
            degraded_slots=6, fresh_slots=6, unproven_slots_each=3, trusted_slots_each=8, unproven_items_each=5,
            unproven_slots_of_network=4, breaker=BreakerLimits(opens_after=2, responses_to_recover=2), histories=3,
            history_seconds=50.0,
        ),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.shares: Shares[int] = Shares(self.limits, network_of=dict.fromkeys("abcdef", "net").get)
        self.now = 0.0
        self.added = 0
        self.out: list[int] = []
        self.turns: list[Turn[int]] = []

    @rule(tenant=st.sampled_from("xyz"), destination=st.sampled_from("abcdefghijkl"), count=st.integers(1, 7))
    def add(self, tenant: str, destination: str, count: int) -> None:
        for _ in range(count):
            self.shares.add(tenant, destination, self.added)
            self.added += 1

    @rule(count=st.integers(1, 20))
    def start(self, count: int) -> None:
        for _ in range(count):
            turn = self.shares.next(self.now)
            if turn is not None:
                self.turns.append(turn)
                self.out.append(turn.item)

    @rule(
        data=st.data(),
        error_type=st.sampled_from([None, None, "read_timeout", "reset", "http_5xx", "gone", "internal"]),
        hold_seconds=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
    )
    def finish(self, data: st.DataObject, error_type: str | None, hold_seconds: float) -> None:
        if self.turns:
            turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
            self.shares.finished(turn, self.now, error_type, hold_seconds=hold_seconds)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def defer(self) -> None:
        self.out.extend(one.item for one in self.shares.take_deferred(self.now))

    @rule()
    def drain(self) -> None:
        self.out.extend(self.shares.drain())

    @rule()
    def every_item_gets_its_turn(self) -> None:
        """No tenant is left out of the queue."""
        for turn in self.turns:
            self.shares.finished(turn, self.now, "http_5xx")
        self.turns = []
        self.now += 1000.0
        self.out.extend(one.item for one in self.shares.take_deferred(self.now))
        while self.shares.waiting:
            next_turn = self.shares.next(self.now)
            assert next_turn is not None
            self.out.append(next_turn.item)
            self.shares.finished(next_turn, self.now, "http_5xx")

    @invariant()
    def limits_are_kept(self) -> None:
        assert self.shares.in_flight == len(self.turns) <= self.limits.slots
        assert self.shares.waiting <= self.limits.items
        assert len(self.out) == len(set(self.out))

    def teardown(self) -> None:
        self.out.extend(self.shares.drain())
        assert sorted(self.out) == list(range(self.added))
        for turn in self.turns:
            self.shares.finished(turn, self.now + 1000.0, "http_4xx")
        assert (self.shares.in_flight, self.shares.waiting) == (0, 0)


SharesMachine.TestCase.settings = examples(150, stateful_step_count=60, deadline=None)
TestShares = SharesMachine.TestCase


def test_each_tenants_limits_follow_from_those_of_all() -> None:
    limits = replace(LIMITS, slots=64)
    assert (limits.of_tenant.slots, limits.of_tenant.items) == (limits.slots_each, limits.items_each)


# Destinations with which something is wrong


def break_down(shares: Shares[int], tenant: str, destination: str, *, now: float = 0.0) -> None:
    """Let attempts fail until the destination is parked."""
    while (lanes := shares.lanes_of(tenant)) is None or lanes.kind_of(destination) is not Kind.PARKED:
        shares.add(tenant, destination, 0)
        for turn in start_all(shares, now):
            shares.finished(turn, now, "connect_refused")
        shares.take_deferred(now)


def test_nothing_is_noted_of_destinations_that_respond() -> None:
    shares = made()
    make_trusted(shares, "a", 20)
    fill(shares, "a", 20)
    assert shares.troubles(200) == []


def test_a_parked_destination_is_noted_until_it_responds() -> None:
    shares = made()
    break_down(shares, "a", "x", now=1.0)
    for item in range(3):
        shares.add("a", "x", item)
    assert len(shares.take_deferred(2.0)) == 3
    (trouble,) = shares.troubles(200)
    assert (trouble.tenant, trouble.destination, trouble.kind, trouble.waiting) == ("a", "x", Kind.PARKED, 3)
    assert (trouble.error_type, trouble.failed_at, trouble.since) == ("connect_refused", 1.0, 1.0)
    assert trouble.errors >= 5
    assert trouble.next_probe_at is not None
    now = trouble.next_probe_at
    for number in range(10):
        shares.add("a", "x", number)
        for turn in start_all(shares, now):
            shares.finished(turn, now, None)
    assert shares.troubles(200) == []


def test_a_tenant_with_many_parked_destinations_does_not_hide_those_of_another() -> None:
    shares = made()
    for number in range(20):
        break_down(shares, "a", f"a{number}")
    break_down(shares, "b", "b0")
    assert [one.tenant for one in shares.troubles(5)] == ["a", "b", "a", "a", "a"]


def test_a_pause_that_is_ended_lets_a_probe_start_and_returns_what_was_deferred() -> None:
    shares = made()
    break_down(shares, "a", "x")
    for item in range(3):
        shares.add("a", "x", item)
    deferred = shares.take_deferred(1.0)
    assert start_all(shares, 1.0) == []
    assert shares.resume("b", "x", 1.0) == []
    items = shares.resume("a", "x", 1.0)
    assert items[-3:] == [one.item for one in deferred]
    assert shares.resume("a", "x", 1.0) == []
    for item in items:
        shares.add("a", "x", item)
    assert shares.take_deferred(1.0) == []
    assert [turn.kind for turn in start_all(shares, 1.0)] == [Kind.PARKED]


def test_the_items_that_are_remembered_while_a_destination_is_parked_are_limited() -> None:
    shares = made()
    for number in range(20):
        break_down(shares, "a", f"a{number}")
        for item in range(100):
            shares.add("a", f"a{number}", item)
        shares.take_deferred(1.0)
    kept = [len(shares.resume("a", f"a{number}", 1.0)) for number in range(20)]
    assert max(kept) == POSTPONED_EACH
    assert sum(kept) == MAX_POSTPONED
