"""The state of a worker in the backend, and the observation that follows from it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from queue_engine.backends.base import Observed, Phase
from queue_engine.backends.docker.engine import NO_RESPONSE
from queue_engine.backends.docker.explain import Explanation, explain, time_ms
from queue_engine.backends.docker.names import Part
from queue_engine.backends.docker.watch import Seen

INTERRUPTED = "its start was interrupted by the end of its controller"
_REMOVED = {
    Part.AGENT: "the agent's container was removed by somebody else",
    Part.MAIN: "the container was removed by somebody else",
}


@dataclass(eq=False)
class Worker:
    """A run of a worker: its containers, its start and its end."""

    endpoint_id: str
    worker_id: str
    run: int
    started_at_ms: int
    parts: dict[Part, Seen] = field(default_factory=dict)
    """The existing containers of this run."""
    removed: set[Part] = field(default_factory=set)
    """Containers of this run that somebody else has removed."""
    gpus: tuple[str, ...] = ()
    note: str = ""
    """The first line of its log."""
    progress: Explanation | None = None
    """The phase and the reason while this controller makes its parts."""
    failure: Explanation | None = None
    """The end of a start that has failed."""
    making: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    end_at: float = 0.0
    """Monotonic time at which the agent is killed, while the worker is ending."""
    hastened: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `end_at` has become earlier."""

    @property
    def is_making(self) -> bool:
        return self.making is not None and not self.making.done()

    @property
    def is_ending(self) -> bool:
        return self.ending is not None and not self.ending.done()

    @property
    def is_interrupted(self) -> bool:
        """True if parts are missing and this controller does not make them."""
        return not (self.is_making or self.is_ending) and self._explained() == _INTERRUPTED

    def id_of(self, part: Part) -> str | None:
        """Return the id of a container, if it exists."""
        seen = self.parts.get(part)
        return None if seen is None else seen.container_id

    def observed(self, *, is_connected: bool) -> Observed:
        """Return the observation. Without a connection to the engine, what has not ended is unknown."""
        found = self._explained()
        if found.phase is not Phase.ENDED and self.is_ending:
            found = Explanation(Phase.ENDING)
        if found.phase is not Phase.ENDED and not is_connected:
            found = Explanation(Phase.UNKNOWN, NO_RESPONSE)
        return Observed(
            self.run,
            found.phase,
            self.started_at_ms,
            found.reason,
            found.retry_helps,
            self.id_of(Part.MAIN),
            is_interrupted=self.is_interrupted,
        )

    def end(self) -> Explanation | None:
        """Return the end of the run; None if it has not ended."""
        if self.failure is not None:
            return self.failure
        for part in Part:
            if part in self.removed:
                return Explanation(Phase.ENDED, _REMOVED[part])
        explained = self._explained_parts()
        ended = [part for part, one in explained.items() if one.phase is Phase.ENDED]
        return explained[min(ended, key=self._ended_at_ms)] if ended else None

    def _explained(self) -> Explanation:
        if (end := self.end()) is not None:
            return end
        explained = self._explained_parts()
        if self.is_making and self.progress is not None:
            return self.progress
        if Part.AGENT not in explained:
            return Explanation(Phase.ENDED, _REMOVED[Part.AGENT])
        phases = {one.phase for one in explained.values()}
        if Phase.ENDING in phases:
            return Explanation(Phase.ENDING)
        return Explanation(Phase.RUNNING) if len(explained) == len(Part) and phases == {Phase.RUNNING} else _INTERRUPTED

    def _explained_parts(self) -> dict[Part, Explanation]:
        return {part: explain(seen.description, part) for part, seen in self.parts.items()}

    def _ended_at_ms(self, part: Part) -> int:
        """Return the time at which a container ended, later for the agent's if both have ended at once."""
        ended_at_ms = time_ms(self.parts[part].description["State"].get("FinishedAt")) or 0
        return 2 * ended_at_ms + (part is Part.AGENT)


_INTERRUPTED = Explanation(Phase.STARTING, INTERRUPTED)
