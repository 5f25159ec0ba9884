"""Which delivery is sent next. Times are plain numbers; nothing waits."""

import heapq
from collections import Counter, defaultdict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from queue_engine.delivery.breaker import BreakerLimits
from queue_engine.delivery.lanes import Deferred, Kind, LaneLimits, Lanes, Turn
from tests.examples import examples
from tests.unit.filled_lanes import LIMITS, fail, filled, make_trusted, start, start_all

# Turns


def test_nothing_added_is_nothing_to_send() -> None:
    assert filled({}).next(0.0) is None


def test_items_of_one_destination_keep_their_order() -> None:
    lanes = filled({"a": 5})
    assert [turn.item for turn in start_all(lanes)] == [0, 1, 2, 3, 4]


def test_destinations_are_served_in_turn() -> None:
    lanes = filled({"a": 3, "b": 2, "c": 1})
    assert [turn.destination for turn in start_all(lanes)] == ["a", "b", "c", "a", "b", "a"]


def test_a_destination_with_ten_thousand_items_delays_another_by_one_turn_at_most() -> None:
    lanes = filled({"dead": 10_000}, LaneLimits(unproven_items_each=10_000))
    for now in range(3):
        lanes.finished(start(lanes, now), now, None)
    assert lanes.waiting == 9_997
    lanes.add("new", 1)
    assert "new" in [start(lanes, 3.0).destination, start(lanes, 3.0).destination]


@pytest.mark.parametrize("busy", ["trusted", "fresh", "degraded"])
def test_each_kind_has_its_turn_while_another_is_busy(busy: str) -> None:
    lanes = filled({})
    make_trusted(lanes, "trusted")
    fail(lanes, "degraded", 1)
    for destination in ("trusted", "fresh", "degraded"):
        for number in range(100 if destination == busy else 1):
            lanes.add(destination, number)
    first = [start(lanes).destination for _ in range(4)]
    assert set(first) == {"trusted", "fresh", "degraded"}


def test_a_lane_that_must_wait_keeps_its_turn() -> None:
    lanes = filled({"full": 9, "other": 20}, LaneLimits(fresh_slots=1000))
    turns = start_all(lanes)
    assert Counter(turn.destination for turn in turns) == {"full": 8, "other": 8}
    lanes.finished(next(turn for turn in turns if turn.destination == "other"), 0.0, "http_5xx")
    lanes.finished(next(turn for turn in turns if turn.destination == "full"), 0.0, "http_5xx")
    assert start(lanes).destination == "full"


# Slots


def test_a_fresh_destination_holds_eight_slots() -> None:
    assert len(start_all(filled({"a": 100}))) == 8


def test_fresh_destinations_hold_64_slots_together() -> None:
    assert len(start_all(filled({f"d{n}": 10 for n in range(100)}))) == 64


def test_degraded_destinations_hold_64_slots_together_and_eight_each() -> None:
    lanes = filled({})
    for n in range(100):
        fail(lanes, f"d{n}", 1)
    for n in range(100):
        for number in range(20 if n == 0 else 2):
            lanes.add(f"d{n}", number)
    turns = start_all(lanes)
    assert len(turns) == 64
    lanes = filled({})
    fail(lanes, "a", 1)
    for number in range(20):
        lanes.add("a", number)
    assert len(start_all(lanes)) == 8


def test_one_trusted_destination_leaves_as_many_slots_as_it_takes() -> None:
    lanes = filled({})
    make_trusted(lanes, "a", "b")
    for number in range(500):
        lanes.add("a", number)
    held = len(start_all(lanes))
    assert 100 <= held <= 128
    for number in range(500):
        lanes.add("b", number)
    assert len(start_all(lanes)) >= 50


def test_trusted_destinations_leave_slots_for_fresh_ones() -> None:
    lanes = filled({})
    trusted = [f"t{n}" for n in range(40)]
    make_trusted(lanes, *trusted)
    for destination in trusted:
        for number in range(100):
            lanes.add(destination, number)
    start_all(lanes)
    for n in range(100):
        lanes.add(f"new{n}", 0)
    assert len([turn for turn in start_all(lanes) if turn.destination.startswith("new")]) >= LIMITS.kept_slots


