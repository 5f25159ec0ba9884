"""The variables of an agent that follow from the specification of its worker, equal on all platforms. Pure."""

from __future__ import annotations

from queue_engine.backends.base import WorkerSpec
from queue_engine.domain import agent_protocol as protocol


def agent_variables(spec: WorkerSpec) -> dict[str, str]:
    """Return the agent's variables, without its access to the engine."""
    return {
        **({} if spec.exposed_port is None else {protocol.EXPOSED_PORT: str(spec.exposed_port)}),
        **({} if spec.ready_path is None else {protocol.READY_PATH: spec.ready_path}),
        protocol.ENDPOINT: spec.endpoint_id,
        protocol.WORKER_ID: spec.worker_id,
        protocol.RUN: str(spec.run),
        protocol.SERVICE_MODE: spec.service_mode.value,
        protocol.CONCURRENCY: str(spec.concurrency),
        protocol.START_TIMEOUT_SECONDS: str(spec.start_timeout_seconds),
    }
