"""Decide for which worker an agent token may act."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from queue_engine.domain.agent_tokens import AgentPrincipal
from queue_engine.domain.errors import EngineError, Forbidden
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.workers import endpoint_of_worker


class WorkerForbidden(Forbidden):
    """The token may not act for the worker. The message is `worker: <rule>`."""

    def __init__(self, rule: str) -> None:
        EngineError.__init__(self, f"worker: {rule}")


def check_worker(principal: AgentPrincipal, worker_id: str) -> None:
    """Raise WorkerForbidden unless the token may act for this worker of its endpoint.

    The token of a managed worker acts for that worker. Any other token acts for agents that were started by hand. Their
    ids must not look like those of managed workers of any endpoint, because the controller identifies these by id.
    """
    if principal.worker_id is not None:
        if worker_id != principal.worker_id:
            raise WorkerForbidden("the token belongs to another worker")
    elif is_endpoint_id(endpoint_of_worker(worker_id)):
        raise WorkerForbidden("an id that begins with an endpoint's id is that of a worker that the controller manages")


def check_started_by_hand(principal: AgentPrincipal) -> None:
    """Raise WorkerForbidden if a controller maintains the record of the worker."""
    if principal.worker_id is not None:
        raise WorkerForbidden("its record is maintained by the controller")


def is_at(address: str, client: str) -> bool:
    """Return True if `address` (`host:port`) names the IP address of the client that has reported it."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return _plain(host) == _plain(client)
    except ValueError:
        return False


def is_of_machine(client: str, machine: Collection[str]) -> bool:
    """Return True for a loopback address, and for one in `machine`, which holds the addresses of this machine."""
    address = _plain(client)
    return address.is_loopback or any(address == _plain(own) for own in machine)


def _plain(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