def test_fresh_destinations_that_hang_leave_slots_for_trusted_ones() -> None:
    lanes = filled({})
    make_trusted(lanes, "t", "u", "v")
    for n in range(1000):
        lanes.add(f"new{n}", 0)
    for now in range(0, 15, 3):
        start_all(lanes, float(now))
    assert lanes.in_flight == LIMITS.slots - LIMITS.kept_slots
    for destination in ("t", "u", "v"):
        for number in range(100):
            lanes.add(destination, number)
    assert Counter(turn.destination for turn in start_all(lanes, 14.0)).keys() == {"t", "u", "v"}


def test_fresh_destinations_that_hang_stop_blocking_the_next_ones_after_two_seconds() -> None:
    lanes = filled({f"hanging{n}": 1 for n in range(64)})
    assert len(start_all(lanes, 0.0)) == 64
    lanes.add("healthy", 1)
    assert lanes.next(1.9) is None
    assert lanes.changes_at() == 2.0
    assert start(lanes, 2.0).destination == "healthy"


def test_a_trusted_destination_that_begins_to_hang_does_not_stop_the_other_degraded_ones() -> None:
    lanes = filled({})
    make_trusted(lanes, "big")
    fail(lanes, "other", 1)
    for number in range(500):
        lanes.add("big", number)
    assert len(start_all(lanes, 0.0)) > 64
    lanes.add("other", 1)
    assert start(lanes, 3.0).destination == "other"
    assert lanes.kind_of("big") is Kind.DEGRADED


def test_a_finished_turn_frees_its_slot() -> None:
    lanes = filled({"a": 20})
    turns = start_all(lanes)
    assert lanes.in_flight == 8
    lanes.finished(turns[3], 0.0, "http_5xx")
    assert lanes.in_flight == 7
    assert lanes.next(0.0) is not None
    assert lanes.next(0.0) is None


@pytest.mark.parametrize("slots", [1, 2, 7, 8, 16])
def test_few_slots_are_enough_for_every_kind(slots: int) -> None:
    lanes = filled({}, LaneLimits(slots=slots))
    make_trusted(lanes, "t")
    fail(lanes, "s", 1)
    for destination in ("t", "s", "f"):
        lanes.add(destination, 0)
        lanes.finished(start(lanes), 0.0, "http_4xx")


# Trust


def test_a_delivery_makes_a_fresh_destination_trusted() -> None:
    lanes = filled({"a": 2})
    assert lanes.kind_of("a") is Kind.FRESH
    lanes.finished(start(lanes), 0.0, None)
    assert lanes.kind_of("a") is Kind.TRUSTED


def test_an_attempt_in_flight_for_two_seconds_makes_its_destination_degraded_until_it_ends() -> None:
    lanes = filled({})
    make_trusted(lanes, "a")
    lanes.add("a", 1)
    turn = start(lanes, 10.0)
    lanes.next(11.9)
    assert lanes.kind_of("a") is Kind.TRUSTED
    lanes.next(12.0)
    assert lanes.kind_of("a") is Kind.DEGRADED
    lanes.finished(turn, 13.0, None)
    assert lanes.kind_of("a") is Kind.TRUSTED


# Networks


def in_one_network(items: dict[str, int], limits: LaneLimits = LIMITS) -> Lanes[int]:
    """Return lanes of destinations in one network, except those whose name begins with `other`."""
    lanes: Lanes[int] = Lanes(limits, network_of=lambda name: None if name.startswith("other") else "net")
    for destination, count in items.items():
        for number in range(count):
            lanes.add(destination, number)
    return lanes


def test_fresh_destinations_in_one_network_hold_32_slots_together() -> None:
    lanes = in_one_network({f"port{n}": 10 for n in range(400)})
    assert len(start_all(lanes)) == LIMITS.unproven_slots_of_network == 32
    lanes.add("other", 1)
    assert start(lanes).destination == "other"


def test_degraded_destinations_in_one_network_do_not_block_fresh_ones_there() -> None:
    lanes = in_one_network({f"hangs{n}": 1 for n in range(32)})
    assert len(start_all(lanes, 0.0)) == 32
    lanes.add("port", 1)
    assert lanes.next(1.9) is None
    assert start(lanes, 2.0).destination == "port"


def test_trusted_destinations_in_one_network_leave_slots_for_those_elsewhere() -> None:
    lanes = in_one_network({})
    ports = [f"port{n}" for n in range(400)]
    for first in range(0, 400, 20):
        make_trusted(lanes, *ports[first : first + 20])
    make_trusted(lanes, "other")
    for destination in ports:
        lanes.add(destination, 1)
    assert len(start_all(lanes)) == LIMITS.network_slots
    lanes.add("other", 1)
    assert start(lanes).destination == "other"


