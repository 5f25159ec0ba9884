"""The states of containers and the failures of the engine in words. Pure.

Docker and podman describe containers in the same form, with differences in what they fill in: podman 4 never sets
`OOMKilled`, and has the states `initialized`, `configured` and `stopped` besides Docker's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from queue_engine.backends.base import BackendError, Phase
from queue_engine.backends.docker.names import Part
from queue_engine.backends.docker.progress import short
from queue_engine.domain.agent_protocol import container_end
from queue_engine.processes.process_groups import describe_exit

_RUNNING = ("running", "paused", "restarting")
_ENDING = ("stopping", "removing")
_ENDED = ("exited", "stopped", "dead")
_SHELL_SIGNAL_STATUS = 128
_MAX_SIGNAL = 64
_NOT_FOUND = 127
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?\s?(Z|[+-]\d\d:?\d\d)")
_REFUSALS = ("unauthorized", "authentication required", "denied", "forbidden", "status 401", "status 403")
_ABSENCES = ("not found", "manifest unknown", "name unknown", "does not exist", "status 404", "no such image")
_FULL_DISKS = ("no space left", "disk quota")
_MISSING_COMMANDS = ("executable file not found", "no such file or directory", "not found in $path")
_MISSING_DEVICES = (
    "could not select device driver",
    "error gathering device information",
    "nvidia-container-cli",
    "no known gpu vendor",
    "unresolvable cdi devices",
)


@dataclass(frozen=True)
class Explanation:
    """The phase of a container, and its reason for the endpoint's owner."""

    phase: Phase
    reason: str | None = None
    retry_helps: bool = True


class StartFailed(BackendError):
    """A start has failed. Without `retry_helps`, a new one fails too until the endpoint or the host is changed.

    `is_refusal` is True if a registry does not let the endpoint have the image. Registries also say that a private
    image does not exist.
    """

    def __init__(self, reason: str, *, retry_helps: bool, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.retry_helps = retry_helps
        self.is_refusal = is_refusal


def explain(description: Mapping[str, Any], part: Part) -> Explanation:
    """Return the phase of a container and, unless it runs, the reason."""
    state = _mapping(description.get("State"))
    status = str(state.get("Status") or "").lower()
    if status in _RUNNING:
        return Explanation(Phase.RUNNING, "the container is paused" if status == "paused" else None)
    if status in _ENDING:
        return Explanation(Phase.ENDING)
    if status in _ENDED:
        return Explanation(Phase.ENDED, _end_of(description, state, part))
    if error := str(state.get("Error") or ""):
        return Explanation(Phase.ENDED, explain_start_error(error, part))
    return Explanation(Phase.STARTING)


def is_disk_full(message: str) -> bool:
    """Return True if the engine has failed for lack of space on its disk."""
    return any(one in message.lower() for one in _FULL_DISKS)


def explain_start_error(message: str, part: Part) -> str:
    """Return the reason of a container that the engine could not start."""
    lower = message.lower()
    if is_disk_full(message):
        return f"{_what(part)} cannot be started, because the disk is full: {short(message)}"
    if any(one in lower for one in _MISSING_DEVICES):
        return f"{_what(part)} cannot be started, because a device is missing: {short(message)}"
    if "exec" in lower and any(one in lower for one in _MISSING_COMMANDS):
        return f"{_what(part)} cannot be started, because its command is not found: {short(message)}"
    return f"{_what(part)} cannot be started: {short(message)}"


def explain_failed_pull(message: str, *, has_credential: bool) -> StartFailed:
    """Return the error for a pull that failed with the engine's message."""
    lower = message.lower()
    shown = short(message)
    if is_disk_full(message):
        return StartFailed(f"the image cannot be pulled, because the disk is full: {shown}", retry_helps=True)
    refused, absent = (any(one in lower for one in words) for words in (_REFUSALS, _ABSENCES))
    if refused and absent:  # Docker Hub does not distinguish them
        return StartFailed(
            f"the image does not exist, or the registry refuses the credential: {shown}",
            retry_helps=False,
            is_refusal=True,
        )
    if refused:
        what = "refuses the credential" if has_credential else "refuses access without a credential"
        return StartFailed(f"the registry {what}: {shown}", retry_helps=True, is_refusal=True)
    if absent:
        return StartFailed(f"the image does not exist: {shown}", retry_helps=False, is_refusal=True)
    return StartFailed(f"the image cannot be pulled: {shown}", retry_helps=True)


def time_ms(text: object) -> int | None:
    """Return the time in a description as epoch milliseconds; None if the engine has not set it."""
    found = _STAMP.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1].startswith("0001"):
        return None
    seconds = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    return int(seconds.timestamp()) * 1000 + int((found[2] or "0").ljust(9, "0")) // 1_000_000


def _end_of(description: Mapping[str, Any], state: Mapping[str, Any], part: Part) -> str:
    if state.get("OOMKilled"):
        limit = _mapping(description.get("HostConfig")).get("Memory") or 0
        said = f" (limit {limit / 1024**3:.3g} GB)" if part is Part.MAIN and limit else ""
        return f"{_what(part)} ran out of memory{said}"
    code = state.get("ExitCode")
    status = code if isinstance(code, int) else 0
    if error := str(state.get("Error") or ""):
        return explain_start_error(error, part)
    is_signal = _SHELL_SIGNAL_STATUS < status <= _SHELL_SIGNAL_STATUS + _MAX_SIGNAL
    if part is Part.AGENT:
        return describe_exit("agent", _SHELL_SIGNAL_STATUS - status if is_signal else status)
    if status == _NOT_FOUND:
        return f"{container_end(status)} (command not found)"
    return container_end(_SHELL_SIGNAL_STATUS - status if is_signal else status)


def _what(part: Part) -> str:
    return "the container" if part is Part.MAIN else "the agent"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
