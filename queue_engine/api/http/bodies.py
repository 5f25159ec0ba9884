"""Read a request's JSON body within limits of size, of time, and of the bytes that a tenant has in progress."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Scope

from queue_engine.api.http.cycle import arrived_body
from queue_engine.api.http.errors import BodyStalled, BodyTooLarge, ClientGone, NotJson
from queue_engine.api.http.headers import named
from queue_engine.api.http.turns import Turns
from queue_engine.domain.errors import InvalidRequest, TooManyRequests
from queue_engine.rules.json_pieces import split_in_pieces
from queue_engine.rules.strict_json import InvalidJson, JsonObject, parse_member, split_object

MIN_BYTES_PER_SECOND = 16 * 1024
"""Minimum rate of a body that takes longer than the timeout between chunks: 131 kbit/s. A body is held in memory until
it is complete, one of 1 MiB for at most 73 s. At half of the rate, a body of 140 KB still arrives in time."""
UNCOUNTED_BYTES = 8 * 1024
"""The first bytes of a body that do not count for the tenant's limit, so that large bodies do not delay small ones. All
connections of a tenant together hold 40 MB of them at most."""
RETRY_AFTER_SECONDS = 1
JSON = "application/json"
BODY_SHARE = "queue_engine.body"
"""The name of the share of the body in the scope of its request."""


class BodyShare:
    """The bytes of one body that count for the limit of its tenant."""

    def __init__(self, bodies: TenantBodies, tenant: str) -> None:
        self._bodies = bodies
        self._tenant = tenant
        self._counted = 0

    def grow_to(self, size: int) -> None:
        """Count a body that has `size` bytes now. Raises TooManyRequests at the limit."""
        more = max(0, size - UNCOUNTED_BYTES) - self._counted
        if more > 0:
            self._bodies.add(self._tenant, more)
            self._counted += more

    def grow_by(self, size: int) -> None:
        """Count further bytes. Raises TooManyRequests at the limit."""
        self._bodies.add(self._tenant, size)
        self._counted += size

    def release(self) -> None:
        """Stop counting the body."""
        self._bodies.remove(self._tenant, self._counted)
        self._counted = 0


class TenantBodies:
    """Bytes of the bodies of requests in progress: at most `limit` for each tenant; 0 sets no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counted: Counter[str] = Counter()

    def at_most(self, size: int) -> int:
        """Return the size, or the limit if that is lower: no larger body could arrive."""
        return min(size, self._limit) if self._limit else size

    def add(self, tenant: str, size: int) -> None:
        """Count bytes that have arrived. Raises TooManyRequests, and counts nothing, at the limit."""
        if self._limit and self.counted[tenant] + size > self._limit:
            raise TooManyRequests(
                f"body: at most {self._limit} bytes of a tenant's requests are read at the same time "
                "(QUEUE_ENGINE_MAX_BODY_BYTES_PER_TENANT)",
                scope="tenant",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self.counted[tenant] += size

    def remove(self, tenant: str, size: int) -> None:
        """Stop counting bytes."""
        self.counted[tenant] -= size
        if not self.counted[tenant]:
            del self.counted[tenant]


MAX_SPLIT_BYTES = 1024 * 1024
"""Longest body that is split in one step, in 21 ms at worst. A longer one is split in steps of a few milliseconds. A
thread would not help, because the parser holds the interpreter until it has ended."""


@dataclass(frozen=True)
class BodyReader:
    """Reads bodies of at most `max_bytes`, from clients that are silent for at most `silence_seconds`."""

    max_bytes: int
    silence_seconds: float
    of_tenants: TenantBodies
    turns: Turns = field(default_factory=Turns, repr=False)

    async def read_object(
        self, request: Request, tenant: str, known: AbstractSet[str], keep_raw: AbstractSet[str] = frozenset()
    ) -> JsonObject:
        """Return the members in `known` of the body, which is a JSON object; those in `keep_raw` stay text.

        The body counts for the tenant until `release` is called. Raises NotJson, BodyTooLarge, BodyStalled,
        InvalidRequest, ClientGone, TooManyRequests.
        """
        check_content_type(request.scope)
        return await self.split(await self.read(request, tenant), known, keep_raw)

    async def split(
        self, body: bytes | bytearray, known: AbstractSet[str], keep_raw: AbstractSet[str] = frozenset()
    ) -> JsonObject:
        """Return the members of a JSON object, as `read_object` does. Raises InvalidRequest."""
        try:
            if len(body) <= MAX_SPLIT_BYTES:
                return split_object(body, keep_raw, known)
            return await self.turns.run(split_in_pieces(body, keep_raw, known))
        except InvalidJson as error:
            raise InvalidRequest(field_name(error.member), error.rule) from None

    def parse(self, body: JsonObject, name: str, max_values: int) -> Any:
        """Return the value of a member that was kept as text: see `parse_member`. Raises InvalidRequest."""
        try:
            return parse_member(body.raw[name], name, max_values)
        except InvalidJson as error:
            raise InvalidRequest(field_name(error.member), error.rule) from None

    async def read(self, request: Request, tenant: str) -> bytes | bytearray:
        """Return the body unchanged. Raises BodyTooLarge, before reading when the declared length exceeds the limit.

        The body counts for the tenant until `release` is called. Also raises BodyStalled, ClientGone, TooManyRequests.
        """
        if _declared_length(request.scope) > self.max_bytes:
            raise BodyTooLarge(self.max_bytes)
        arrived = arrived_body(request.receive)
        if arrived is None:
            return await self._received(request, tenant)
        if len(arrived) > self.max_bytes:
            raise BodyTooLarge(self.max_bytes)
        if len(arrived) > UNCOUNTED_BYTES:
            self._share(request, tenant).grow_to(len(arrived))
        return arrived

    def count_more(self, scope: Scope, tenant: str, size: int) -> None:
        """Count bytes that the server reads for a request, beside its body, until `release` is called.

        Raises TooManyRequests at the limit.
        """
        share: BodyShare | None = scope.get(BODY_SHARE)
        if share is None:
            share = scope[BODY_SHARE] = BodyShare(self.of_tenants, tenant)
        share.grow_by(size)

    def _share(self, request: Request, tenant: str) -> BodyShare:
        share = request.scope[BODY_SHARE] = BodyShare(self.of_tenants, tenant)
        return share

    async def _received(self, request: Request, tenant: str) -> bytearray:
        """Return the body, received in parts. The array grows in place, so that a large body exists once."""
        share = self._share(request, tenant)
        body = bytearray()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.silence_seconds) as limit:
                while True:
                    message = await request.receive()
                    body += chunk_of(message)
                    if len(body) > self.max_bytes:
                        raise BodyTooLarge(self.max_bytes)
                    share.grow_to(len(body))
                    if not message.get("more_body", False):
                        return body
                    limit.reschedule(self._patience_ends(started, len(body)))
        except TimeoutError:
            raise BodyStalled from None

    def _patience_ends(self, started: float, received: int) -> float:
        """Return the deadline of the next chunk, on the event loop's clock."""
        left = started + self.silence_seconds + received / MIN_BYTES_PER_SECOND - time.monotonic()
        return asyncio.get_running_loop().time() + min(self.silence_seconds, left)