def test_a_slot_that_a_full_network_frees_goes_to_a_destination_that_waited() -> None:
    lanes = in_one_network({f"port{n}": 1 for n in range(100)})
    turns = start_all(lanes)
    served = {turn.destination for turn in turns}
    while turns:
        lanes.finished(turns.pop(0), 0.0, "http_5xx")
        more = start_all(lanes)
        served |= {turn.destination for turn in more}
        turns += more
    assert len(served) == 100


def test_a_network_that_becomes_known_counts_what_is_in_flight() -> None:
    known: dict[str, str] = {}
    lanes: Lanes[int] = Lanes(network_of=known.get)
    for n in range(100):
        lanes.add(f"name{n}", 0)
    turns = start_all(lanes)
    assert len(turns) == 64
    known.update({f"name{n}": "net" for n in range(100)})
    for turn in turns:
        lanes.finished(turn, 0.0, "http_5xx")
    assert len(start_all(lanes)) == 36, "those that were looked up are forgotten, and none of the others is known yet"


# Slot time


def test_a_receiver_that_responds_quickly_gets_its_share_beside_many_slow_ones() -> None:
    world = Simulation()
    world.behaviour["quick"] = (0.01, None)  # 20 a second need less slot time than its share
    world.submit(0.0, "quick", 1)
    for n in range(400):
        world.behaviour[f"slow{n}"] = (1.5 + n / 1000, None)
        world.submit(0.0, f"slow{n}", 40)
    for step in range(400):
        world.submit(15.0 + step / 20, "quick", 1)
    world.run(until=37.0)
    waits = sorted(world.waits["quick"])
    assert len(waits) == 401
    assert waits[len(waits) // 2] <= 0.1
    assert waits[-1] <= 1.0, "until a slot is free, and not until 400 others have had a turn"


# Memory


def test_items_beyond_a_lanes_bound_are_deferred() -> None:
    lanes = filled({"a": 5}, LaneLimits(unproven_items_each=3))
    assert lanes.take_deferred(0.0) == [Deferred("a", 3), Deferred("a", 4)]
    assert lanes.waiting == 3


def test_a_trusted_destination_may_hold_all_items() -> None:
    lanes = filled({}, LaneLimits(items=100, unproven_items_each=10))
    make_trusted(lanes, "a")
    for number in range(110):
        lanes.add("a", number)
    assert lanes.waiting == 100
    assert len(lanes.take_deferred(0.0)) == 10


def test_the_longest_lanes_make_room_for_the_others() -> None:
    lanes = filled({}, LaneLimits(items=100))
    make_trusted(lanes, "long")
    for number in range(99):
        lanes.add("long", number)
    for number in range(30):
        lanes.add("other", number)
    deferred = lanes.take_deferred(0.0)
    assert [one.destination for one in deferred] == ["long"] * 29
    assert lanes.waiting == 100
    assert [deferred[0].item, deferred[-1].item] == [98, 70], "the newest first"


def test_there_is_always_room_for_another_destination() -> None:
    lanes = filled({f"dead{n}": 1000 for n in range(200)})
    assert len(lanes.take_deferred(0.0)) == 200_000 - LIMITS.items
    lanes.add("other", 1)
    [deferred] = lanes.take_deferred(0.0)
    assert deferred.destination != "other"


def test_a_destination_of_which_nothing_is_known_is_forgotten_at_once() -> None:
    lanes = filled({"a": 1})
    lanes.finished(start(lanes), 0.0, "http_5xx")
    assert lanes.destinations == 0


def test_a_destination_is_forgotten_when_nothing_was_heard_of_it_for_long() -> None:
    lanes = filled({})
    make_trusted(lanes, "a", now=0.0)
    make_trusted(lanes, "b", now=899.0)
    assert lanes.kind_of("a") is Kind.TRUSTED
    make_trusted(lanes, "c", now=900.0)
    assert (lanes.kind_of("a"), lanes.kind_of("b"), lanes.destinations) == (Kind.FRESH, Kind.TRUSTED, 2)


def test_remembered_destinations_never_exceed_the_limit() -> None:
    lanes = filled({}, LaneLimits(histories=10))
    for n in range(100):
        fail(lanes, f"d{n}", 1, now=float(n))
    assert lanes.destinations == 10
    assert lanes.kind_of("d99") is Kind.DEGRADED


def test_draining_takes_out_all_that_is_not_in_flight() -> None:
    lanes = filled({"a": 4, "b": 1}, LaneLimits(unproven_items_each=3))
    turn = start(lanes)
    assert sorted(lanes.drain()) == [0, 1, 2, 3]
    assert (lanes.waiting, lanes.next(0.0)) == (0, None)
    lanes.finished(turn, 1.0, None)
    assert (lanes.in_flight, lanes.destinations) == (0, 1)


# A day in the life: receivers that answer, hang and refuse, all at once


ROOM_SECONDS = 1.0
"""Time after which an item for which there was no room comes again."""


class Simulation:
    """Plays receivers with a fixed time to answer. Items deferred come again after their delay."""

    def __init__(self) -> None:
        self.lanes: Lanes[float] = Lanes()
        self.behaviour: dict[str, tuple[float, str | None]] = {}
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.most_in_flight = 0
        self._events: list[tuple[float, int, Turn[float] | Deferred[float]]] = []
        self._numbers = iter(range(10_000_000))

    def submit(self, at: float, destination: str, count: int) -> None:
        for _ in range(count):
            self._push(at, Deferred(destination, at, 0.0))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            now, _, event = heapq.heappop(self._events)
            if isinstance(event, Turn):
                self.lanes.finished(event, now, self.behaviour[event.destination][1])
            else:
                self.lanes.add(event.destination, event.item)
            self._start(now)

    def _start(self, now: float) -> None:
        while (turn := self.lanes.next(now)) is not None:
            self.waits[turn.destination].append(now - turn.item)
            self._push(now + self.behaviour[turn.destination][0], turn)
        self.most_in_flight = max(self.most_in_flight, self.lanes.in_flight)
        for deferred in self.lanes.take_deferred(now):
            self._push(now + (deferred.delay_seconds if deferred.parked else ROOM_SECONDS), deferred)

    def _push(self, at: float, event: Turn[float] | Deferred[float]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), event))


