"""What the process backend and the agent agree on: environment variables, and how the agent says why it ended.

Everything goes through the environment, because command lines can be read by every user of the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

ENDPOINT = "WORKER_AGENT_ENDPOINT"
WORKER_ID = "WORKER_AGENT_WORKER_ID"
RUN = "WORKER_AGENT_RUN"
"""The number of this start of the worker: the store refuses reports by agents of earlier starts."""
CONCURRENCY = "WORKER_AGENT_CONCURRENCY"
SERVICE_MODE = "WORKER_AGENT_SERVICE_MODE"
"""The endpoint's mode: only the agents of QUEUE endpoints claim tasks."""
CONTAINER_URL = "WORKER_AGENT_CONTAINER_URL"
"""Where the container listens, as the agent reaches it: `http://127.0.0.1:<port>`; without a port when it need not."""
EXPOSED_PORT = "WORKER_AGENT_EXPOSED_PORT"
"""The port that the endpoint exposes; absent when it exposes none."""
READY_PATH = "WORKER_AGENT_READY_PATH"
"""The path that responds 2xx when the container is ready; absent when the open port is enough."""
START_TIMEOUT_SECONDS = "WORKER_AGENT_START_TIMEOUT_SECONDS"
"""The time limit for one start, until the container is ready."""
CONTAINER_COMMAND = "WORKER_AGENT_CONTAINER_COMMAND"
"""The command that the agent runs as its child, in its own process group, by `/bin/sh -c`."""
CONTAINER_ENVIRONMENT = "WORKER_AGENT_CONTAINER_ENVIRONMENT"
"""A JSON object of strings: the complete environment of that child; nothing else is passed on to it."""
SECRET_NAMES = "WORKER_AGENT_SECRET_NAMES"  # noqa: S105 - the name of a variable
"""A JSON array: the variables in that environment whose values are masked in the container's log."""
LIFELINE_FD = "WORKER_AGENT_LIFELINE_FD"
"""A pipe's reading end. At the end of the file the agent drains and ends, then kills its process group."""

METRICS_FD = "WORKER_AGENT_METRICS_FD"
"""A listening Unix socket for the agent's metrics: the backend knows its address, and the agent needs no port."""

INSTANCE = "QUEUE_ENGINE_INSTANCE"
CONTROLLER_PID = "QUEUE_ENGINE_CONTROLLER_PID"
CONTROLLER_STARTED = "QUEUE_ENGINE_CONTROLLER_STARTED"
"""With INSTANCE and CONTROLLER_PID it tells whose worker a process is; agent and container both carry the three."""

OVERRIDDEN_NAMES = "WORKER_AGENT_OVERRIDDEN_NAMES"
"""A JSON array: variables of the endpoint that the engine sets to other values; the container's log says so."""
END_FD = "WORKER_AGENT_END_FD"
"""A file of the backend's, opened for writing: the agent writes there why it ends by itself, see `write_end`."""
END_BYTES = 256 * 1024
_END_LINES = 20
_END_LINE_CHARACTERS = 1000

CONTAINER_PORT = "PORT"
"""In the container's environment: the port that it must listen on."""

STATUS_CONTAINER_ENDED = 70
"""The agent's exit status when it ends because the container has ended."""

# How a worker ends in order: SIGTERM to the agent; its attempts may finish for the grace, which is a setting; then the
# agent has END_MARGIN_SECONDS for the rest, in this order, before the backend ends the whole worker by force.
RELEASE_SECONDS = 2.0
"""Of the margin: unfinished attempts go back to the store, all at once and before anything else."""
CONTAINER_STOP_SECONDS = 5.0
"""Of the margin: between SIGTERM and SIGKILL to the container."""
LOG_FLUSH_SECONDS = 2.0
"""Of the margin: the last lines of the container's log go to the store."""
END_MARGIN_SECONDS = 10.0
"""More than the three together, because a loaded machine runs the agent late."""

_SIGKILL = 9
_SIGNAL_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
}
_SHELL_SIGNAL_STATUS = 128
"""A shell whose command was ended by a signal exits with this plus the signal's number."""


def container_end(status: int) -> str:
    """Return how a container ended by itself, for its owner: `container killed by signal 11 (SIGSEGV)`.

    A negative status is a signal, as in subprocess. SIGKILL is perhaps the kernel's, for lack of memory, because the
    engine does not call this for containers that it ended. It is not known: the kernel counts such ends for a machine
    or a control group, and a worker that is a process has none of its own.
    """
    if status < 0:
        return f"container killed by signal {-status}{_signal_name(-status)}{_memory(-status)}"
    number = status - _SHELL_SIGNAL_STATUS
    if _signal_name(number):
        return f"container exited with status {status}{_signal_name(number)}{_memory(number)}"
    return f"container exited with status {status}"


@dataclass(frozen=True)
class WorkerEnd:
    """Why a worker has ended by itself, in its agent's words."""

    reason: str
    last_lines: tuple[str, ...] = ()
    """What the container of this start wrote last, oldest first, without the endpoint's secrets."""


def write_end(end: WorkerEnd) -> bytes:
    """Return what the agent writes to END_FD; at most END_BYTES."""
    lines = [line[:_END_LINE_CHARACTERS] for line in end.last_lines[-_END_LINES:]]
    return json.dumps({"reason": end.reason[:_END_LINE_CHARACTERS], "lines": lines}).encode()


def read_end(data: bytes) -> WorkerEnd | None:
    """Return what an agent has written; None when it wrote nothing, or was killed while it did."""
    try:
        said = json.loads(data)
        return WorkerEnd(str(said["reason"]), tuple(map(str, said["lines"])))
    except (ValueError, KeyError, TypeError):
        return None


def _signal_name(number: int) -> str:
    return f" ({_SIGNAL_NAMES[number]})" if number in _SIGNAL_NAMES else ""


def _memory(number: int) -> str:
    return ", perhaps out of memory" if number == _SIGKILL else ""
