"""The addresses of workers to which connections are allowed.

The address is in the worker's record, written by the worker's agent. Without these rules, anyone with an agent or write
access to the store could make the API connect to a cloud's metadata service, the store or the API itself. The operator
configures the networks of workers; some addresses are refused regardless of the configuration.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from queue_engine.rules.webhook_urls import EMBEDDED_IPV4, ISATAP, Address, Network, is_isatap, points_back, special_use

DEFAULT_WORKER_NETWORKS: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # the pods of several clouds, and private networks between clouds
        "::1/128",
        "fc00::/7",
    )
)

_NEVER: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        # Metadata and other services that cloud platforms offer to each machine
        ("168.63.129.16/32", "a cloud platform's own service"),
        ("100.100.100.200/32", "a cloud platform's own service"),
        ("100.100.100.100/32", "a cloud platform's own service"),
        ("192.0.0.192/32", "a cloud platform's own service"),
        ("fd00:ec2::/32", "a cloud platform's own service"),
        ("fd00:42::42/128", "a cloud platform's own service"),
        ("fd00:c1::a9fe:a9fe/128", "a cloud platform's own service"),
        ("fd20:ce::254/128", "a cloud platform's own service"),
    )
)


@dataclass(frozen=True)
class WorkerPolicy:
    """Addresses of workers: inside `networks`, and none of the engine's own listeners.

    `own_ports` are the engine's ports on this machine. A port of the store is refused at every address, because the
    store's name may resolve to several addresses.
    """

    networks: tuple[Network, ...] = DEFAULT_WORKER_NETWORKS
    own_ports: frozenset[int] = frozenset()
    store_ports: frozenset[int] = frozenset()

    def refusal(self, address: str, port: int, machine: Collection[str] = ()) -> str | None:
        """Return the reason to refuse connections to the address and port; None if they are allowed.

        `machine` holds this machine's addresses besides loopback. It is used for `own_ports` only.
        """
        try:
            parsed = ip_address(address)
        except ValueError:
            return "it is not an IP address"
        reason = _never(parsed)
        if reason is not None:
            return f"it is {reason}"
        if not any(parsed in network for network in self.networks):
            return "it is outside QUEUE_ENGINE_WORKER_NETWORKS"
        if port in self.store_ports:
            return "its port is the store's"
        if points_back(address, port, self.own_ports, machine):
            return "it is this engine's own"
        return None


def _never(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and is_isatap(address):
        return ISATAP
    special = special_use(address)
    if special is not None and special.startswith(EMBEDDED_IPV4):
        return special  # a connection to this form goes to the IPv4 address
    return next((reason for network, reason in _NEVER if address in network), None)
