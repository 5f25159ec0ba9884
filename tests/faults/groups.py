"""Stores of several servers, for an engine of the fault suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.servers import StoreServer, valkey_binary
from tests.topology import ClusterSetup, SentinelSetup

DURABLE = {"QUEUE_ENGINE_DURABILITY": "replica"}
"""A write counts when a replica has it: else a fail-over may lose what was acknowledged."""


class SentinelGroup:
    """A master, its replicas and the sentinels that watch them."""

    def __init__(self, setup: SentinelSetup) -> None:
        self.setup = setup

    @property
    def url(self) -> str:
        return self.setup.url

    @property
    def environment(self) -> Mapping[str, str]:
        return DURABLE

    def url_of(self, key: str) -> str:
        return self.setup.master.url

    def start(self) -> None:
        self.setup.restore()

    def resume(self) -> None:
        for server in (*self.setup.servers, *self.setup.sentinels):
            server.resume()


class ClusterGroup:
    """Masters that share the slots, each with a replica; and a server of its own for the background jobs' queue."""

    def __init__(self, setup: ClusterSetup, control: StoreServer) -> None:
        self.setup = setup
        self._control = control

    @property
    def url(self) -> str:
        return self.setup.url

    @property
    def environment(self) -> Mapping[str, str]:
        return DURABLE | {"QUEUE_ENGINE_CONTROL_REDIS_URL": self._control.url}

    def url_of(self, key: str) -> str:
        return self.setup.owner_of(key).url

    def start(self) -> None:
        self.setup.restore()

    def resume(self) -> None:
        for node in self.setup.nodes:
            node.resume()


@contextmanager
def sentinel_group(directory: Path) -> Iterator[SentinelGroup]:
    with SentinelSetup(valkey_binary(), directory) as setup:
        yield SentinelGroup(setup)


@contextmanager
def cluster_group(directory: Path) -> Iterator[ClusterGroup]:
    with (
        StoreServer(valkey_binary(), directory / "control") as control,
        ClusterSetup(valkey_binary(), directory / "nodes") as setup,
    ):
        yield ClusterGroup(setup, control)
