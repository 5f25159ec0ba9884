"""The sockets at which an API process, or a group of them, listens: for clients, and for agents in containers."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from queue_engine.api.http.server import BACKLOG, bind, bind_for_agents
from queue_engine.cli.process import bound_or_fail, or_fail
from queue_engine.config.engine import ApiSettings
from queue_engine.processes.sharing import Membership
from queue_engine.rules.hosts import bracketed


@dataclass(frozen=True)
class ApiListeners:
    """The sockets of a process. `agents` is None if it does not listen for agents in containers."""

    clients: socket.socket
    agents: socket.socket | None

    @classmethod
    def bound(cls, settings: ApiSettings) -> Self:
        """Return sockets bound as configured, which refuse connections until `listen`. Raises EngineError."""
        clients = bound_or_fail("QUEUE_ENGINE", partial(bind, settings))
        if settings.agent_host is None:
            return cls(clients, None)
        try:
            agents = bound_or_fail(
                "QUEUE_ENGINE_AGENT", partial(bind_for_agents, str(settings.agent_host), settings.agent_port)
            )
        except BaseException:
            clients.close()
            raise
        return cls(clients, agents)

    @classmethod
    def inherited(cls, membership: Membership) -> Self:
        """Return the sockets that the members of a group share."""
        return cls(membership.listener(), membership.agent_listener())

    def listen(self) -> None:
        """Accept connections from now on. Raises EngineError."""
        or_fail("QUEUE_ENGINE_PORT", lambda: self.clients.listen(BACKLOG))
        if (agents := self.agents) is not None:
            or_fail("QUEUE_ENGINE_AGENT_PORT", lambda: agents.listen(BACKLOG))

    @property
    def port(self) -> int:
        """The port for clients."""
        return _port_of(self.clients)

    @property
    def ports(self) -> frozenset[int]:
        """All ports."""
        return frozenset({self.port} if self.agents is None else {self.port, _port_of(self.agents)})

    @property
    def agent_url(self) -> str | None:
        """The URL for agents in containers, if there is one."""
        if self.agents is None:
            return None
        host, port = self.agents.getsockname()[:2]
        return f"http://{bracketed(host)}:{port}"

    def membership(self, folder: Path, number: int) -> Membership:
        """Return the part of a member that shares these sockets."""
        return Membership(self.clients.fileno(), folder, number, None if self.agents is None else self.agents.fileno())

    def close(self) -> None:
        """Close the sockets. Members keep theirs."""
        self.clients.close()
        if self.agents is not None:
            self.agents.close()


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