def release(scope: Scope) -> None:
    """Stop counting the body of a request that has ended."""
    share: BodyShare | None = scope.get(BODY_SHARE)
    if share is not None:
        share.release()


def declared_types(scope: Scope) -> list[bytes]:
    """Return the values of all `Content-Type` headers."""
    return [value for name, value in scope["headers"] if name == b"content-type"]


def check_content_type(scope: Scope, media_type: str = JSON) -> None:
    """Raise NotJson unless the body is declared as uncompressed `media_type`, in UTF-8 if a charset is given."""
    types = declared_types(scope)
    if len(types) != 1:
        raise NotJson(f"needs one Content-Type header: {media_type}")
    if types[0] != media_type.encode():
        _check_media_type(types[0].decode("latin-1"), media_type)
    if b"content-encoding" in named(scope) and any(
        name == b"content-encoding" and value.lower() != b"identity" for name, value in scope["headers"]
    ):
        raise NotJson("must not be compressed (Content-Encoding)")


def _check_media_type(text: str, media_type: str) -> None:
    declared, *parameters = (part.strip().lower() for part in text.split(";"))
    if declared != media_type:
        raise NotJson(f"must be {media_type} (Content-Type)")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            raise NotJson("must be in UTF-8 (Content-Type)")


def _declared_length(scope: Scope) -> int:
    return int(named(scope).get(b"content-length", b"0"))  # the HTTP parser accepts only digits


def chunk_of(message: Message) -> bytes:
    """Return the part of a body in a message. Raises ClientGone if the client has disconnected."""
    if message["type"] == "http.disconnect":
        raise ClientGone
    chunk: bytes = message.get("body", b"")
    return chunk


def field_name(member: str | None) -> str:
    """Return the name of a member for a message; `body` for None, the whole text."""
    return "body" if member is None else ascii(member[:64])[1:-1]
