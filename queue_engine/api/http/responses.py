"""Responses to the client: one envelope for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson
from starlette.types import Send

from queue_engine.api.http.cycle import MAX_JOINED_BYTES, written_at_once

SUCCESS = 10000

Headers = tuple[tuple[bytes, bytes], ...]

COMMON_HEADERS: Headers = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_HEAD = b"content-type: %b\r\ncontent-length: %d\r\n" + b"".join(b"%b: %b\r\n" % one for one in COMMON_HEADERS)
"""The head of a response without further headers."""


class Streamed(Protocol):
    """A part of a body that is made while it is sent. It has exactly its length, or raises an exception."""

    def __len__(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


Part = bytes | memoryview | Streamed
Item = tuple[Mapping[str, Any], Mapping[str, Part | None]]
"""The members of an item of a list, and those that are JSON text already."""


class Sendable(Protocol):
    """A response that can be sent."""

    @property
    def status(self) -> int: ...

    async def send(self, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = ()
    more: tuple[Part, ...] = ()
    """Further parts of the body, so that long texts are not copied to be joined."""

    async def send(self, send: Send) -> None:
        """Send the response."""
        if not self.headers and not self.more:
            head = _HEAD % (self.content_type, len(self.body))
            if written_at_once(send, self.status, head, self.body):
                return
        length = len(self.body) + sum(map(len, self.more))
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % length),
            *COMMON_HEADERS,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": bool(self.more)})
        if not self.more:
            return
        for part in self.more:
            async for piece in pieces_of(part):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def pieces_of(part: Part) -> AsyncIterator[bytes | memoryview]:
    """Yield the bytes of a part."""
    if isinstance(part, bytes | memoryview):
        yield part
        return
    async for piece in part:
        yield piece


def success(data: Any, headers: Headers = ()) -> Response:
    """Return `data` in the envelope. Pass JSON text inside `data` as `orjson.Fragment`."""
    return Response(200, orjson.dumps({"message": "success", "code": SUCCESS, "data": data}), headers=headers)


def success_with_texts(data: Mapping[str, Any], texts: Mapping[str, Part | None], headers: Headers = ()) -> Response:
    """Return `data`, which has a member or more, in the envelope, with further members that are JSON text already.

    None and empty text are null.
    """
    if sum(len(text) for text in texts.values() if text) <= MAX_JOINED_BYTES:
        return success({**data, **{name: _fragment(text) for name, text in texts.items()}}, headers)
    begun = success(data, headers)
    return replace(begun, body=begun.body.removesuffix(_END), more=(*_members(texts), _END))


def success_with_items(
    name: str,
    items: Sequence[Item],
    data: Mapping[str, Any],
    headers: Headers = (),
) -> Response:
    """Return `data`, which has a member or more, in the envelope, and a list of items as its further member `name`.

    Each item is as `success_with_texts` takes it.
    """
    begun = success(data, headers)
    parts: list[Part] = [b',"%b":[' % name.encode()]
    for index, (members, texts) in enumerate(items):
        parts += [b"," if index else b"", orjson.dumps(members).removesuffix(b"}"), *_members(texts), b"}"]
    return replace(begun, body=begun.body.removesuffix(_END), more=(*parts, b"]", _END))


def _members(texts: Mapping[str, Part | None]) -> list[Part]:
    """Return the parts of a body for members that follow others."""
    return [part for name, text in texts.items() for part in (b',"%b":' % name.encode(), text or b"null")]


def _fragment(text: Part | None) -> orjson.Fragment | None:
    return orjson.Fragment(bytes(text)) if isinstance(text, bytes | memoryview) and text else None


_END = b"}}"
"""The end of the data and of the envelope."""


def failure(status: int, code: int, message: str, headers: Headers = ()) -> Response:
    """Return an error in the envelope. Characters of `message` that UTF-8 cannot encode are escaped."""
    return Response(status, orjson.dumps({"message": printable(message), "code": code, "data": None}), headers=headers)


def printable(text: str) -> str:
    """Return the text with escapes in place of characters that UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()
