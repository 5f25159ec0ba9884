"""Hints about environment variables that no process reads.

A process ignores a variable that it does not read, so a misspelled setting silently has its default. Each process
therefore looks for unknown names with a prefix of the engine or the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from queue_engine.config.agent import AgentSettings
from queue_engine.config.base import ProcessSettings, variables_of
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings, UpSettings
from queue_engine.config.names import AGENT_PREFIX, CLIENT_VARIABLES, ENGINE_PREFIX, is_prefixed
from queue_engine.domain import agent_protocol
from queue_engine.processes.lifeline import LIFELINE_VARIABLE
from queue_engine.processes.sharing import GROUP_VARIABLES
from queue_engine.processes.start_notice import NOTICE_VARIABLE

PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "api": ApiSettings,
    "delivery": DeliverySettings,
    "controller": ControllerSettings,
    "up": UpSettings,
    "worker-agent": AgentSettings,
}
"""The settings of each process, by its name."""

MAX_HINTS = 20
MAX_SHOWN_CHARACTERS = 100
OWN_CUTOFF = 0.7
"""Similarity of a name with the same prefix. With less, names that only end alike would come before the same name with
the other prefix."""

_INTERNAL = (
    agent_protocol.INSTANCE,
    agent_protocol.CONTROLLER_PID,
    agent_protocol.CONTROLLER_STARTED,
    agent_protocol.CARDS,
)
KNOWN_VARIABLES = frozenset(
    {LIFELINE_VARIABLE, NOTICE_VARIABLE, *GROUP_VARIABLES, *_INTERNAL, *CLIENT_VARIABLES}
    | {variable for settings in PROCESSES.values() for variable in variables_of(settings)}
)

REMOVED_VARIABLES = {
    "QUEUE_ENGINE_DELIVERY_PROFILE": "is removed: in place of `upstream` set QUEUE_ENGINE_DELIVERY_SCHEDULE=60,300,900"
}
"""Settings of earlier versions, with the replacement of each."""


def removed_variables(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that was a setting of an earlier version: a process must not ignore it."""
    return [f"{name} {REMOVED_VARIABLES[name.upper()]}" for name in names if name.upper() in REMOVED_VARIABLES]


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return a sentence for each unknown name with a prefix of a setting, with the nearest known name.

    Returns the first MAX_HINTS in order of name. A removed variable is left out, because the engine refuses to start
    with it. A sentence never contains a value.
    """
    known = KNOWN_VARIABLES | REMOVED_VARIABLES.keys()
    unknown = sorted(name for name in names if is_prefixed(name) and name.upper() not in known)
    return [_hint(name) for name in unknown[:MAX_HINTS]]


def _hint(name: str) -> str:
    nearest = _nearest(name.upper())
    shown = ascii(name[:MAX_SHOWN_CHARACTERS])[1:-1]
    return f"unknown variable {shown}" + (f": did you mean {nearest}?" if nearest else ": no process reads it")


def _nearest(name: str) -> str | None:
    """Return the nearest name. Only the parts after the prefixes are compared: prefixes make all names similar."""
    prefix = ENGINE_PREFIX if name.startswith(ENGINE_PREFIX) else AGENT_PREFIX
    own = sorted(one.removeprefix(prefix) for one in KNOWN_VARIABLES if one.startswith(prefix))
    rest = name.removeprefix(prefix)[:MAX_SHOWN_CHARACTERS]
    if close := get_close_matches(rest, own, n=1, cutoff=OWN_CUTOFF):
        return prefix + close[0]
    close = get_close_matches(rest, sorted(one.split("_", 2)[2] for one in KNOWN_VARIABLES), n=1)
    return next((one for one in sorted(KNOWN_VARIABLES) if close and one.split("_", 2)[2] == close[0]), None)
