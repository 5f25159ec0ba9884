"""A backend, and what the controller's process does for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from queue_engine.backends.base import AgentTarget, Backend


def no_targets() -> Sequence[AgentTarget]:
    """Return no agents: the metrics of agents in containers are served in the network of their worker."""
    return ()


async def nothing_to_recover() -> None:
    """Return at once: workers that outlive their controller are adopted."""


@dataclass(frozen=True)
class HostedWorkers:
    """A backend with the work of the process that it runs in."""

    backend: Backend
    one_tenant_reason: str | None = None
    """The reason why only one tenant may use the backend; None if several may."""
    metrics_targets: Callable[[], Sequence[AgentTarget]] = no_targets
    """Returns the agents whose metrics the controller serves. Called from another thread."""
    recover: Callable[[], Coroutine[Any, Any, object]] = nothing_to_recover
    """Begun at the start of the process, which waits for it at its end."""
