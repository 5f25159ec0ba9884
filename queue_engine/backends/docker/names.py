"""Names and labels of the containers of a worker, by which they are found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from queue_engine.domain.ids import is_endpoint_id, is_worker_id

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "queue-engine"
INSTANCE = "queue-engine/instance"
ENDPOINT = "queue-engine/endpoint"
WORKER = "queue-engine/worker"
RUN = "queue-engine/run"
PART = "queue-engine/part"
VARIABLES = "queue-engine/variables"
"""A JSON array: the names of the endpoint's variables, because an engine mixes them with those of the image."""
GPUS = "queue-engine/gpus"
"""Comma-separated identifiers of the GPUs that the worker has."""
NOTE = "queue-engine/note"
"""The first line of the log, for example that the host has no GPU for the worker. Only the agent's container has it."""


class Part(StrEnum):
    """A container of a worker."""

    AGENT = "agent"
    MAIN = "main"


@dataclass(frozen=True)
class Identity:
    """The worker, the start and the part that a container is."""

    endpoint_id: str
    worker_id: str
    run: int
    part: Part

    @property
    def name(self) -> str:
        """The container's name. The engine refuses a second container with it, so that a part is made once."""
        return f"qe-{self.worker_id}-{self.run}-{self.part}"

    def labels(self, instance: str, gpus: tuple[str, ...] = ()) -> dict[str, str]:
        """Return the labels of the container."""
        return {
            MANAGED_BY: MANAGER,
            INSTANCE: instance,
            ENDPOINT: self.endpoint_id,
            WORKER: self.worker_id,
            RUN: str(self.run),
            PART: self.part,
            GPUS: ",".join(gpus),
        }


def identity_of(labels: Mapping[str, str]) -> Identity | None:
    """Return the identity that labels state; None if the container is not a part of a worker."""
    endpoint_id, worker_id, run = (labels.get(name, "") for name in (ENDPOINT, WORKER, RUN))
    is_number = run.isascii() and run.isdigit() and len(run) < 19
    if not (is_endpoint_id(endpoint_id) and is_worker_id(worker_id) and is_number):
        return None
    try:
        part = Part(labels.get(PART, ""))
    except ValueError:
        return None
    return Identity(endpoint_id, worker_id, int(run), part)


def gpus_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the identifiers of the GPUs that a container's worker has."""
    return tuple(one for one in labels.get(GPUS, "").split(",") if one)
