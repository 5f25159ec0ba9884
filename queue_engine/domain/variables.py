"""The environment variables of all processes, and hints about names that none of them reads.

A process ignores a variable that it does not read, so a misspelled setting silently has its default. Each process
therefore looks for names that begin like the engine's and belong to no process. The list is here, below all processes,
because the agent must not import the settings of the others; a test holds it against all settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

ENGINE_PREFIX = "QUEUE_ENGINE_"
AGENT_PREFIX = "WORKER_AGENT_"
MAX_HINTS = 20
MAX_SHOWN_CHARACTERS = 100

_ENGINE = """
    ALB_MAX_BODY_BYTES ALB_TIMEOUT_SECONDS API_KEY API_KEY_FILE BACKEND CATALOGUE_FILE CONTROL_REDIS_URL
    CONTROL_REDIS_URL_FILE DELIVERY_CONNECT_TIMEOUT_SECONDS DELIVERY_LEASE_SECONDS
    DELIVERY_SCHEDULE DELIVERY_SLOTS DELIVERY_TIMEOUT_SECONDS DURABILITY DURABILITY_TIMEOUT_SECONDS HOST
    LEADER_LEASE_SECONDS LEASE_SECONDS LOG_LEVEL LOG_RETENTION_SECONDS MAX_BODY_BYTES MAX_LOST METRICS_HOST
    METRICS_PORT OWN_HOSTS OWN_PORTS PARTITIONS PORT RATE_LIMIT_PER_SECOND READ_TIMEOUT_SECONDS REDIS_URL
    REDIS_URL_FILE SECRET_KEY SECRET_KEY_FILE SECRET_KEY_PREVIOUS SECRET_KEY_PREVIOUS_FILE WEBHOOK_ALLOW
    WEBHOOK_LOOPBACK WORKER_GRACE_SECONDS WORKER_NETWORKS WORKER_SILENCE_SECONDS WORK_DIR
"""
_CONSOLE = "URL API_KEY API_KEY_FILE WEBHOOK_AUTH_KEY WEBHOOK_AUTH_KEY_FILE"
_INTERNAL = "CONTROLLER_PID CONTROLLER_STARTED INSTANCE LIFELINE_FD"
_AGENT = """
    CONCURRENCY CONTAINER_COMMAND CONTAINER_ENVIRONMENT CONTAINER_URL DURABILITY DURABILITY_TIMEOUT_SECONDS ENDPOINT
    END_FD EXPOSED_PORT GRACE_SECONDS LEASE_SECONDS LIFELINE_FD LOG_LEVEL LOG_RETENTION_SECONDS MANAGED
    MAX_ANSWER_BYTES METRICS_FD METRICS_HOST METRICS_PORT OVERRIDDEN_NAMES OWN_NETWORK PARTITIONS READY_PATH
    REDIS_URL REDIS_URL_FILE RUN SECRET_KEY SECRET_KEY_FILE SECRET_KEY_PREVIOUS SECRET_KEY_PREVIOUS_FILE
    SECRET_NAMES SERVICE_MODE START_TIMEOUT_SECONDS WORKER_ID
"""
KNOWN_VARIABLES = frozenset(
    {ENGINE_PREFIX + name for name in f"{_ENGINE} {_CONSOLE} {_INTERNAL}".split()}
    | {AGENT_PREFIX + name for name in _AGENT.split()}
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
    unknown = sorted(
        name for name in names if name.upper().startswith((ENGINE_PREFIX, AGENT_PREFIX)) and name.upper() not in known
    )
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
