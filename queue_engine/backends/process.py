"""Workers as processes of this machine, for a laptop and for tests.

A worker is a process group. Its leader is the agent, a child of the controller. The agent starts the endpoint's command
in the same group (see domain/agent_protocol.py). When the agent ends, the group is killed. Processes that have left the
group are adopted and ended by the agent (processes/orphans.py). If the agent is killed, the controller adopts and ends
them.

With one tenant there is no isolation: an endpoint's command runs as the controller's user, with all permissions of that
user. Its environment has none of the agent's secrets, but as the same user it could read them from the agent's
environment. With several tenants, a controller that is root runs the commands of each endpoint as a user of its own
(worker_users.py), while agents stay root. docs/operations/isolation.md lists what a container can do in both cases.

GPUs are handed out one by one (card_queue.py). A worker for which too few are free waits without any process.

No worker outlives its controller: agents watch a lifeline, and drain when the controller has died. If controller and
agents were killed together, the next start finds the remaining processes by their environment (`reap_orphans`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from queue_engine.backends.base import (
    STOP_MARGIN_SECONDS,
    AgentTarget,
    BackendError,
    EndNotConfirmed,
    Observed,
    Phase,
    WorkerSpec,
)
from queue_engine.backends.card_queue import CardQueue
from queue_engine.backends.held_elsewhere import HeldElsewhere
from queue_engine.backends.leftovers import AdoptedOrphans, Leftovers, MarkedProcesses
from queue_engine.backends.process_environment import ContainerUser, Surroundings, agent_environment
from queue_engine.backends.turns import Party
from queue_engine.backends.worker_homes import WorkerHomes
from queue_engine.backends.worker_users import WorkerUsers
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.gpus import GpuMode, Gpus, HandedOut, Refused, Waits
from queue_engine.domain.ids import is_worker_id
from queue_engine.net.ports import free_port
from queue_engine.net.private_sockets import listen_privately, remove_folders, remove_socket, remove_unserved
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_command
from queue_engine.processes.lifeline import Lifeline
from queue_engine.processes.process_groups import (
    ProcessGroup,
    birth_of,
    describe_exit,
    kill_group_of,
    processes_with,
    wait_for_group,
)
from queue_engine.processes.processors import usable_processors

AGENT_COMMAND = python_command("worker_agent")
STARTS_PER_CPU = 2
"""Simultaneous starts per processor. A start mostly imports code, so more of them would not finish earlier."""
_KEPT_LOGS = 50
_ORPHAN_POLL_SECONDS = 1.0
_REMOVE_SECONDS = 5.0
"""Maximum time that a close waits for the deletion of homes. The next controller deletes what is left."""
_NO_USER = "the worker cannot be started: the number of tenants could not be read"

logger = logging.getLogger(__name__)

_Orphans = Sequence[tuple[psutil.Process, Mapping[str, str]]]
"""Processes of workers whose controller has died, with their environments."""


class ProcessBackend:
    """Runs workers as processes. The guarantees of each method are in `Backend`.

    - `work_dir` has each worker's output in `<worker id>.log`, and the sockets on which agents serve their metrics.
    - `instance_id` names the installation and is the same after a restart of the controller.
    - `environment` is the controller's own; workers get only the variables in PASSED_ON.
    - `epoch_seconds` is the clock of `Observed.started_at_ms`.
    - `end_margin_seconds` after its grace period, a draining worker is killed.
    - `kill_seconds` after that, a worker that is still there is reported as not ended.
    - `max_starting` defaults to STARTS_PER_CPU for each processor.
    - `gpus` are the cards that workers get; by default, none are handed out or hidden.
    - `users` has the users as which containers run; by default, as this process.
    - With `adopts_orphans`, this process is a subreaper and starts no processes except workers. All other children are
      orphans of workers, and are ended with them.
    - `leftovers` ends what workers leave behind; by default, orphans or processes with the worker's marks.
    """

    def __init__(
        self,
        work_dir: Path,
        *,
        instance_id: str,
        environment: Mapping[str, str],
        agent_command: Sequence[str] = AGENT_COMMAND,
        epoch_seconds: Callable[[], float] = time.time,
        end_margin_seconds: float = protocol.END_MARGIN_SECONDS,
        kill_seconds: float = STOP_MARGIN_SECONDS - protocol.END_MARGIN_SECONDS,
        max_starting: int | None = None,
        adopts_orphans: bool = False,
        gpus: Gpus | None = None,
        users: WorkerUsers | None = None,
        leftovers: Leftovers | None = None,
    ) -> None:
        self._max_starting = max_starting or STARTS_PER_CPU * usable_processors()
        self._end_margin_seconds = end_margin_seconds
        self._kill_seconds = kill_seconds
        self._work_dir = work_dir
        self._environment = dict(environment)
        self._agent_command = tuple(agent_command)
        self._epoch_seconds = epoch_seconds
        self._lifeline: Lifeline | None = None
        self._workers: dict[str, _Worker] = {}
        self._waiting: dict[str, _Start] = {}
        self._removing: set[asyncio.Task[None]] = set()
        """Deletions of the homes of ended workers, which may take long."""
        self._beginning: set[asyncio.Task[None]] = set()
        """Starts of workers that have waited for GPUs and have them now, at most one for each."""
        self._failed: dict[str, Observed] = {}
        """Workers that have waited for GPUs, and could not be started then."""
        self._gpus = gpus or Gpus(mode=GpuMode.SHARED)
        self._users = users or WorkerUsers()
        self._leftovers = leftovers or (AdoptedOrphans() if adopts_orphans else MarkedProcesses(self._users.ids))
        self._homes = WorkerHomes(work_dir)
        controller = {
            protocol.CONTROLLER_PID: str(os.getpid()),
            protocol.CONTROLLER_STARTED: birth_of(os.getpid()) or "",
        }
        self._marks = {protocol.INSTANCE: instance_id, **controller}
        self._elsewhere = HeldElsewhere(controller, self._offer_cards)
        self._cards = CardQueue(self._gpus, self._elsewhere.uuids)

    @property
    def outlives_controller(self) -> bool:
        return False

    @property
    def agents_over_https(self) -> bool:
        return False

    @property
    def max_starting(self) -> int:
        return self._max_starting

    def refusal(self, spec: WorkerSpec) -> str | None:
        if not (spec.command and spec.command.strip()):
            return "initializationCommand: required, because workers run as processes here and no image is started"
        if not _can_be_passed(spec.command):
            return "initializationCommand: must be text without NUL"
        for name, value in spec.environment.items():
            if not name or "=" in name or not _can_be_passed(name) or not _can_be_passed(value):
                return "environmentVars: names must not be empty or contain '='; no NUL in names and values"
        return None

    async def start(self, spec: WorkerSpec) -> None:
        if self._is_known(spec):
            return
        self._check_can_start(spec)
        if self._gpus.cards:
            await self._end_abandoned()
            await self._elsewhere.look()
        with ExitStack() as undo:
            # The user is chosen last, because the start itself must see if there are several tenants by now.
            user_id = await self._users.take(spec.endpoint_id)
            undo.callback(self._users.release, spec.endpoint_id)
            # There is no await below, so that a concurrent call cannot start the same worker.
            if self._is_known(spec):
                return
            if self._start_or_wait(_Start(spec, int(self._epoch_seconds() * 1000)), user_id):
                undo.pop_all()
        self._forget_old_logs()

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        self._forget_start(worker_id)
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        worker.ask_to_end()
        limit_seconds = grace_seconds + self._end_margin_seconds
        if not await worker.group.ended_within(limit_seconds):
            logger.warning("worker %s does not end within %g s: killing it", worker_id, limit_seconds)
            worker.group.kill()
        await self._forget(worker)

    async def kill(self, worker_id: str) -> None:
        self._forget_start(worker_id)
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.asked_to_end = True
            worker.group.kill()
            await self._forget(worker)

    async def observe(self) -> Mapping[str, Observed] | None:
        waiting = {
            worker_id: Observed(start.spec.run, Phase.WAITING, start.at_ms, self._cards.reason(worker_id))
            for worker_id, start in self._waiting.items()
        }
        started = {worker_id: worker.observed() for worker_id, worker in self._workers.items()}
        return {**started, **self._failed, **waiting}

    def metrics_targets(self) -> list[AgentTarget]:
        """Return the addresses at which the living agents serve their metrics. May be called from another thread."""
        return [worker.metrics for worker in list(self._workers.values()) if worker.alive]

    async def aclose(self, grace_seconds: float) -> None:
        for worker_id in [*self._waiting, *self._failed]:  # first, because the end of others would begin them
            self._forget_start(worker_id)
        self._elsewhere.close()
        for task in self._beginning:
            task.cancel()
        left: set[str] = set()
        while worker_ids := self._workers.keys() - left:
            stops = (self.stop(worker_id, grace_seconds) for worker_id in worker_ids)
            for worker_id, error in zip(worker_ids, await asyncio.gather(*stops, return_exceptions=True), strict=True):
                if isinstance(error, EndNotConfirmed):
                    left.add(worker_id)
                elif error is not None:
                    raise error
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        remove_folders(self._work_dir)
        if self._removing:
            await asyncio.wait(self._removing, timeout=_REMOVE_SECONDS)
        self._homes.close()
        if left:
            raise EndNotConfirmed(f"workers do not end: {', '.join(sorted(left))}")

    async def reap_orphans(self, grace_seconds: float) -> frozenset[str]:
        """End the workers of this instance whose controller has died; return their ids. Call it at start.

        An agent that still runs is already draining, and has the same time as in `stop`. Workers of a living controller
        are not touched. Processes that do not end after SIGKILL, for example because they wait for a device, are logged
        and left. No card is handed out while they live.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace_seconds + self._end_margin_seconds
        worker_ids: set[str] = set()
        all_killed = False
        while orphans := await asyncio.to_thread(self._orphans):
            if all_killed and clock() > deadline + self._kill_seconds:
                return frozenset(worker_ids - _note_left(orphans))
            worker_ids.update(environment[protocol.WORKER_ID] for _, environment in orphans)
            draining = _with_agents(orphans) if clock() < deadline else frozenset()
            await _end_groups(orphans, draining)
            all_killed = not draining
            if draining:
                await asyncio.sleep(_ORPHAN_POLL_SECONDS)
        await asyncio.to_thread(remove_unserved, self._work_dir)
        await asyncio.to_thread(self._homes.remove_left)
        return frozenset(worker_ids)

    async def _end_abandoned(self) -> None:
        """End containers whose agent and controller have died: they could use a card that is handed out next.

        Raises BackendError if they do not end.
        """
        orphans = await asyncio.to_thread(self._orphans)
        if not await _end_groups(orphans, _with_agents(orphans)):
            raise BackendError("processes of workers of an earlier controller do not end, and may use GPUs")

    async def _forget(self, worker: _Worker) -> None:
        if not (await asyncio.wait({worker.end}, timeout=self._kill_seconds))[0]:
            raise EndNotConfirmed(f"the worker does not end within {self._kill_seconds:g} s of SIGKILL")
        if self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]

    def _check_can_start(self, spec: WorkerSpec) -> None:
        if not is_worker_id(spec.worker_id):
            raise BackendError("the worker id is not valid")
        refusal = self.refusal(spec)
        if refusal is not None:
            raise BackendError(refusal)

    def _is_known(self, spec: WorkerSpec) -> bool:
        """Return True if this run or a later one exists. Raises BackendError if an earlier one has not ended."""
        worker, failed = self._workers.get(spec.worker_id), self._failed.get(spec.worker_id)
        waiting = self._waiting.get(spec.worker_id)
        spec_of_waiting = None if waiting is None else waiting.spec
        runs = [one.run for one in (worker, failed, spec_of_waiting) if one is not None]
        if any(run >= spec.run for run in runs):
            return True
        if waiting is not None or (worker is not None and worker.alive):
            raise BackendError("an earlier run of the worker has not ended")
        self._failed.pop(spec.worker_id, None)
        return False

    def _start_or_wait(self, start: _Start, user_id: int | None) -> bool:
        """Start a worker and return True, or let it wait for cards. It then needs no user yet. Raises BackendError."""
        spec = start.spec
        party = Party(spec.tenant, spec.endpoint_id)
        decision = self._cards.ask(party, spec.worker_id, spec.resources, partial(self._begin_waiting, start))
        match decision:
            case Refused(reason):
                raise BackendError(reason)
            case Waits():
                self._waiting[spec.worker_id] = start
                return False
            case HandedOut():
                try:
                    self._workers[spec.worker_id] = self._started(start, decision, user_id)
                except (OSError, ValueError) as error:
                    self._cards.release(spec.worker_id)
                    raise BackendError(_cannot_start(error)) from error
                return True

    def _begin_waiting(self, start: _Start, handed_out: HandedOut) -> None:
        name = f"start-{start.spec.worker_id}"
        task = asyncio.create_task(self._start_waiting(start, handed_out), name=name)
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _start_waiting(self, start: _Start, handed_out: HandedOut) -> None:
        """Start a worker that has waited for its cards. A failure is an end with a reason."""
        spec = start.spec
        try:
            user_id = await self._users.take(spec.endpoint_id)
        except Exception as error:
            if not isinstance(error, BackendError):
                logger.exception("the user of worker %s cannot be chosen", spec.worker_id)
            self._note_failed_start(start, str(error) if isinstance(error, BackendError) else _NO_USER)
            return
        if self._waiting.get(spec.worker_id) is not start:  # stopped, and its cards are released
            self._users.release(spec.endpoint_id)
            return
        try:
            self._workers[spec.worker_id] = self._started(start, handed_out, user_id)
            del self._waiting[spec.worker_id]
        except (OSError, ValueError) as error:
            self._users.release(spec.endpoint_id)
            self._note_failed_start(start, _cannot_start(error))

    def _note_failed_start(self, start: _Start, reason: str) -> None:
        worker_id = start.spec.worker_id
        if self._waiting.get(worker_id) is start:
            del self._waiting[worker_id]
            self._failed[worker_id] = Observed(start.spec.run, Phase.ENDED, start.at_ms, reason)
            self._cards.release(worker_id)

    def _forget_start(self, worker_id: str) -> None:
        """Forget a worker that waits for its start, or has failed to start after it has waited."""
        self._failed.pop(worker_id, None)
        start = self._waiting.pop(worker_id, None)
        if start is not None:
            self._cards.release(worker_id)

    def _offer_cards(self) -> None:
        self._cards.offer()

    def _note_end(self, start: _Start, user: ContainerUser | None) -> None:
        if user is not None:
            self._homes.close_to_user(user.home)
            removing = asyncio.create_task(asyncio.to_thread(self._homes.remove, user.home), name="remove-home")
            self._removing.add(removing)
            removing.add_done_callback(self._removing.discard)
        self._users.release(start.spec.endpoint_id)
        self._cards.release(start.spec.worker_id)

    def _started(self, start: _Start, handed_out: HandedOut, user_id: int | None) -> _Worker:
        """Start a worker whose container runs as this user, None for the agent's. Raises OSError and ValueError."""
        spec = start.spec
        if self._lifeline is None:
            self._lifeline = Lifeline()
        port = free_port({worker.port for worker in self._workers.values() if worker.alive})
        with ExitStack() as undo:
            end_file = undo.enter_context(tempfile.TemporaryFile())
            user = None
            if user_id is not None:
                user = ContainerUser(user_id, self._homes.make(spec.worker_id, user_id))
                undo.callback(self._homes.remove, user.home)
            around = Surroundings(self._marks, port, handed_out, self._gpus.are_assigned, user)
            group, target = self._started_group(spec, around, self._lifeline.fd, end_file.fileno())
            undo.pop_all()
        return _Worker(
            worker_id=spec.worker_id,
            run=spec.run,
            port=port,
            metrics=target,
            group=group,
            log_path=self._log_path(spec.worker_id),
            end_file=end_file,
            marks={**self._marks, protocol.WORKER_ID: spec.worker_id},
            started_at_ms=start.at_ms,
            leftovers=self._leftovers,
            note_end=partial(self._note_end, start, user),
        )

    def _started_group(
        self, spec: WorkerSpec, around: Surroundings, lifeline: int, end_fd: int
    ) -> tuple[ProcessGroup, AgentTarget]:
        metrics, address = listen_privately(self._work_dir)
        descriptors = {
            protocol.LIFELINE_FD: lifeline,
            protocol.METRICS_FD: metrics.fileno(),
            protocol.END_FD: end_fd,
        }
        with metrics:
            try:
                group = ProcessGroup.start(
                    self._agent_command,
                    environment=agent_environment(spec, self._environment, around)
                    | {name: str(fd) for name, fd in descriptors.items()},
                    log=BoundedLog(self._log_path(spec.worker_id)),
                    inherited_fds=descriptors.values(),
                )
            except BaseException:
                remove_socket(address)
                raise
        return group, AgentTarget(spec.endpoint_id, spec.worker_id, address)

    def _log_path(self, worker_id: str) -> Path:
        return self._work_dir / f"{worker_id}.log"

    def _orphans(self) -> _Orphans:
        ours = {protocol.INSTANCE: self._marks[protocol.INSTANCE]}
        return [(process, found) for process, found in processes_with(ours, self._users.ids) if _is_orphan(found)]

    def _forget_old_logs(self) -> None:
        """Remove all logs except those of living workers and the newest others. Ids are never reused."""
        names = {f"{worker_id}.log" for worker_id in self._workers}
        old = [path for path in self._work_dir.glob("*.log") if path.name not in names]
        old.sort(key=_modified_at, reverse=True)
        for path in old[_KEPT_LOGS:]:
            BoundedLog(path).remove()


