"""The parts that processes share when they serve one port: the listening socket, and a folder for their metrics.

The parent binds the port and starts the members with these in their environment:

    QUEUE_ENGINE_LISTENER_FD=7             the socket, inherited
    QUEUE_ENGINE_AGENT_LISTENER_FD=8       the socket for agents in containers, if there is one
    QUEUE_ENGINE_GROUP_DIR=/tmp/…          the folder in which each member has a private Unix socket
    QUEUE_ENGINE_GROUP_MEMBER=2            the member's number, from 1

Connections wait in the one queue of the socket, so that those that a dead member has not accepted go to the others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LISTENER_VARIABLE = "QUEUE_ENGINE_LISTENER_FD"
AGENT_LISTENER_VARIABLE = "QUEUE_ENGINE_AGENT_LISTENER_FD"
FOLDER_VARIABLE = "QUEUE_ENGINE_GROUP_DIR"
MEMBER_VARIABLE = "QUEUE_ENGINE_GROUP_MEMBER"
_REQUIRED = (LISTENER_VARIABLE, FOLDER_VARIABLE, MEMBER_VARIABLE)
GROUP_VARIABLES = (*_REQUIRED, AGENT_LISTENER_VARIABLE)


@dataclass(frozen=True)
class Membership:
    """The part of one process in a group."""

    listener_fd: int
    folder: Path
    number: int
    agent_listener_fd: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Return the membership that the parent has passed on; None for a process that is no member."""
        if any(name not in environment for name in _REQUIRED):
            return None
        agent_listener = environment.get(AGENT_LISTENER_VARIABLE)
        return cls(
            int(environment[LISTENER_VARIABLE]),
            Path(environment[FOLDER_VARIABLE]),
            int(environment[MEMBER_VARIABLE]),
            None if agent_listener is None else int(agent_listener),
        )

    def variables(self) -> dict[str, str]:
        """Return the environment variables for the member."""
        return {
            LISTENER_VARIABLE: str(self.listener_fd),
            FOLDER_VARIABLE: str(self.folder),
            MEMBER_VARIABLE: str(self.number),
            **({} if self.agent_listener_fd is None else {AGENT_LISTENER_VARIABLE: str(self.agent_listener_fd)}),
        }

    def fds(self) -> tuple[int, ...]:
        """Return the file descriptors that the member inherits."""
        return (self.listener_fd, *(() if self.agent_listener_fd is None else (self.agent_listener_fd,)))

    def listener(self) -> socket.socket:
        """Return the shared socket. The member's own children do not inherit it."""
        return _inherited(self.listener_fd)

    def agent_listener(self) -> socket.socket | None:
        """Return the shared socket for agents in containers, as `listener` does; None if there is none."""
        return None if self.agent_listener_fd is None else _inherited(self.agent_listener_fd)


def _inherited(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener
