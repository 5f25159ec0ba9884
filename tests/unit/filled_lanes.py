"""Lanes with items, and the calls that bring their destinations into a state."""

from queue_engine.delivery.lanes import Kind, LaneLimits, Lanes, Turn

LIMITS = LaneLimits()


def filled(items: dict[str, int], limits: LaneLimits = LIMITS) -> Lanes[int]:
    lanes: Lanes[int] = Lanes(limits)
    for destination, count in items.items():
        for number in range(count):
            lanes.add(destination, number)
    return lanes


def start(lanes: Lanes[int], now: float = 0.0) -> Turn[int]:
    turn = lanes.next(now)
    assert turn is not None
    return turn


def start_all(lanes: Lanes[int], now: float = 0.0) -> list[Turn[int]]:
    turns = []
    while (turn := lanes.next(now)) is not None:
        turns.append(turn)
    return turns


def make_trusted(lanes: Lanes[int], *destinations: str, now: float = 0.0) -> None:
    for destination in destinations:
        lanes.add(destination, -1)
    for turn in start_all(lanes, now):
        lanes.finished(turn, now, None)
    assert {lanes.kind_of(destination) for destination in destinations} == {Kind.TRUSTED}


def fail(lanes: Lanes[int], destination: str, times: int, now: float = 0.0, error_type: str = "read_timeout") -> None:
    for _ in range(times):
        lanes.add(destination, -2)
        turn = start(lanes, now)
        assert turn.destination == destination
        lanes.finished(turn, now, error_type)
