"""Hints about environment variables that no process reads.

A process ignores a variable that it does not read, so a misspelled setting silently has its default. Each process
therefore looks for names that begin like the engine's and belong to no process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from queue_engine.config.agent import AgentSettings
from queue_engine.config.base import ProcessSettings, variables_of
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings
from queue_engine.config.names import AGENT_PREFIX, CLIENT_VARIABLES, ENGINE_PREFIX, is_prefixed
from queue_engine.domain import agent_protocol
from queue_engine.processes.lifeline import LIFELINE_VARIABLE

PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "api": ApiSettings,
    "delivery": DeliverySettings,
    "controller": ControllerSettings,
    "worker-agent": AgentSettings,
}
"""The settings of each process, by its name."""

MAX_HINTS = 20
MAX_SHOWN_CHARACTERS = 100

_INTERNAL = (agent_protocol.INSTANCE, agent_protocol.CONTROLLER_PID, agent_protocol.CONTROLLER_STARTED)
KNOWN_VARIABLES = frozenset(
    {LIFELINE_VARIABLE, *_INTERNAL, *CLIENT_VARIABLES}
    | {variable for settings in PROCESSES.values() for variable in variables_of(settings)}
)

REMOVED_VARIABLES = {
    "QUEUE_ENGINE_DELIVERY_PROFILE": "is removed: in place of `upstream` set QUEUE_ENGINE_DELIVERY_SCHEDULE=60,300,900"
}
"""Settings of earlier versions, each with what to set instead."""


def removed_variables(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that was a setting of an earlier version: a process must not ignore it."""
    return [f"{name} {REMOVED_VARIABLES[name.upper()]}" for name in names if name.upper() in REMOVED_VARIABLES]


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that begins like a setting and is none, with the nearest known name.

    Only the first MAX_HINTS in order of name, never a value, and no removed variable: the engine refuses to start then.
    """
    known = KNOWN_VARIABLES | REMOVED_VARIABLES.keys()
    unknown = sorted(name for name in names if is_prefixed(name) and name.upper() not in known)
    return [_hint(name) for name in unknown[:MAX_HINTS]]


def _hint(name: str) -> str:
    nearest = _nearest(name.upper())
    shown = ascii(name[:MAX_SHOWN_CHARACTERS])[1:-1]
    return f"unknown variable {shown}" + (f": did you mean {nearest}?" if nearest else ": no process reads it")


def _nearest(name: str) -> str | None:
    """Compare what comes after the prefixes: with them, any two names would be alike."""
    prefix = ENGINE_PREFIX if name.startswith(ENGINE_PREFIX) else AGENT_PREFIX
    own = sorted(one.removeprefix(prefix) for one in KNOWN_VARIABLES if one.startswith(prefix))
    rest = name.removeprefix(prefix)[:MAX_SHOWN_CHARACTERS]
    if close := get_close_matches(rest, own, n=1):
        return prefix + close[0]
    close = get_close_matches(rest, sorted(one.split("_", 2)[2] for one in KNOWN_VARIABLES), n=1)
    return next((one for one in sorted(KNOWN_VARIABLES) if close and one.split("_", 2)[2] == close[0]), None)
