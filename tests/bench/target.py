"""The HTTP server that benchmarks talk to: echoes bodies, counts requests, and notes how old each request is.

A body `{"sent_ns": …}` carries the sender's CLOCK_MONOTONIC, which all processes of a machine share. `GET /stats` gives
and forgets what was counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Stats:
    """What was counted since it was last asked for."""

    requests: int = 0
    ages_ms: list[float] = field(default_factory=list)


stats = Stats()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """ASGI application."""
    if scope["type"] != "http":
        return
    arrived_ns = time.monotonic_ns()
    body = await _body(receive)
    if scope["path"] == "/stats":
        answer = _take_stats()
    else:
        _note(body, arrived_ns)
        answer = body
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _note(body: bytes, arrived_ns: int) -> None:
    stats.requests += 1
    if body.startswith(b'{"sent_ns"'):
        stats.ages_ms.append((arrived_ns - json.loads(body)["sent_ns"]) / 1e6)


def _take_stats() -> bytes:
    answer = json.dumps(asdict(stats)).encode()
    stats.requests = 0
    stats.ages_ms.clear()
    return answer
