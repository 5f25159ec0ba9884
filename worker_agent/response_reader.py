"""Read a container's response to a task: the whole body of a success, or the beginning of a failed response's body."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from queue_engine.aio import TimeLimit
from queue_engine.domain.retry import container_retry_after
from queue_engine.domain.tasks import ERROR_EXCERPT_BYTES, ContainerResponse
from queue_engine.net.error_types import BAD_RESPONSE, BadResponse
from queue_engine.net.response_head import Head
from queue_engine.net.transfer_codings import problem_of_transfer_codings
from queue_engine.rules.excerpts import printable
from queue_engine.rules.outputs import output_of, text_of
from worker_agent.codings import BodyDecoder, TooLarge

MAX_LOCATION_BYTES = 200
MAX_ON_LOOP_BYTES = 64 * 1024
"""Limit for a body that is decoded on the event loop. A larger one is decoded in a thread, so that it does not delay
heartbeats."""
MAX_FAILURE_BYTES = 1024 * 1024
"""Limit for the decoded bytes of a failed response's body, of which the error quotes the beginning."""
_UNREADABLE = "its body cannot be read"


class ResponseReader:
    """Reads one response within `limit`, and keeps at most `max_bytes` of its body after decoding.

    The status of a failure decides the outcome, even if its body does not end in time: after the head, `limit` becomes
    `failure_body_seconds` if that is shorter. Then the request's body is not needed: a view of a large one is released,
    so that it is not in memory beside the response.
    """

    def __init__(
        self,
        limit: TimeLimit,
        *,
        max_bytes: int,
        failure_body_seconds: float,
        request_body: bytes | memoryview = b"",
    ) -> None:
        self._limit = limit
        self._request_body = request_body
        self._max_bytes = max_bytes
        self._failure_body_seconds = failure_body_seconds
        self._head: Head | None = None
        self._decoder: BodyDecoder | None = None
        """None if the body has no coding."""
        self._only = b""
        """The only piece. Usually it is the whole body, and then it is not copied."""
        self._joined = bytearray()
        """The pieces, if there are several. They are joined at once, because a small piece alone takes many times its
        bytes."""
        self._size = 0

    # Called by the connection

    def begin(self, head: Head) -> bool:
        """Note the head; return True if the body can be read. Raises BadResponse for a success whose body cannot."""
        self._head = head
        if isinstance(self._request_body, memoryview):
            with suppress(BufferError):  # the server responds before it has the whole request
                self._request_body.release()
        problem = problem_of_transfer_codings(head.transfer_codings)
        if self.is_failure:
            self._limit.end_within(self._failure_body_seconds)
            self._max_bytes = MAX_FAILURE_BYTES
        elif problem:
            raise BadResponse(problem)
        if codings := head.values(b"content-encoding"):
            self._decoder = BodyDecoder(codings, max_bytes=self._max_bytes)
        return not problem

    def feed(self, data: bytes) -> bool:
        """Add a piece of the body; return True if more is needed. A success may raise BadResponse and TooLarge."""
        if not self.is_failure:
            self._keep(data)
            return True
        try:
            self._keep(data)
        except (BadResponse, TooLarge):
            return False
        return self._size < ERROR_EXCERPT_BYTES

    # Results

    @property
    def is_failure(self) -> bool:
        """True after a head with a status other than 2xx."""
        return self._head is not None and not 200 <= self._head.status < 300

    async def success(self) -> ContainerResponse:
        """Return the response with its whole body. Raises BadResponse."""
        if self._decoder is not None:
            self._decoder.end()
        body = self._body
        content_type = self._begun.value(b"content-type") or ""
        try:
            if len(body) <= MAX_ON_LOOP_BYTES:
                output = output_of(content_type, body)
            else:
                output = await asyncio.to_thread(output_of, content_type, body)
        except ValueError as error:
            raise BadResponse(_UNREADABLE) from error
        # A view, because the store's connection sends it without a copy.
        return ContainerResponse(self._begun.status, memoryview(output) if isinstance(output, bytearray) else output)

    def failure(self) -> ContainerResponse:
        """Return the status, and the received part of the body, as much as the error quotes."""
        head = self._begun
        body = bytes(self._body[:ERROR_EXCERPT_BYTES])
        try:
            text = text_of(head.value(b"content-type") or "", body)
        except ValueError:
            return ContainerResponse(error_type=BAD_RESPONSE, detail=_UNREADABLE)
        location = head.value(b"location") or "" if 300 <= head.status < 400 else ""
        return ContainerResponse(
            head.status,
            excerpt=printable(text.replace("\r\n", "\n"), ERROR_EXCERPT_BYTES, keep="\n\t"),
            location=printable(location, MAX_LOCATION_BYTES),
            retry_after_seconds=container_retry_after(head.value(b"retry-after")),
        )

    def too_large(self) -> ContainerResponse:
        """Return the result of a success whose body is larger than the limit."""
        length = self._begun.length
        is_coded = self._decoder is not None
        size = f"more than {self._max_bytes} bytes" if is_coded or length is None else f"{length} bytes"
        decoded = " when decoded" if is_coded else ""
        detail = f"the worker's container answered with {size}{decoded}; the limit is {self._max_bytes}"
        return ContainerResponse(status=self._begun.status, error_type="too_large", detail=detail)

    @property
    def _body(self) -> bytes | bytearray:
        """The body as far as it has arrived. A large one in several pieces is not copied."""
        if not self._joined:
            return self._only
        return bytes(self._joined) if len(self._joined) <= MAX_ON_LOOP_BYTES else self._joined

    @property
    def _begun(self) -> Head:
        if self._head is None:
            raise RuntimeError("the response has no head")
        return self._head

    def _keep(self, data: bytes) -> None:
        for piece in (data,) if self._decoder is None else self._decoder.feed(data):
            self._size += len(piece)
            if self._size > self._max_bytes:
                raise TooLarge
            if self._size == len(piece):
                self._only = piece
            else:
                self._joined += piece if self._joined else self._only + piece
