"""URLs of the API that an agent with a token may use.

The token is sent with every request, so an agent speaks HTTPS. Plain HTTP is allowed where no packet leaves the
machine: to loopback, and from a container to the gateway of its network, where the engine listens for agents. The
gateway of any other machine is a router, so the backend that has made the network says that it is one of containers.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from queue_engine.rules.hosts import is_loopback

IpAddress = IPv4Address | IPv6Address

_FORM = "must be https://<host> or https://<host>:<port>, without a path"
_PLAIN = (
    "must begin with https://, because the agent sends its token; http:// is allowed only to a loopback address and to "
    "the gateway of a container network, if that is a private address and the backend says so"
)


def agent_url_refusal(url: str, gateways: Collection[IpAddress] | None) -> str | None:
    """Return the rule that the URL of the API breaks; None if an agent may use it.

    `gateways` are the addresses of the default routes of the agent's container network, and empty if the agent is not
    in one. None means that they are not known, so that any private address may be one. A public one is a router of the
    internet, not a container network. Names other than `localhost` are not looked up, because a name may resolve to
    another address at the next request.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return _FORM
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_bare or port == 0:
        return _FORM
    if parts.scheme == "https" or is_loopback(parts.hostname) or _is_gateway(parts.hostname, gateways):
        return None
    return _PLAIN


def _is_gateway(host: str, gateways: Collection[IpAddress] | None) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_private and not address.is_unspecified and (gateways is None or address in gateways)
