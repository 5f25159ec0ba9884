"""The faults: each a scenario that puts load on an engine and hurts it in one way, on purpose or at random."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.engine import LEASE_SECONDS
from tests.faults.stage import Play

AGENT_GOAL_SECONDS = LEASE_SECONDS + 2
"""From an agent's death until its task runs again."""
STORE_GOAL_SECONDS = 5.0
"""From the store's first answer until every part has done useful work."""


@dataclass(frozen=True)
class Scenario:
    """A named fault. Scenarios of one `flavour` may share an engine, one after the other."""

    name: str
    play: Play
    flavour: str = "standard"
    workers: int = 3
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    over_api: bool = False
    """True if agents use the APIs with a token; else they use the store."""
    container_links: bool = False
    """Whether agents reach their containers over links too. Behind one, a container that is down looks like one that
    resets every connection."""
    goal_seconds: float | None = None
    rest_seconds: float = 120.0
    play_seconds: float = 240.0
    """After so long it does not get on."""

    @property
    def description(self) -> str:
        return inspect.getdoc(self.play) or ""


ENTERED: list[Scenario] = []
"""Those of the modules that have been imported."""


def scenario(name: str, **facts: Any) -> Callable[[Play], Play]:
    """Enter the decorated function under this name."""

    def enter(play: Play) -> Play:
        ENTERED.append(Scenario(name, play, **facts))
        return play

    return enter
