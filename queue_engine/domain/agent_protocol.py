"""Protocol between the backends and the agent: environment variables, and how the agent reports why it ended.

All settings go through the environment, because every user of the machine can read command lines.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

ENDPOINT = "WORKER_AGENT_ENDPOINT"
WORKER_ID = "WORKER_AGENT_WORKER_ID"
RUN = "WORKER_AGENT_RUN"
"""The number of this start of the worker. The store refuses reports from agents of earlier starts."""
CONCURRENCY = "WORKER_AGENT_CONCURRENCY"
SERVICE_MODE = "WORKER_AGENT_SERVICE_MODE"
"""The endpoint's mode: only the agents of QUEUE endpoints claim tasks."""
CONTAINER_URL = "WORKER_AGENT_CONTAINER_URL"
"""The URL at which the agent reaches the container: `http://127.0.0.1:<port>`; without a port if none is needed."""
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
SERVER = "WORKER_AGENT_SERVER"
"""The URL of the API, for an agent that uses it instead of the store."""
CONTAINER_NETWORK = "WORKER_AGENT_CONTAINER_NETWORK"
"""`true` if the agent's default gateway is that of a container network, which is an address of the engine's machine."""
OWN_NETWORK = "WORKER_AGENT_OWN_NETWORK"
"""`true` if only the agent and its container are in their network."""
SERVER_CA = "WORKER_AGENT_SERVER_CA"
"""A file with the certificate authorities that are trusted for that URL besides the system's."""
ADVERTISE_HOST = "WORKER_AGENT_ADVERTISE_HOST"
"""The host at which the API reaches the container of an ALB or CUSTOM endpoint."""
DRAIN_HOOK = "WORKER_AGENT_DRAIN_HOOK"
"""`true` if the end of the container waits for the agent: the agent then serves DRAINED_PATH beside its metrics."""
DRAINED_PATH = "/drained"
"""Path that responds once the agent has drained."""
METRICS_HOST = "WORKER_AGENT_METRICS_HOST"
METRICS_PORT = "WORKER_AGENT_METRICS_PORT"
LIFELINE_FD = "WORKER_AGENT_LIFELINE_FD"
"""A pipe's reading end. When the pipe is closed, the agent drains and exits, then kills its process group."""

METRICS_FD = "WORKER_AGENT_METRICS_FD"
"""A listening Unix socket for the agent's metrics: the backend knows its address, and the agent needs no port."""

INSTANCE = "QUEUE_ENGINE_INSTANCE"
CONTROLLER_PID = "QUEUE_ENGINE_CONTROLLER_PID"
CONTROLLER_STARTED = "QUEUE_ENGINE_CONTROLLER_STARTED"
"""With INSTANCE and CONTROLLER_PID, identifies the worker of a process; agent and container both have all three."""

CARDS = "QUEUE_ENGINE_CARDS"
"""The UUIDs of the GPUs that the worker holds, comma-separated; agent and container both have it. By it, cards that a
worker of a dead controller holds are not handed out."""
CONTAINER_USER = "WORKER_AGENT_CONTAINER_USER"
"""The id of the user, and of the group, as which the container runs; absent: as the agent's."""
LOG_NOTES = "WORKER_AGENT_LOG_NOTES"
"""A JSON array: lines at the beginning of the container's log."""
OVERRIDDEN_NAMES = "WORKER_AGENT_OVERRIDDEN_NAMES"
"""A JSON array: variables of the endpoint that the engine sets to other values; the container's log says so."""
END_FD = "WORKER_AGENT_END_FD"
"""A file of the backend, opened for writing. An agent that exits unasked writes its reason there with `write_end`."""
END_BYTES = 256 * 1024
_END_LINES = 20
_END_LINE_CHARACTERS = 1000

CONTAINER_PORT = "PORT"
"""In the container's environment: the port that it must listen on."""

STATUS_CONTAINER_ENDED = 70
"""The agent's exit status when it ends because the container has ended."""
STATUS_REFUSED = 77
"""The agent's exit status when it ends because the engine refuses its token (EX_NOPERM of sysexits.h)."""

# Graceful shutdown of a worker: the backend sends SIGTERM to the agent. Running attempts may finish during the grace
# period, which is a setting. Then the agent has END_MARGIN_SECONDS for the steps below, in this order, before the
# backend kills the whole worker.
RELEASE_SECONDS = 2.0
"""Part of the margin: release unfinished attempts to the store, all at once, before the other steps."""
CONTAINER_STOP_SECONDS = 5.0
"""Part of the margin: time between SIGTERM and SIGKILL to the container."""
LOG_FLUSH_SECONDS = 2.0
"""Part of the margin: send the last lines of the container's log to the store."""
END_MARGIN_SECONDS = 10.0
"""More than the sum of the three parts, because a loaded machine runs the agent late."""

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
    """Describe to the owner how a container exited unasked: `container killed by signal 11 (SIGSEGV)`.

    A negative status is a signal, as in subprocess. The engine does not call this for containers that it killed, so
    SIGKILL may come from the kernel's out-of-memory killer. The text says "perhaps", because the kernel counts such
    kills for a machine or a control group, and a worker that is a process has no control group of its own.
    """
    if status < 0:
        return f"container killed by signal {-status}{_signal_name(-status)}{_memory(-status)}"
    number = status - _SHELL_SIGNAL_STATUS
    if _signal_name(number):
        return f"container exited with status {status}{_signal_name(number)}{_memory(number)}"
    return f"container exited with status {status}"


@dataclass(frozen=True)
class WorkerEnd:
    """The reason why a worker exited unasked, as reported by its agent."""

    reason: str
    last_lines: tuple[str, ...] = ()
    """The last log lines of the container of this start, oldest first, without the endpoint's secrets."""


def write_end(end: WorkerEnd) -> bytes:
    """Return the bytes that the agent writes to END_FD, at most END_BYTES."""
    lines = [line[:_END_LINE_CHARACTERS] for line in end.last_lines[-_END_LINES:]]
    return json.dumps({"reason": end.reason[:_END_LINE_CHARACTERS], "lines": lines}).encode()


def read_end(data: bytes) -> WorkerEnd | None:
    """Parse the bytes that an agent wrote. Return None if it wrote nothing or was killed while writing."""
    try:
        said = json.loads(data)
        return WorkerEnd(str(said["reason"]), tuple(map(str, said["lines"])))
    except (ValueError, KeyError, TypeError):
        return None


def _signal_name(number: int) -> str:
    return f" ({_SIGNAL_NAMES[number]})" if number in _SIGNAL_NAMES else ""


def _memory(number: int) -> str:
    return ", perhaps out of memory" if number == _SIGKILL else ""
