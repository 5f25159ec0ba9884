"""The address at which the pods of a cluster on this machine reach the machine: that of the bridge of their network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from itertools import chain
from typing import Any

import psutil

from queue_engine.backends.base import BackendError
from queue_engine.backends.kubernetes.kube_api import KubeApi, connect
from queue_engine.backends.kubernetes.kube_client import ClusterAccess

SYSTEM_NAMESPACE = "kube-system"
"""A namespace with pods in nearly every cluster, such as those of its name server."""
MAX_PODS = 100
NO_BRIDGE = (
    "no network of pods is one of this machine: set QUEUE_ENGINE_AGENT_URL to an https:// URL at which pods reach the "
    "API, or QUEUE_ENGINE_AGENT_HOST to this machine's address in their network"
)


async def gateway_of(access: ClusterAccess) -> str:
    """Return this machine's IPv4 address in the network of a cluster's pods.

    Raises BackendError if the cluster does not respond, or runs elsewhere, and ImportError without its package.
    """
    addresses: list[str] = []
    for namespace in (SYSTEM_NAMESPACE, access.namespace):
        api = connect(replace(access, namespace=namespace))
        try:
            addresses += await _pod_addresses(api)
        finally:
            await api.aclose()
    found = bridge_of(addresses, _interfaces())
    if found is None:
        raise BackendError(NO_BRIDGE)
    return found


def bridge_of(pod_addresses: Iterable[str], interfaces: Iterable[IPv4Interface]) -> str | None:
    """Return the address of the interface whose network has one of the pods; None if there is none."""
    pods = [address for text in pod_addresses if (address := _ipv4(text)) is not None]
    for interface in interfaces:
        if any(pod in interface.network and pod != interface.ip for pod in pods):
            return str(interface.ip)
    return None


async def _pod_addresses(api: KubeApi) -> list[str]:
    found = await api.list_pods("", limit=MAX_PODS)
    return [address for pod in found.pods if (address := _own_address(pod)) is not None]


def _own_address(pod: Mapping[str, Any]) -> str | None:
    """Return the address of a pod; None if it has that of its node."""
    return None if pod["spec"].get("hostNetwork") else (pod.get("status") or {}).get("podIP")


def _interfaces() -> list[IPv4Interface]:
    known = chain.from_iterable(psutil.net_if_addrs().values())
    return [IPv4Interface(f"{one.address}/{one.netmask}") for one in known if one.netmask and _ipv4(one.address)]


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None
