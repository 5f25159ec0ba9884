"""All scenarios by name, in the order in which they are run."""

from __future__ import annotations

from tests.faults import (
    bulk,
    clocks_and_crowds,
    containers,
    crowded,
    drains,
    fail_over,
    kills,
    lanes,
    links,
    managed,
    misbehaving,
    mixture,
    over_https,
    pauses,
    stores,
    tenants,
    waiters,
    waits_and_retries,
)
from tests.faults.scenarios import ENTERED

_IN_ORDER = (
    kills,
    managed,
    drains,
    links,
    misbehaving,
    crowded,
    stores,
    waits_and_retries,
    waiters,
    bulk,
    pauses,
    lanes,
    tenants,
    mixture,
    fail_over,
    clocks_and_crowds,
    over_https,
    containers,
)
_MODULES = [module.__name__ for module in _IN_ORDER]

SCENARIOS = {one.name: one for one in sorted(ENTERED, key=lambda one: _MODULES.index(one.play.__module__))}
