"""Responses to the client: one envelope for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Send

SUCCESS = 10000

Headers = tuple[tuple[bytes, bytes], ...]

_COMMON_HEADERS: Headers = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = ()

    async def send(self, send: Send) -> None:
        """Send the response through ASGI."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *_COMMON_HEADERS,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def success(data: Any) -> Response:
    """Return `data` in the envelope. Pass JSON text inside `data` as `orjson.Fragment`."""
    return Response(200, orjson.dumps({"message": "success", "code": SUCCESS, "data": data}))


def failure(status: int, code: int, message: str, headers: Headers = ()) -> Response:
    """Return an error in the envelope. Characters of `message` that UTF-8 cannot encode are escaped."""
    text = message.encode("utf-8", "backslashreplace").decode()
    return Response(status, orjson.dumps({"message": text, "code": code, "data": None}), headers=headers)
