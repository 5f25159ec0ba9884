"""The Docker backend: workers as pairs of containers. The guarantees of each method are in `Backend`.

A start makes the agent's container first, then pulls the image and makes the endpoint's container in the background.
After the end of its controller, the next one finds the containers by their labels, and `start` makes what is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from queue_engine.aio import end_tasks
from queue_engine.backends.base import (
    STOP_MARGIN_SECONDS,
    BackendError,
    EndNotConfirmed,
    Observed,
    Phase,
    WorkerSpec,
)
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from queue_engine.backends.container_words import AGENT_PORT
from queue_engine.backends.docker.ending import MAIN_STOP_SECONDS, Ender
from queue_engine.backends.docker.engine import Engine, EngineUnavailable
from queue_engine.backends.docker.explain import Explanation, StartFailed, time_ms
from queue_engine.backends.docker.making import Images, Maker
from queue_engine.backends.docker.names import Part, gpus_of
from queue_engine.backends.docker.output import follow, note_in, variables_in
from queue_engine.backends.docker.pull import PullPolicy
from queue_engine.backends.docker.specs import Devices, Hosting
from queue_engine.backends.docker.watch import Seen, Watch
from queue_engine.backends.docker.worker import Worker
from queue_engine.backends.images import InvalidReference, parse_reference
from queue_engine.backends.turns import Party, Turns
from queue_engine.domain.agent_protocol import END_MARGIN_SECONDS
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import GpuMode, Gpus, Refused, Waits
from queue_engine.domain.ids import is_worker_id
from queue_engine.processes.processors import usable_processors

log = logging.getLogger(__name__)

STARTS_PER_CPU = 4
"""Simultaneous starts per processor. A container starts within a second, and pulls wait for the network."""
LIST_WAIT_SECONDS = 10.0
"""Maximum time that a start waits for the first list of the containers."""
_NO_CONTAINER = "the worker's container does not exist"


@dataclass(frozen=True)
class DockerOptions:
    """The settings of the backend."""

    hosting: Hosting
    agent_image: str
    agent_pull: PullPolicy = PullPolicy.MISSING
    pull: PullPolicy = PullPolicy.AUTO
    end_margin_seconds: float = END_MARGIN_SECONDS
    """Time after the grace period at which an agent is killed."""
    main_stop_seconds: int = MAIN_STOP_SECONDS
    """Time between the stop signal and SIGKILL to the endpoint's container, after its agent has ended."""
    max_starting: int = field(default_factory=lambda: STARTS_PER_CPU * usable_processors())


