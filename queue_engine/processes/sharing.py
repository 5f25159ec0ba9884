"""The parts that processes share when they serve one port: the listening socket, and a folder for their metrics.

The parent binds the port and starts the members with both in their environment:

    QUEUE_ENGINE_LISTENER_FD=7             the socket, inherited
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
FOLDER_VARIABLE = "QUEUE_ENGINE_GROUP_DIR"
MEMBER_VARIABLE = "QUEUE_ENGINE_GROUP_MEMBER"
GROUP_VARIABLES = (LISTENER_VARIABLE, FOLDER_VARIABLE, MEMBER_VARIABLE)


@dataclass(frozen=True)
class Membership:
    """The part of one process in a group."""

    listener_fd: int
    folder: Path
    number: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Return the membership that the parent has passed on; None for a process that is no member."""
        if any(name not in environment for name in GROUP_VARIABLES):
            return None
        return cls(
            int(environment[LISTENER_VARIABLE]), Path(environment[FOLDER_VARIABLE]), int(environment[MEMBER_VARIABLE])
        )

    def variables(self) -> dict[str, str]:
        """Return the environment variables for the member."""
        return {
            LISTENER_VARIABLE: str(self.listener_fd),
            FOLDER_VARIABLE: str(self.folder),
            MEMBER_VARIABLE: str(self.number),
        }

    def listener(self) -> socket.socket:
        """Return the shared socket. The member's own children do not inherit it."""
        os.set_inheritable(self.listener_fd, False)
        listener = socket.socket(fileno=self.listener_fd)
        listener.setblocking(False)
        return listener
