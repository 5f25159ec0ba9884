"""The environments of a worker of the process backend: the agent's, and that of its container. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from queue_engine.backends.agent_variables import agent_variables
from queue_engine.backends.base import WorkerSpec
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.gpus import HandedOut
from queue_engine.net.ports import LOOPBACK
from queue_engine.processes.interpreter import python_path
from queue_engine.processes.process_groups import passed_on

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_CUDA_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Lets CUDA number the cards as the inventory does. Indexes are used, because programs such as vLLM fail on UUIDs."""
_USER_NAME = "worker"
"""The name of a user without an account, because programs that look for their user's name fail without one."""


@dataclass(frozen=True)
class ContainerUser:
    """The user as which a container runs, if it is not the agent's."""

    user_id: int
    home: Path


@dataclass(frozen=True)
class Surroundings:
    """A backend's decisions about a worker, beside its specification."""

    marks: Mapping[str, str]
    """The variables by which the worker's processes are found."""
    port: int
    handed_out: HandedOut = field(default_factory=HandedOut)
    gpus_are_assigned: bool = False
    """True if the container must see no other cards than those."""
    user: ContainerUser | None = None


def agent_environment(spec: WorkerSpec, inherited: Mapping[str, str], around: Surroundings) -> dict[str, str]:
    """Return the agent's environment, without the descriptors that it inherits. `inherited` is the controller's."""
    container = container_environment(spec, inherited, around)
    given = [name for name, value in spec.environment.items() if container[name] == value]
    secret = [name for name in given if name not in spec.plain_variables]
    overridden = [name for name in spec.environment if name not in given]
    return {
        **_without_gpus(passed_on(inherited)),
        **python_path(inherited),  # for the agent's code only, not for the container
        **spec.agent_environment,
        **around.marks,
        **_cards(around),
        **_optional(around),
        **agent_variables(spec),
        protocol.CONTAINER_URL: _container_url(spec, around.port),
        protocol.CONTAINER_COMMAND: spec.command or "",
        protocol.CONTAINER_ENVIRONMENT: json.dumps(container),
        protocol.SECRET_NAMES: json.dumps(secret),
        protocol.OVERRIDDEN_NAMES: json.dumps(overridden),
    }


def container_environment(spec: WorkerSpec, inherited: Mapping[str, str], around: Surroundings) -> dict[str, str]:
    """Return the complete environment of the container."""
    # The variables by which orphans are found come last, so that an endpoint cannot override them.
    return {
        **_as_user(passed_on(inherited), around.user),
        "PYTHONUNBUFFERED": "1",  # because a Python program that is killed loses buffered output
        **spec.environment,
        protocol.CONTAINER_PORT: str(around.port),
        **around.marks,
        protocol.WORKER_ID: spec.worker_id,
        **_visible_cards(around),
        **_cards(around),
    }


def _optional(around: Surroundings) -> dict[str, str]:
    """Return the agent's variables that are absent where they would say nothing."""
    found = {
        protocol.CONTAINER_USER: "" if around.user is None else str(around.user.user_id),
        protocol.LOG_NOTES: json.dumps([around.handed_out.note]) if around.handed_out.note else "",
    }
    return {name: value for name, value in found.items() if value}


def _as_user(passed: Mapping[str, str], user: ContainerUser | None) -> dict[str, str]:
    """Replace the variables about the controller's user by those of the container's."""
    if user is None:
        return dict(passed)
    names = {"HOME": str(user.home), "TMPDIR": str(user.home), "USER": _USER_NAME, "LOGNAME": _USER_NAME}
    return {**passed, **names}


def _visible_cards(around: Surroundings) -> dict[str, str]:
    if not around.gpus_are_assigned:
        return {}
    indexes = ",".join(str(card.index) for card in around.handed_out.cards)
    return {CUDA_VISIBLE_DEVICES: indexes, **_CUDA_ORDER}


def _cards(around: Surroundings) -> dict[str, str]:
    cards = around.handed_out.cards
    return {protocol.CARDS: ",".join(card.uuid for card in cards)} if cards else {}


def _without_gpus(passed: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in passed.items() if name != CUDA_VISIBLE_DEVICES}


def _container_url(spec: WorkerSpec, port: int) -> str:
    """Return the container's URL; without a port for a CUSTOM container without exposed port, which may not listen."""
    silent = spec.service_mode is ServiceMode.CUSTOM and spec.exposed_port is None
    return f"http://{LOOPBACK}" if silent else f"http://{LOOPBACK}:{port}"