@dataclass(frozen=True)
class _Start:
    """A start that was asked for at a time in epoch milliseconds."""

    spec: WorkerSpec
    at_ms: int


@dataclass(eq=False)
class _Worker:
    """A worker, from its start until it is removed."""

    worker_id: str
    run: int
    port: int
    metrics: AgentTarget
    group: ProcessGroup
    log_path: Path
    end_file: IO[bytes]
    marks: Mapping[str, str]
    started_at_ms: int
    leftovers: Leftovers
    note_end: Callable[[], None]
    """Function that is called when no process of the worker is left. Must not raise."""
    exit_reason: str | None = None
    last_lines: tuple[str, ...] = ()
    asked_to_end: bool = False

    def __post_init__(self) -> None:
        self.end = asyncio.create_task(self._see_the_end(), name=f"worker-{self.worker_id}")

    @property
    def alive(self) -> bool:
        return not self.end.done()

    @property
    def phase(self) -> Phase:
        if not self.alive:
            return Phase.ENDED
        return Phase.ENDING if self.asked_to_end else Phase.RUNNING

    def observed(self) -> Observed:
        return Observed(self.run, self.phase, self.started_at_ms, self.exit_reason, last_lines=self.last_lines)

    def ask_to_end(self) -> None:
        """Send SIGTERM, but only once, because a second one could make an agent end without draining."""
        if not self.asked_to_end:
            self.asked_to_end = True
            self.group.terminate()

    async def _see_the_end(self) -> None:
        status = await self.group.wait()
        # Both without a limit, because a process that still lives may use the worker's cards.
        await self.group.wait_for_members()
        await self.leftovers.end(self.marks)
        end = protocol.read_end(os.pread(self.end_file.fileno(), protocol.END_BYTES, 0))
        self.end_file.close()
        remove_socket(self.metrics.address)
        self.exit_reason = describe_exit("agent", status) if end is None else end.reason
        if end is None and not self.asked_to_end:
            text = "worker %s: the %s without reporting a reason; its log: %s"
            logger.warning(text, self.worker_id, self.exit_reason, self.log_path)
        self.last_lines = () if end is None else end.last_lines
        self.note_end()