HANGS = (15.0, "read_timeout")
REFUSES = (0.001, "connect_refused")
ANSWERS = (0.05, None)


def test_receivers_that_hang_or_refuse_do_not_delay_one_that_responds() -> None:
    world = Simulation()
    for n in range(60):
        world.behaviour[f"hangs{n}"], world.behaviour[f"refuses{n}"] = HANGS, REFUSES
        world.submit(0.0, f"hangs{n}", 50)
        world.submit(0.0, f"refuses{n}", 50)
    world.behaviour["answers"] = ANSWERS
    for second in range(120):
        world.submit(float(second), "answers", 20)
    world.run(until=125.0)
    waits = sorted(world.waits["answers"])
    assert len(waits) == 120 * 20
    assert waits[-1] <= 2.2, "no longer than it takes to see that the others hang"
    assert waits[len(waits) // 2] <= 0.2
    assert world.most_in_flight <= 256


def test_a_receiver_that_begins_to_hang_does_not_delay_one_that_responds() -> None:
    world = Simulation()
    world.behaviour.update({"big": ANSWERS, "answers": ANSWERS})
    for second in range(60):
        world.submit(float(second), "big", 200)
        world.submit(float(second), "answers", 20)
    world.run(until=20.0)
    world.behaviour["big"] = HANGS
    world.run(until=100.0)
    assert len(world.waits["answers"]) == 60 * 20
    assert max(world.waits["answers"]) <= 0.2


def test_a_burst_to_one_receiver_is_sent_as_fast_as_it_responds() -> None:
    world = Simulation()
    world.behaviour["big"] = ANSWERS
    for step in range(100):
        world.submit(step / 50, "big", 300)
    world.run(until=60.0)
    assert len(world.waits["big"]) == 30_000
    assert max(world.waits["big"]) <= 16.0, "100 slots at 50 ms each are 2,000 a second"


def test_a_receiver_that_comes_back_gets_all_that_waited() -> None:
    world = Simulation()
    world.behaviour["a"] = REFUSES
    for _ in range(500):
        world.submit(0.0, "a", 1)
    world.run(until=5.0)
    tries = len(world.waits["a"])
    assert tries < 20, "a parked destination uses up no attempts"
    world.behaviour["a"] = ANSWERS
    world.run(until=60.0)
    assert len(world.waits["a"]) == 500


# Whatever happens


class LanesMachine(RuleBasedStateMachine):
    """Any order of calls keeps the promises, against a count of one's own."""

    limits = LaneLimits(
        slots=16, degraded_slots=6, fresh_slots=6, unproven_slots_each=3, trusted_slots_each=8, items=20,
        unproven_items_each=5, unproven_slots_of_network=4,
        breaker=BreakerLimits(opens_after=2, responses_to_recover=2), histories=3,
        history_seconds=50.0,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        networks = dict.fromkeys("abcdef", "net")
        self.lanes: Lanes[int] = Lanes(self.limits, network_of=networks.get)
        self.now = 0.0
        self.added = 0
        self.out: list[int] = []
        self.turns: list[Turn[int]] = []

    @rule(destination=st.sampled_from("abcdefghijkl"), count=st.integers(1, 7))
    def add(self, destination: str, count: int) -> None:
        for _ in range(count):
            self.lanes.add(destination, self.added)
            self.added += 1

    @rule(count=st.integers(1, 20))
    def start(self, count: int) -> None:
        for _ in range(count):
            turn = self.lanes.next(self.now)
            if turn is not None:
                self._check_start(turn)
                self.turns.append(turn)
                self.out.append(turn.item)

    def _check_start(self, turn: Turn[int]) -> None:
        same = [other for other in self.turns if other.destination == turn.destination]
        if turn.kind is Kind.PARKED:
            assert not any(other.kind is Kind.PARKED for other in same)
        else:
            most = 8 if turn.kind is Kind.TRUSTED else 3
            assert len(same) < most

    @rule(
        data=st.data(),
        error_type=st.sampled_from([None, None, "read_timeout", "reset", "http_5xx", "gone", "internal"]),
        hold_seconds=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
    )
    def finish(self, data: st.DataObject, error_type: str | None, hold_seconds: float) -> None:
        if self.turns:
            turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
            self.lanes.finished(turn, self.now, error_type, hold_seconds=hold_seconds)

    @rule()
    def every_item_gets_its_turn(self) -> None:
        """No lane is left out of its queue."""
        for turn in self.turns:
            self.lanes.finished(turn, self.now, "http_5xx")
        self.turns = []
        self.now += 1000.0
        self.out.extend(one.item for one in self.lanes.take_deferred(self.now))
        while self.lanes.waiting:
            next_turn = self.lanes.next(self.now)
            assert next_turn is not None
            self.out.append(next_turn.item)
            self.lanes.finished(next_turn, self.now, "http_5xx")

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def defer(self) -> None:
        deferred = self.lanes.take_deferred(self.now)
        assert all((one.delay_seconds > 0) is one.parked for one in deferred)
        self.out.extend(one.item for one in deferred)
        assert self.lanes.waiting <= self.limits.items
        busy = {turn.destination for turn in self.turns}
        assert self.lanes.destinations <= self.lanes.waiting + len(busy) + self.limits.histories

    @rule()
    def drain(self) -> None:
        self.out.extend(self.lanes.drain())

    @invariant()
    def slots_are_never_exceeded(self) -> None:
        assert self.lanes.in_flight == len(self.turns) <= self.limits.slots

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert len(self.out) == len(set(self.out))
        assert len(self.out) + self.lanes.waiting <= self.added

    def teardown(self) -> None:
        self.out.extend(self.lanes.drain())
        assert sorted(self.out) == list(range(self.added))
        for turn in self.turns:
            self.lanes.finished(turn, self.now + 1000.0, "http_4xx")
        assert (self.lanes.in_flight, self.lanes.waiting) == (0, 0)
        assert not any(self.lanes._by_length.values())
        assert not any(map(len, self.lanes._queues.values()))
        assert not any(network.in_flight or any(network.held.values()) for network in self.lanes._networks.values())
        assert {*self.lanes._held.values(), *self.lanes._began.values()} == {0}


LanesMachine.TestCase.settings = examples(150, stateful_step_count=60, deadline=None)
TestLanes = LanesMachine.TestCase


def test_ten_thousand_parked_destinations_do_not_stand_in_the_way() -> None:
    lanes = filled({})
    dead = [f"d{n}" for n in range(10_000)]
    for destination in dead:
        fail(lanes, destination, 5)
    for destination in dead:
        lanes.add(destination, 1)
    assert len(lanes.take_deferred(1.0)) == 10_000
    lanes.add("healthy", 1)
    assert (lanes.waiting, start(lanes, 1.0).destination) == (1, "healthy")
