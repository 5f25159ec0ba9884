"""Where the API is and with which key, and the conversion between the client's requests and httpx."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from queue_engine.client.errors import Unavailable
from queue_engine.client.exchange import MAX_RETRY_AFTER_SECONDS, NotSent, Request, Response

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "QUEUE_ENGINE_URL"
KEY_VARIABLE = "QUEUE_ENGINE_API_KEY"
CONNECT_SECONDS = 10.0
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Connection:
    """URL and key of an API."""

    url: str
    api_key: str = field(repr=False)

    @classmethod
    def of(cls, url: str | None, api_key: str | None, environment: Mapping[str, str] = os.environ) -> Connection:
        """Return the connection, with what is None taken from the environment. Raises ValueError."""
        url = url or environment.get(URL_VARIABLE) or DEFAULT_URL
        key = api_key or environment.get(KEY_VARIABLE) or _key_of_file(environment.get(f"{KEY_VARIABLE}_FILE"))
        if not key:
            raise ValueError(f"api_key: is required; or set {KEY_VARIABLE} or {KEY_VARIABLE}_FILE")
        for name, problem in (("url", url_problem(url)), ("api_key", key_problem(key))):
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
        return cls(url, key)

    def options(self) -> dict[str, Any]:
        """Return the arguments of an HTTP client. Proxies of the environment are not for loopback addresses."""
        return {
            "base_url": self.url,
            "headers": {"X-Api-Key": self.api_key, "User-Agent": "queue-engine-client"},
            "trust_env": not _is_loopback(urlsplit(self.url).hostname or ""),
            "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
        }

    def client(self, transport: httpx.BaseTransport | None) -> httpx.Client:
        """Return a synchronous HTTP client."""
        return httpx.Client(transport=transport, **self.options())


def sent(request: Request) -> dict[str, Any]:
    """Return a request as arguments of `httpx.Client.request`."""
    headers = {} if request.body is None else {"Content-Type": request.content_type}
    if request.if_match is not None:
        headers["If-Match"] = request.if_match
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query) or None,
        "content": request.body,
        "headers": headers,
        "timeout": httpx.Timeout(request.timeout, connect=CONNECT_SECONDS),
    }


def received(response: httpx.Response) -> Response:
    text = response.headers.get("Retry-After", "")
    seconds = (
        min(float(text), MAX_RETRY_AFTER_SECONDS) if text.isascii() and text.isdigit() and len(text) < 10 else None
    )
    return Response(
        response.status_code,
        response.content,
        seconds,
        response.headers.get("ETag"),
        response.headers.get("Content-Type", ""),
        response.headers.get("Content-Disposition", ""),
    )


def lost(error: httpx.HTTPError, url: str) -> Unavailable:
    """Return the error of a request without a response."""
    message = f"{url}: {str(error) or type(error).__name__}"
    return NotSent(message) if isinstance(error, _NOT_CONNECTED) else Unavailable(message)


def url_problem(url: str) -> str | None:
    """Return the rule that the URL of an API breaks; None for a valid one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname or not (url.isascii() and url.isprintable()):
        return "must be http://host:port or https://…"
    return None


def key_problem(key: str) -> str | None:
    """Return the rule that an API key breaks; None for a valid one."""
    is_visible = key.isascii() and key.isprintable() and " " not in key
    return None if is_visible else "must be visible ASCII characters"


def _key_of_file(name: str | None) -> str | None:
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{KEY_VARIABLE}_FILE: cannot be read: {error}") from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
