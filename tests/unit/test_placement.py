"""The choice of the resource with which a worker starts."""

import pytest

from queue_engine.backends.placement import Later, Placement, Refusal, Shortage, place
from queue_engine.domain.endpoints import Resource

EAST, WEST, NORTH = (Resource(region, "NVIDIA L4", 2) for region in ("east", "west", "north"))
NOW = 10_000.0
FULL = "waits for 2 × NVIDIA L4: 1 of 4 free"


def short(seconds_ago: float, failures: int = 1, reason: str = FULL) -> Shortage:
    return Shortage(reason, failures, NOW - seconds_ago)


@pytest.mark.parametrize(
    ("recent", "missing", "expected"),
    [
        ({}, {}, Placement(EAST)),
        ({}, {EAST: "no cluster for the region east"}, Placement(WEST)),
        ({EAST: short(12)}, {}, Placement(WEST)),
        ({EAST: short(12), WEST: short(12)}, {}, Placement(NORTH)),
        ({EAST: short(60)}, {}, Placement(EAST)),
        ({EAST: short(60, failures=2)}, {}, Placement(WEST)),
        ({EAST: short(599, failures=9)}, {}, Placement(WEST)),
        ({EAST: short(600, failures=9)}, {}, Placement(EAST)),
        ({one: short(1, reason=one.region) for one in (EAST, WEST, NORTH)}, {}, Placement(EAST, waits_for="east")),
        ({WEST: short(1), NORTH: short(1)}, {EAST: "no"}, Placement(WEST, waits_for=FULL)),
    ],
)
def test_the_first_resource_without_a_recent_shortage_is_chosen(
    recent: dict[Resource, Shortage], missing: dict[Resource, str], expected: Placement
) -> None:
    assert place((EAST, WEST, NORTH), recent, missing, NOW) == expected


def test_resources_that_the_platform_does_not_have_are_refused_with_each_reason_once() -> None:
    missing = {EAST: "no cluster for the region", WEST: "no cluster for the region", NORTH: "no such GPU"}
    assert place((EAST, WEST, NORTH), {}, missing, NOW) == Refusal("no cluster for the region; no such GPU")
    assert place((), {}, {}, NOW) == Refusal("resources: must not be empty")


@pytest.mark.parametrize(
    ("recent", "full", "expected"),
    [
        ({}, {EAST: "limit"}, Placement(WEST)),
        ({WEST: short(12)}, {EAST: "limit"}, Placement(NORTH)),
        ({WEST: short(12), NORTH: short(12)}, {EAST: "limit"}, Placement(WEST, waits_for=FULL)),
        ({}, {EAST: "limit of east", WEST: "limit of west", NORTH: "limit of north"}, Later("limit of east")),
    ],
)
def test_a_resource_that_takes_no_further_worker_is_skipped(
    recent: dict[Resource, Shortage], full: dict[Resource, str], expected: Placement | Later
) -> None:
    assert place((EAST, WEST, NORTH), recent, {}, NOW, full) == expected
