"""A backend in memory, for tests of controllers: with phases, failures and interruptions that processes cannot have."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from queue_engine.backends.base import BackendError, EndNotConfirmed, Observed, Phase, WorkerSpec


class Broken(Exception):
    """The store is unavailable, or the round is interrupted."""


@dataclass
class Faults:
    """Lets the call with this number fail, before or after its effect."""

    at: int | None = None
    after_effect: bool = False
    calls: int = 0

    def before(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.after_effect:
            raise Broken

    def after(self) -> None:
        if self.calls == self.at and self.after_effect:
            raise Broken


@dataclass
class ScriptedBackend:
    """Workers that start, run, hang, end by themselves or cannot be started, as a test says."""

    faults: Faults = field(default_factory=Faults)
    running: dict[str, WorkerSpec] = field(default_factory=dict)
    """The workers that have not ended, in any other phase."""
    ended: dict[str, Observed] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    resumed: list[WorkerSpec] = field(default_factory=list)
    """Starts of a run that had been started before."""
    stopping: dict[str, float] = field(default_factory=dict)
    """The workers that were stopped, with the shortest grace period."""
    states: dict[str, Observed] = field(default_factory=dict)
    """The states of workers in `running` that are not in the phase `running`."""
    first: Observed | None = None
    """The state of a worker after its start, without `run`; None means the phase `running`."""
    slow: bool = False
    """True if a worker that is drained goes on until `finish_drains`."""
    stuck: set[str] = field(default_factory=set)
    """The workers whose end takes until `finish_drains`, even by force."""
    listed: bool = True
    """False if the platform has not been listed yet."""
    problem: str | None = None
    """Why the platform does not respond."""
    outlives_controller: bool = False
    agents_over_https: bool = False
    max_starting: int = 100
    refuses_start: str | None = None
    refuses_stop: str | None = None
    lost: set[str] = field(default_factory=set)
    """The workers whose end is never confirmed."""
    closed: int = 0
    _drained: asyncio.Event = field(default_factory=asyncio.Event)

    def refusal(self, spec: WorkerSpec) -> str | None:
        return None

    async def start(self, spec: WorkerSpec) -> None:
        self.faults.before()
        if self.refuses_start:
            raise BackendError(self.refuses_start)
        known = self.running.get(spec.worker_id)
        if known is not None and known.run < spec.run:
            raise BackendError("an earlier run of the worker has not ended")
        if known is not None:
            self.resumed.append(spec)
            if (state := self.states.get(spec.worker_id)) is not None:
                self.states[spec.worker_id] = replace(state, is_interrupted=False)
        else:
            self.ended.pop(spec.worker_id, None)
            self.running[spec.worker_id] = spec
            self.starts.append(spec.worker_id)
            if self.first is not None:
                self.states[spec.worker_id] = self.first
        self.faults.after()

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        self.faults.before()
        if self.refuses_stop:
            raise BackendError(self.refuses_stop)
        self.stopping[worker_id] = min(grace_seconds, self.stopping.get(worker_id, grace_seconds))
        if worker_id in self.stuck or (self.slow and grace_seconds and worker_id in self.running):
            await self._drained.wait()
        if worker_id in self.lost:
            raise EndNotConfirmed("the node does not respond")
        self.running.pop(worker_id, None)
        self.states.pop(worker_id, None)
        self.ended.pop(worker_id, None)
        self.faults.after()

    async def kill(self, worker_id: str) -> None:
        await self.stop(worker_id, 0)

    async def observe(self) -> Mapping[str, Observed] | None:
        self.faults.before()
        self.faults.after()
        if not self.listed:
            return None
        return self.ended | {worker_id: self._observed(spec) for worker_id, spec in self.running.items()}

    async def aclose(self, grace_seconds: float) -> None:
        self.closed += 1
        if not self.outlives_controller:
            for worker_id in list(self.running):
                await self.stop(worker_id, grace_seconds)

    def finish_drains(self) -> None:
        self._drained.set()

    def see(self, worker_id: str, phase: Phase, reason: str | None = None, *, retry_helps: bool = True) -> None:
        """The worker comes to a phase."""
        self.states[worker_id] = Observed(0, phase, 1, reason, retry_helps)

    def interrupt(self, worker_id: str) -> None:
        """The worker's start does not go on: its controller has ended, or a call had an effect after its timeout."""
        self.states[worker_id] = replace(self.states[worker_id], is_interrupted=True)

    def end(self, worker_id: str, reason: str, *last_lines: str, retry_helps: bool = True) -> None:
        """The worker ends by itself."""
        run = self.running.pop(worker_id).run
        self.states.pop(worker_id, None)
        self.ended[worker_id] = Observed(run, Phase.ENDED, 1, reason, retry_helps, last_lines=last_lines)

    def _observed(self, spec: WorkerSpec) -> Observed:
        return replace(self.states.get(spec.worker_id, Observed(0, Phase.RUNNING, 1)), run=spec.run)
