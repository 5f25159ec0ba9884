"""Workers as processes of this machine, for a laptop and for tests.

A worker is a process group. Its leader is the agent, a child of the controller. The agent starts the endpoint's command
in the same group (see domain/agent_protocol.py). When the agent ends, the group is killed. Processes that have left the
group are adopted and ended by the agent (processes/orphans.py). If the agent is killed, the controller adopts and ends
them.

There is no isolation: an endpoint's command runs as the controller's user, with all permissions of that user. Its
environment has none of the agent's secrets, but as the same user it could read them from the agent's environment.

No worker outlives its controller: agents watch a lifeline, and drain when the controller has died. If controller and
agents were killed together, the next start finds the remaining processes by their environment (`reap_orphans`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.ids import is_worker_id
from queue_engine.net.ports import LOOPBACK, free_port
from queue_engine.net.private_sockets import listen_privately, remove_folders, remove_socket, remove_unserved
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_command, python_path
from queue_engine.processes.lifeline import Lifeline
from queue_engine.processes.orphans import end_orphans
from queue_engine.processes.process_groups import (
    ProcessGroup,
    birth_of,
    describe_exit,
    is_leader,
    kill_group_of,
    kill_processes_with,
    passed_on,
    processes_with,
    wait_for_group,
)
from queue_engine.processes.processors import usable_processors

AGENT_COMMAND = python_command("worker_agent")
STARTS_PER_CPU = 2
"""Simultaneous starts per processor. A start mostly imports code, so more of them would not finish earlier."""
_KEPT_LOGS = 50
_ORPHAN_POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class ProcessBackend:
    """Runs workers as processes. The guarantees of each method are in `Backend`.

    - `work_dir` has each worker's output in `<worker id>.log`, and the sockets on which agents serve their metrics.
    - `instance_id` names the installation and is the same after a restart of the controller.
    - `environment` is the controller's own; workers get only the variables in PASSED_ON.
    - `epoch_seconds` is the clock of `Observed.started_at_ms`.
    - `end_margin_seconds` after its grace period, a draining worker is killed.
    - `kill_seconds` after that, a worker that is still there is reported as not ended.
    - `max_starting` defaults to STARTS_PER_CPU for each processor.
    - With `adopts_orphans`, this process is a subreaper and starts no processes except workers. All other children are
      orphans of workers, and are ended with them.
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
    ) -> None:
        self._adopts_orphans = adopts_orphans
        self._max_starting = max_starting or STARTS_PER_CPU * usable_processors()
        self._end_margin_seconds = end_margin_seconds
        self._kill_seconds = kill_seconds
        self._work_dir = work_dir
        self._environment = dict(environment)
        self._agent_command = tuple(agent_command)
        self._epoch_seconds = epoch_seconds
        self._lifeline: Lifeline | None = None
        self._workers: dict[str, _Worker] = {}
        self._marks = {
            protocol.INSTANCE: instance_id,
            protocol.CONTROLLER_PID: str(os.getpid()),
            protocol.CONTROLLER_STARTED: birth_of(os.getpid()) or "",
        }

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
        known = self._workers.get(spec.worker_id)
        if known is not None and known.run >= spec.run:
            return
        if known is not None and known.alive:
            raise BackendError("an earlier run of the worker has not ended")
        self._check_can_start(spec)
        # There is no await below, so that a concurrent call cannot start the same worker.
        try:
            self._workers[spec.worker_id] = self._started(spec)
        except (OSError, ValueError) as error:
            raise BackendError(f"the worker cannot be started: {_reason(error)}") from error
        self._forget_old_logs()

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
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
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.asked_to_end = True
            worker.group.kill()
            await self._forget(worker)

    async def observe(self) -> Mapping[str, Observed] | None:
        return {worker_id: worker.observed() for worker_id, worker in self._workers.items()}

    def metrics_targets(self) -> list[AgentTarget]:
        """Return the addresses at which the living agents serve their metrics. May be called from another thread."""
        return [worker.metrics for worker in list(self._workers.values()) if worker.alive]

    async def aclose(self, grace_seconds: float) -> None:
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
        if left:
            raise EndNotConfirmed(f"workers do not end: {', '.join(sorted(left))}")

    async def reap_orphans(self, grace_seconds: float) -> frozenset[str]:
        """End the workers of this instance whose controller has died; return their ids. Call it at start.

        An agent that still runs is already draining, and has the same time as in `stop`. Workers of a living controller
        are not touched.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace_seconds + self._end_margin_seconds
        worker_ids: set[str] = set()
        while orphans := await asyncio.to_thread(self._orphans):
            worker_ids.update(environment[protocol.WORKER_ID] for _, environment in orphans)
            if clock() < deadline and any(protocol.CONTAINER_COMMAND in found for _, found in orphans):
                await asyncio.sleep(_ORPHAN_POLL_SECONDS)
                continue
            groups = {kill_group_of(process) for process, _ in orphans}
            await asyncio.gather(*(wait_for_group(group) for group in groups if group is not None))
        await asyncio.to_thread(remove_unserved, self._work_dir)
        return frozenset(worker_ids)

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

    def _started(self, spec: WorkerSpec) -> _Worker:
        if self._lifeline is None:
            self._lifeline = Lifeline()
        lifeline = self._lifeline.fd
        port = free_port({worker.port for worker in self._workers.values() if worker.alive})
        end_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker has ended
        try:
            group, target = self._started_group(spec, port, lifeline, end_file.fileno())
        except BaseException:
            end_file.close()
            raise
        marks = {**self._marks, protocol.WORKER_ID: spec.worker_id}
        started_at_ms = int(self._epoch_seconds() * 1000)
        log_path = self._log_path(spec.worker_id)
        return _Worker(
            spec.worker_id,
            spec.run,
            port,
            target,
            group,
            log_path,
            end_file,
            marks,
            started_at_ms,
            self._adopts_orphans,
        )

    def _started_group(
        self, spec: WorkerSpec, port: int, lifeline: int, end_fd: int
    ) -> tuple[ProcessGroup, AgentTarget]:
        metrics, address = listen_privately(self._work_dir)
        with metrics:
            try:
                group = ProcessGroup.start(
                    self._agent_command,
                    environment=self._agent_environment(spec, port, lifeline)
                    | {protocol.METRICS_FD: str(metrics.fileno()), protocol.END_FD: str(end_fd)},
                    log=BoundedLog(self._log_path(spec.worker_id)),
                    inherited_fds=(lifeline, metrics.fileno(), end_fd),
                )
            except BaseException:
                remove_socket(address)
                raise
        return group, AgentTarget(spec.endpoint_id, spec.worker_id, address)

    def _log_path(self, worker_id: str) -> Path:
        return self._work_dir / f"{worker_id}.log"

    def _agent_environment(self, spec: WorkerSpec, port: int, lifeline: int) -> dict[str, str]:
        exposed = {} if spec.exposed_port is None else {protocol.EXPOSED_PORT: str(spec.exposed_port)}
        ready = {} if spec.ready_path is None else {protocol.READY_PATH: spec.ready_path}
        container = self._container_environment(spec, port)
        given = [name for name, value in spec.environment.items() if container[name] == value]
        secret = [name for name in given if name not in spec.plain_variables]
        overridden = [name for name in spec.environment if name not in given]
        return {
            **passed_on(self._environment),
            **python_path(self._environment),  # for the agent's code only, not for the container
            **spec.agent_environment,
            **self._marks,
            **exposed,
            **ready,
            protocol.ENDPOINT: spec.endpoint_id,
            protocol.WORKER_ID: spec.worker_id,
            protocol.RUN: str(spec.run),
            protocol.SERVICE_MODE: spec.service_mode.value,
            protocol.CONCURRENCY: str(spec.concurrency),
            protocol.START_TIMEOUT_SECONDS: str(spec.start_timeout_seconds),
            protocol.CONTAINER_URL: _container_url(spec, port),
            protocol.CONTAINER_COMMAND: spec.command or "",
            protocol.CONTAINER_ENVIRONMENT: json.dumps(container),
            protocol.SECRET_NAMES: json.dumps(secret),
            protocol.OVERRIDDEN_NAMES: json.dumps(overridden),
            protocol.LIFELINE_FD: str(lifeline),
        }

    def _container_environment(self, spec: WorkerSpec, port: int) -> dict[str, str]:
        # The variables by which orphans are found come last, so that an endpoint cannot override them.
        return {
            **passed_on(self._environment),
            "PYTHONUNBUFFERED": "1",  # because a Python program that is killed loses buffered output
            **spec.environment,
            protocol.CONTAINER_PORT: str(port),
            **self._marks,
            protocol.WORKER_ID: spec.worker_id,
        }

    def _orphans(self) -> list[tuple[psutil.Process, Mapping[str, str]]]:
        ours = {protocol.INSTANCE: self._marks[protocol.INSTANCE]}
        return [(process, found) for process, found in processes_with(ours) if _is_orphan(found)]

    def _forget_old_logs(self) -> None:
        """Remove all logs except those of living workers and the newest others. Ids are never reused."""
        names = {f"{worker_id}.log" for worker_id in self._workers}
        old = [path for path in self._work_dir.glob("*.log") if path.name not in names]
        old.sort(key=_modified_at, reverse=True)
        for path in old[_KEPT_LOGS:]:
            BoundedLog(path).remove()


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
    adopts_orphans: bool
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
        if self.adopts_orphans:
            await end_orphans(keep=is_leader)
        else:
            # Processes that have left the group, such as daemons, are found by their environment.
            await kill_processes_with(self.marks)
        end = protocol.read_end(os.pread(self.end_file.fileno(), protocol.END_BYTES, 0))
        self.end_file.close()
        remove_socket(self.metrics.address)
        self.exit_reason = describe_exit("agent", status) if end is None else end.reason
        if end is None and not self.asked_to_end:
            text = "worker %s: the %s without reporting a reason; its log: %s"
            logger.warning(text, self.worker_id, self.exit_reason, self.log_path)
        self.last_lines = () if end is None else end.last_lines


def _container_url(spec: WorkerSpec, port: int) -> str:
    """Return the container's URL; without a port for a CUSTOM container without exposed port, which may not listen."""
    silent = spec.service_mode is ServiceMode.CUSTOM and spec.exposed_port is None
    return f"http://{LOOPBACK}" if silent else f"http://{LOOPBACK}:{port}"


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


def _reason(error: OSError | ValueError) -> str:
    """Return the reason of a failed start, with the command or file that it is about."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
