"""The way from an agent to its engine, which the settings choose: the engine's store, or its API."""

from __future__ import annotations

from typing import Protocol

from queue_engine.config.agent import AgentSettings
from queue_engine.domain.errors import EngineError
from worker_agent.ports import LogSink, TaskSource, WorkerRecord


class AgentRefused(EngineError):
    """The engine refuses the agent for good. The text is the reason."""


class EngineLink(Protocol):
    """The ports of an agent over one way to the engine. `close` it."""

    async def open(self, settings: AgentSettings) -> tuple[AgentSettings, str]:
        """Wait until the engine can be reached. Return the settings, completed by the endpoint's, and its description.

        Raises EngineError if the agent cannot run, of which AgentRefused is a kind.
        """
        ...

    def source(self, settings: AgentSettings) -> TaskSource:
        """Return the queue of the endpoint. Needs the settings that `open` has returned, like the other ports."""
        ...

    def record(self, settings: AgentSettings) -> WorkerRecord:
        """Return the record of the worker."""
        ...

    def log(self, settings: AgentSettings) -> LogSink:
        """Return the log of the worker's container."""
        ...

    async def refusal(self) -> str:
        """Wait until the engine refuses the agent for good, and return the reason. Until then the ports work."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
