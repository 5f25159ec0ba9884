"""An agent that reaches the engine through its API: it has a token of its endpoint, and no access to the store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from queue_engine.agent_protocol import calls, messages
from queue_engine.config.agent import AUTO, AgentSettings
from queue_engine.domain.agent_protocol import SERVER_CA
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.net.authorities import Authorities
from queue_engine.observability import outages
from queue_engine.rules.hosts import is_loopback
from worker_agent.engine import AgentRefused
from worker_agent.ports import until_available
from worker_agent.server.api import Api
from worker_agent.server.http import HttpClient, ServerAddress
from worker_agent.server.record import ServerLog, ServerWorkerRecord
from worker_agent.server.source import ApiLimits, ServerTaskSource
from worker_agent.server.token import TOKEN_FILE, Token


class ServerLink:
    """The ports of an agent over the API: see EngineLink. Raises EngineError for unusable files."""

    def __init__(self, settings: AgentSettings) -> None:
        self._address = ServerAddress.parse(settings.server or "")
        self._http = HttpClient(self._address, _authorities(settings))
        self._api = Api(self._http, _token(settings))
        self._limits: ApiLimits | None = None
        outages.STORE.service = "the API"

    async def open(self, settings: AgentSettings) -> tuple[AgentSettings, str]:
        hello = await self._hello(settings.worker_id)
        self._limits = ApiLimits(hello.max_request_bytes, hello.max_response_bytes, hello.lease_seconds)
        found = settings if settings.is_complete else _completed(settings, hello)
        told: dict[str, float | str] = {
            "lease_seconds": hello.lease_seconds,
            "log_retention_seconds": hello.log_retention_seconds,
        }
        if _advertises_itself(found):
            told["advertise_host"] = self._http.own_host
        return found.model_copy(update=told), str(self._address)

    def source(self, settings: AgentSettings) -> ServerTaskSource:
        if self._limits is None:
            raise RuntimeError("the link is not open")
        return ServerTaskSource(self._api, self._limits, endpoint_id=settings.endpoint, worker_id=settings.worker_id)

    def record(self, settings: AgentSettings) -> ServerWorkerRecord:
        return ServerWorkerRecord(self._api, worker_id=settings.worker_id, run=settings.run)

    def log(self, settings: AgentSettings) -> ServerLog:
        return ServerLog(self._api, worker_id=settings.worker_id)

    async def refusal(self) -> str:
        return await self._api.refusal()

    async def close(self) -> None:
        self._http.close()

    async def _hello(self, worker_id: str) -> messages.HelloResponse:
        """Return the settings of the endpoint. Raises AgentRefused."""

        async def ask() -> messages.HelloResponse:
            try:
                response, _ = await self._api.call(calls.HELLO, messages.WorkerRequest(worker_id))
            except StoreUnavailable as error:
                if self._api.is_refused:
                    raise AgentRefused(error.reason) from None
                raise
            return response

        return await until_available(ask, "hello")


def _completed(settings: AgentSettings, hello: messages.HelloResponse) -> AgentSettings:
    return settings.completed_by(
        service_mode=hello.service_mode,
        concurrency=hello.concurrency,
        exposed_port=hello.exposed_port,
        ready_path=hello.ready_path,
        start_timeout_seconds=hello.start_timeout_seconds,
    )


def _advertises_itself(settings: AgentSettings) -> bool:
    """Return True if the API reaches the container at the agent's own address.

    It is the default when users or the API connect to the container, and the agent reaches it over loopback.
    """
    if settings.advertise_host is not None or settings.service_mode is ServiceMode.QUEUE:
        return settings.advertise_host == AUTO
    return is_loopback(urlsplit(settings.container_url).hostname or "")


def _authorities(settings: AgentSettings) -> Authorities:
    try:
        return Authorities(settings.server_ca, setting=SERVER_CA)
    except (OSError, ValueError) as error:
        raise EngineError(f"{SERVER_CA}: {error}") from error


def _token(settings: AgentSettings) -> Token:
    path = os.environ.get(TOKEN_FILE)
    token = settings.token.get_secret_value() if settings.token is not None else ""
    try:
        return Token(token, Path(path) if path else None, check=settings.check_token)
    except (OSError, ValueError) as error:
        raise EngineError(f"{TOKEN_FILE}: {error}") from error
