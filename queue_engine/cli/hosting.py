"""A backend, and what the controller's process does for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from queue_engine.backends.base import AgentTarget, Backend, BackendError
from queue_engine.domain.errors import EngineError
from queue_engine.processes.missing_packages import install_command


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


@contextmanager
def platform_errors(backend: str) -> Iterator[None]:
    """Raise what the operator can fix as EngineError that names the setting. `backend` is its value."""
    setting = f"QUEUE_ENGINE_BACKEND: {backend}"
    try:
        yield
    except ImportError as error:
        missing = f"{setting} needs packages that are not installed ({error.name}): {install_command(backend)}"
        raise EngineError(missing) from error
    except BackendError as error:
        raise EngineError(f"{setting}: {error.for_operators}") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{setting}: {error}") from error
