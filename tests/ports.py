"""Ports for servers that tests start."""

from __future__ import annotations

import os

from queue_engine.net import ports

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """As the engine's, but never the same twice, nor one that another of pytest's workers may get.

    A test's server may be down for a while and come back: its port looks free meanwhile, and must stay its own.
    """
    port = ports.free_port(_not_ours)
    _not_ours.given.add(port)
    return port


class _NotOurs:
    def __init__(self) -> None:
        self.given: set[int] = set()

    def __contains__(self, port: object) -> bool:
        return port in self.given or (isinstance(port, int) and port % _WORKERS != _WORKER % _WORKERS)


_not_ours = _NotOurs()