class DockerBackend:
    """Runs workers as containers. `make_engine` connects to the engine; it is called in the event loop.

    Raises InvalidReference if the agent's image is not one.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        options: DockerOptions,
        gpus: Gpus,
        *,
        epoch_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._make_engine = make_engine
        self._options = options
        self._images = Images(parse_reference(options.agent_image), options.agent_pull, options.pull)
        self._gpus = gpus
        self._epoch_seconds = epoch_seconds
        self._open: _Open | None = None
        self._workers: dict[str, Worker] = {}
        self._gpu_asks: Turns[_GpuAsk] = Turns()
        """The starts that wait for GPUs."""
        self.before_removal: BeforeRemoval = nothing_before_removal

    @property
    def outlives_controller(self) -> bool:
        return True

    @property
    def agents_over_https(self) -> bool:
        return True

    @property
    def max_starting(self) -> int:
        return self._options.max_starting

    def refusal(self, spec: WorkerSpec) -> str | None:
        try:
            parse_reference(spec.image, spec.image_registry)
        except InvalidReference as error:
            return f"image: {error}"
        if spec.exposed_port == AGENT_PORT:
            return f"expose: port {AGENT_PORT} is the agent's own"
        for name, value in spec.environment.items():
            if not name or "=" in name or "\0" in name or "\0" in value:
                return "environmentVars: names must not be empty or contain '='; no NUL in names and values"
        return None

    async def start(self, spec: WorkerSpec) -> None:
        self._check(spec)
        opened = await self._listed()
        # There is no await below, so that a concurrent call cannot start the same worker.
        known = self._workers.get(spec.worker_id)
        if known is not None and known.run < spec.run and known.observed(is_connected=True).alive:
            raise BackendError("an earlier run of the worker has not ended")
        if known is None or known.run < spec.run:
            known = Worker(spec.endpoint_id, spec.worker_id, spec.run, int(self._epoch_seconds() * 1000))
            known.progress = self._assign(known, spec) or Explanation(Phase.STARTING)
            self._workers[spec.worker_id] = known
        elif known.run > spec.run or not known.is_interrupted:
            return
        known.making = asyncio.create_task(self._make(opened, known, spec), name=f"make-{known.worker_id}")

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        await self._end(worker_id, grace_seconds, self._options.end_margin_seconds)

    async def kill(self, worker_id: str) -> None:
        await self._end(worker_id, 0, 0)

    async def observe(self) -> Mapping[str, Observed] | None:
        watch = self._opened().watch
        if not watch.is_complete:
            return None
        return {one.worker_id: one.observed(is_connected=watch.is_connected) for one in self._workers.values()}

    @property
    def problem(self) -> str | None:
        """Why the engine does not respond: see `TellsProblem`."""
        return None if self._open is None else self._open.watch.why_not_connected

    async def aclose(self, grace_seconds: float) -> None:  # noqa: ARG002 - no worker ends with its controller
        if self._open is None:
            return
        tasks = [task for one in self._workers.values() for task in (one.making, one.ending) if task is not None]
        await end_tasks(*tasks)
        await self._open.watch.aclose()
        await self._open.engine.aclose()
        self._open = None
        self._workers.clear()

    # The output of containers

    async def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        """Yield the output of a worker's container: see `ContainerLogs`."""
        opened, container = self._opened(), self._main_of(worker_id, run)
        agent = self._workers[worker_id].parts.get(Part.AGENT)
        note = None if agent is None else note_in(agent.description)
        async with aclosing(follow(opened.engine, container, since_ns, note)) as entries:
            async for entry in entries:
                yield entry

    async def environment(self, worker_id: str, run: int) -> Mapping[str, str]:
        """Return the variables of a worker's container: see `ContainerLogs`."""
        description = await self._opened().engine.inspect(self._main_of(worker_id, run))
        if description is None:
            raise BackendError(_NO_CONTAINER)
        return variables_in(description)

    def _main_of(self, worker_id: str, run: int) -> str:
        worker = self._workers.get(worker_id)
        container = worker.id_of(Part.MAIN) if worker is not None and worker.run == run else None
        if container is None:
            raise BackendError(_NO_CONTAINER)
        return container

    # Starts

    def _check(self, spec: WorkerSpec) -> None:
        if not is_worker_id(spec.worker_id):
            raise BackendError("the worker id is not valid")
        if (refusal := self.refusal(spec)) is not None:
            raise BackendError(refusal)

    async def _listed(self) -> _Open:
        """Return the connection after the containers were listed once. Raises BackendError."""
        opened = self._opened()
        if not await opened.watch.until_complete(LIST_WAIT_SECONDS):
            raise BackendError(str(opened.watch.problem or EngineUnavailable("it does not respond")))
        return opened

    async def _make(self, opened: _Open, worker: Worker, spec: WorkerSpec) -> None:
        """Make the parts of a worker. A failure is its end. `stop` and `kill` remove what exists of it by then.

        Nothing is removed here, because the controller may no longer lead when the start fails, and the next one may
        have completed it.
        """
        try:
            if worker.id_of(Part.AGENT) is None:
                await self._wait_for_gpus(worker, spec)
            await opened.maker.make(worker, spec, self._devices(worker, spec))
        except BackendError as error:
            helps = not isinstance(error, StartFailed) or error.retry_helps
            await self._look_at_agent(opened, worker)
            # A container that has ended is the cause of what the engine refuses after it.
            worker.failure = worker.end() or Explanation(Phase.ENDED, str(error), helps)
        except Exception:
            log.exception("a start has failed", extra={"worker": worker.worker_id})
            worker.failure = Explanation(Phase.ENDED, "the start has failed by an error of the controller")

    async def _look_at_agent(self, opened: _Open, worker: Worker) -> None:
        with suppress(BackendError):
            if (agent := worker.id_of(Part.AGENT)) is not None:
                await opened.watch.look_at(agent)

    # GPUs

    def _assign(self, worker: Worker, spec: WorkerSpec) -> Explanation | None:
        """Give a worker its GPUs; return the reason if it must wait. Raises BackendError if it can never have them."""
        held = {gpu for one in self._workers.values() if one is not worker for gpu in one.gpus}
        decision = self._gpus.hand_out(spec.resources, held)
        if isinstance(decision, Refused):
            raise BackendError(decision.reason)
        if isinstance(decision, Waits):
            return Explanation(Phase.WAITING, decision.reason)
        if decision.note and not decision.cards and self._gpus.problem:
            raise BackendError(f"resources: {self._gpus.problem}: QUEUE_ENGINE_GPUS must be none or shared")
        worker.gpus = tuple(card.uuid for card in decision.cards)
        worker.note = decision.note
        return None

    async def _wait_for_gpus(self, worker: Worker, spec: WorkerSpec) -> None:
        """Wait until the worker has its GPUs. Raises BackendError if it can never have them."""
        if not worker.gpus and (waits := self._assign(worker, spec)) is not None:
            worker.progress = waits
            party = Party(spec.tenant, spec.endpoint_id)
            ask = _GpuAsk(worker, spec, asyncio.get_running_loop().create_future())
            self._gpu_asks.add(party, ask)
            try:
                await ask.assigned
            finally:
                self._gpu_asks.remove(party, ask)
        worker.progress = Explanation(Phase.STARTING)

    def _free_gpus(self, worker: Worker) -> None:
        worker.gpus = ()
        self._gpu_asks.offer(self._give_gpus)

    def _give_gpus(self, asks: Collection[_GpuAsk]) -> _GpuAsk | None:
        """Give GPUs to the first worker that can have them, of those of an endpoint."""
        refused: dict[tuple[Resource, ...], Explanation] = {}
        for ask in asks:
            if ask.assigned.done():  # its start was cancelled a moment ago
                return ask
            if (known := refused.get(ask.spec.resources)) is not None:
                ask.worker.progress = known
                continue
            try:
                waits = self._assign(ask.worker, ask.spec)
            except BackendError as error:
                ask.assigned.set_exception(error)
                return ask
            if waits is None:
                ask.assigned.set_result(None)
                return ask
            ask.worker.progress = waits
            refused[ask.spec.resources] = waits
        return None

    def _devices(self, worker: Worker, spec: WorkerSpec) -> Devices:
        takes_gpu = any(one.gpu_type not in self._gpus.cpu_types for one in spec.resources)
        return Devices(worker.gpus, all_of_host=self._gpus.mode is GpuMode.SHARED and takes_gpu)

    # Ends

    async def _end(self, worker_id: str, grace_seconds: float, margin_seconds: float) -> None:
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        end_at = asyncio.get_running_loop().time() + grace_seconds + margin_seconds
        if worker.ending is None or worker.ending.done():
            worker.end_at = end_at
            worker.ending = asyncio.create_task(self._end_and_remove(self._opened(), worker), name=f"end-{worker_id}")
            worker.ending.add_done_callback(_note_error)
        elif end_at < worker.end_at:
            worker.end_at = end_at
            worker.hastened.set()
        ending = worker.ending
        await asyncio.wait({ending}, timeout=grace_seconds + STOP_MARGIN_SECONDS)
        if not ending.done():
            raise EndNotConfirmed("the worker's containers do not end")
        _raise_error_of(ending)

    async def _end_and_remove(self, opened: _Open, worker: Worker) -> None:
        if worker.making is not None:
            worker.making.cancel()
            await asyncio.wait({worker.making})  # not cut, because a container that is just being created must be found
        await opened.ender.end(worker)
        await opened.maker.remove(worker, below=worker.run + 1)
        if self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]
        self._free_gpus(worker)

    # Changes that the engine tells

    def _opened(self) -> _Open:
        if self._open is None:
            engine = self._make_engine()
            hosting = self._options.hosting
            watch = Watch(engine, hosting.instance, on_change=self._note_change, on_removal=self._note_removal)
            maker = Maker(engine, watch, hosting, self._images)
            self._open = _Open(
                engine, watch, maker, Ender(engine, self._before_removal, self._options.main_stop_seconds)
            )
        self._open.watch.start()
        return self._open

    async def _before_removal(self, worker_id: str, run: int) -> None:
        await self.before_removal(worker_id, run)

    def _note_change(self, seen: Seen) -> None:
        identity = seen.identity
        worker = self._workers.get(identity.worker_id)
        if worker is None or worker.run < identity.run:
            created_at_ms = time_ms(seen.description.get("Created")) or int(self._epoch_seconds() * 1000)
            worker = Worker(identity.endpoint_id, identity.worker_id, identity.run, created_at_ms)
            worker.gpus = gpus_of(seen.description["Config"]["Labels"])
            self._workers[identity.worker_id] = worker
        if worker.run == identity.run:
            worker.parts[identity.part] = seen

    def _note_removal(self, seen: Seen) -> None:
        identity = seen.identity
        worker = self._workers.get(identity.worker_id)
        if worker is None or worker.run != identity.run:
            return
        worker.parts.pop(identity.part, None)
        if not worker.is_ending and worker.failure is None:
            worker.removed.add(identity.part)


@dataclass(eq=False)
class _GpuAsk:
    """A start that waits for GPUs, until it is assigned some."""

    worker: Worker
    spec: WorkerSpec
    assigned: asyncio.Future[None]


@dataclass(frozen=True)
class _Open:
    """The parts of the backend while it is connected to an engine."""

    engine: Engine
    watch: Watch
    maker: Maker
    ender: Ender


def _note_error(ending: asyncio.Task[None]) -> None:
    """Note an error that no caller waits for any longer."""
    if not ending.cancelled() and (error := ending.exception()) is not None:
        log.debug("a worker cannot be ended: %s", error)


def _raise_error_of(ending: asyncio.Task[None]) -> None:
    if ending.cancelled():
        raise BackendError("the controller does not lead any longer")
    ending.result()
