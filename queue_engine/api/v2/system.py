"""`/v2/system`: the store and the processes for operators, and a tenant's part for its keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request

from queue_engine import __version__
from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.domain.principals import Right
from queue_engine.domain.system import Concern, RunningProcess, StoreServer, SystemFacts
from queue_engine.domain.tenants import LIMITS, Limit
from queue_engine.engine.system import SystemState

TAG = "system"


class WarningView(View):
    """Something that is wrong with the installation."""

    code: Concern = Field(description="The kind of problem")
    level: Literal["bad", "warn"] = Field(description="`bad`: work stops, or soon will")
    message: str = Field(description="The problem in a sentence. That for tenants names no process, address or size")


class UseView(View):
    """Use of a limited resource by a tenant."""

    limit: Limit = Field(description="Name of the limit")
    text: str = Field(description="The objects that are limited")
    used: int = Field(description="Number in use")
    value: int = Field(description="The limit; 0: none")


class CertificateView(View):
    """A certificate that a process uses."""

    setting: str = Field(description="The setting that names its file", examples=["QUEUE_ENGINE_TLS_CERT"])
    expires_at: int = Field(description="Its end")


class ProcessView(View):
    """A process of the engine, agents excepted."""

    role: str = Field(description="`api`, `delivery` or `controller`")
    host: str = Field(description="Name of its host")
    pid: int | None = Field(description="Its process id on that host")
    version: str | None = Field(description="Its version; null: an earlier one, which does not tell it")
    data_format: int = Field(description="Number of the data format that it writes")
    started_at: int | None = Field(description="Time of its start; null: an earlier version, which does not tell it")
    last_heartbeat_at: int = Field(description="Time of its latest note, which it renews every 10 seconds")
    leads: bool = Field(description="True for the controller that runs the workers")
    certificates: list[CertificateView] = Field(description="The certificates that it uses")


class ReplicaView(View):
    """A replica of a server of the store."""

    address: str = Field(description="Host and port")
    state: str = Field(description="`online` while it follows")
    lag_seconds: int | None = Field(description="Age of its latest acknowledgement; null: not known")


class StoreServerView(View):
    """A server of the store."""

    address: str | None = Field(description="Host and port of a master of a cluster; null: the only server")
    server: str = Field(description="Program and version", examples=["valkey 8.1.3"])
    uptime_seconds: int = Field(description="Time since its start")
    used_bytes: int = Field(description="Memory in use")
    max_bytes: int | None = Field(description="Memory limit; null: none")
    clients: int = Field(description="Open connections")
    max_clients: int | None = Field(description="Limit of open connections; null: not known")
    latency_ms: float = Field(description="Duration of a call that does nothing, from this API process")
    appends_to_file: bool = Field(description="True if writes go to an append-only file")
    write_error: str | None = Field(description="The part of the persistence that fails; null: none")
    saved_at: int | None = Field(description="Time of the latest snapshot; null: there was none")
    replicas: list[ReplicaView] = Field(description="Its replicas")


class SystemView(View):
    """The state of the installation, as far as the key may see it."""

    version: str = Field(description="Version of this API process")
    as_of: int = Field(description="Time of the state, which is read at most every 5 seconds")
    warnings: list[WarningView] = Field(description="Problems, the worst first")
    use: list[UseView] | None = Field(description="Use of the tenant's limits; null for operators and limited keys")
    store: list[StoreServerView] | None = Field(description="The servers of the store; null for keys of tenants")
    processes: list[ProcessView] | None = Field(description="The running processes; null for keys of tenants")


class SystemRoutes:
    """Read the state of the installation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._system = services.engine.system

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/system", self.get_system, right=Right.IDENTIFY,
                summary="Read the state of the installation", tag=TAG, response=Success[SystemView],
            ),
        ]  # fmt: skip

    async def get_system(self, request: Request) -> Response:
        """An operator's key gets the store, the processes and all warnings. A key of a tenant gets what the tenant uses
        and the warnings that concern it.
        """
        principal = await self._services.admit(request)
        return success(_system_view(await self._system.state(principal)))


def _system_view(state: SystemState) -> dict[str, Any]:
    return {
        "version": __version__,
        "asOf": state.now_ms,
        "warnings": [
            {"code": one.concern, "level": "bad" if one.is_bad else "warn", "message": one.message}
            for one in state.warnings
        ],
        "use": None if state.use is None else [_use_view(*one) for one in state.use.items()],
        "store": None if state.facts is None else [_server_view(one) for one in state.facts.servers],
        "processes": None if state.facts is None else _process_views(state.facts),
    }


def _use_view(limit: Limit, use: tuple[int, int]) -> dict[str, Any]:
    return {"limit": limit, "text": LIMITS[limit].text, "used": use[0], "value": use[1]}


def _server_view(one: StoreServer) -> dict[str, Any]:
    return {
        "address": one.address or None,
        "server": f"{one.name} {one.version}",
        "uptimeSeconds": one.uptime_seconds,
        "usedBytes": one.used_bytes,
        "maxBytes": one.max_bytes or None,
        "clients": one.clients,
        "maxClients": one.max_clients,
        "latencyMs": one.latency_ms,
        "appendsToFile": one.appends_to_file,
        "writeError": one.write_error,
        "savedAt": one.saved_at_ms,
        "replicas": [
            {"address": each.address, "state": each.state, "lagSeconds": each.lag_seconds} for each in one.replicas
        ],
    }


def _process_views(facts: SystemFacts) -> list[dict[str, Any]]:
    return [_process_view(one, leads=facts.leads(one)) for one in facts.processes]


def _process_view(one: RunningProcess, *, leads: bool) -> dict[str, Any]:
    return {
        "role": one.role,
        "host": one.host,
        "pid": one.pid,
        "version": one.version,
        "dataFormat": one.data_format,
        "startedAt": one.started_at_ms,
        "lastHeartbeatAt": one.noted_at_ms,
        "leads": leads,
        "certificates": [{"setting": each.setting, "expiresAt": each.expires_at_ms} for each in one.certificates],
    }