def _with_agents(orphans: _Orphans) -> frozenset[str]:
    """Return the ids of the workers whose agent still runs.

    Agents run as this user. A container with a user of its own may set the variables of an agent.
    """
    return frozenset(
        found[protocol.WORKER_ID]
        for process, found in orphans
        if protocol.CONTAINER_COMMAND in found and _is_own(process)
    )


def _note_left(orphans: _Orphans) -> set[str]:
    """Log orphans that do not end, and return the ids of their workers."""
    worker_ids = {found[protocol.WORKER_ID] for _, found in orphans}
    left = ", ".join(f"process {process.pid} of {found[protocol.WORKER_ID]}" for process, found in orphans)
    logger.error("processes of workers of an earlier controller do not end: %s", left)
    return worker_ids


def _is_own(process: psutil.Process) -> bool:
    try:
        return process.uids().real == os.getuid()
    except psutil.Error:  # it has ended
        return False


async def _end_groups(orphans: _Orphans, kept: frozenset[str]) -> bool:
    """Kill the groups of orphans, except those of the workers `kept`. Return False if they do not end in time."""
    groups = {kill_group_of(process) for process, found in orphans if found[protocol.WORKER_ID] not in kept}
    return all(await asyncio.gather(*(wait_for_group(group) for group in groups if group is not None)))


def _is_orphan(environment: Mapping[str, str]) -> bool:
    if protocol.WORKER_ID not in environment:
        return False
    pid = environment.get(protocol.CONTROLLER_PID, "")
    started = environment.get(protocol.CONTROLLER_STARTED)
    return not (pid.isascii() and pid.isdigit()) or birth_of(int(pid)) != started


def _can_be_passed(text: str) -> bool:
    """Return True if the text can be an argument or a variable of a process: no NUL, no lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _cannot_start(error: OSError | ValueError) -> str:
    """Return the reason of a failed start in words, with the command or file that it is about."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror is not None:
        reason = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"the worker cannot be started: {reason}"


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
