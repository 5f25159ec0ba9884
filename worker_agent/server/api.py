"""Calls of the agent's protocol (`queue_engine/agent_protocol`) with the agent's token.

| response | the call |
| --- | --- |
| 200 with a frame of the protocol | returns its message |
| a refusal of the agent by the API | raises StoreUnavailable, like every later call; `refusal` returns the reason |
| the API's own 408, 429, 503 | raises StoreUnavailable |
| its 404 or 500, after an API has served the agent | raises StoreUnavailable, and for the 500 its kind ApiDefect |
| another error of the API | raises CallFailed |
| anything else | raises StoreUnavailable |

During an upgrade one API process may not know a call that the others know. So its 404 is an outage for an agent that an
API has served, and the next call uses another connection, which may lead to another process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeVar

from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.frames import CONTENT_TYPE, MAX_HEAD_BYTES, BadFrame, Blob
from queue_engine.agent_protocol.refusals import Refusal, refusal_in
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.rules.excerpts import printable
from worker_agent.server.http import ApiResponse, HttpClient, Lane
from worker_agent.server.token import Token

log = logging.getLogger(__name__)

CALL_SECONDS = 15.0
"""Time limit until a response begins. The API's own time limit for the store is shorter."""
MAX_MESSAGE_BYTES = MAX_HEAD_BYTES + 64 * 1024
"""Limit of a response without inputs."""
MAX_PAUSE_SECONDS = 5.0
"""Limit of the pause that a response may ask for. A longer one could cost the leases."""
_PASSING = frozenset({408, 429, 503})
"""Statuses of the API's own refusals of calls that are repeated."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHOWN_BYTES = 200

Request = TypeVar("Request")
Response = TypeVar("Response")


class CallFailed(EngineError):
    """The API has refused a call as invalid, or could not execute it because of a defect."""


class ApiDefect(StoreUnavailable):
    """The API could not execute a call because of a defect. Another process of the API may not have it."""


class Api:
    """The calls of one agent. Safe to use from many tasks of one event loop."""

    def __init__(self, http: HttpClient, token: Token) -> None:
        self._http = http
        self._token = token
        self._refused = asyncio.Event()
        self._reason = ""
        self._has_served = False
        """True after an API has executed a call of this agent."""

    async def call(
        self,
        call: Call[Request, Response],
        request: Request,
        blobs: Sequence[Blob] = (),
        *,
        lane: Lane = Lane.WORK,
        seconds: float = CALL_SECONDS,
        max_bytes: int = MAX_MESSAGE_BYTES,
    ) -> tuple[Response, list[memoryview]]:
        """Return the message of the response, and its blobs. Raises StoreUnavailable and CallFailed."""
        body = b"".join(call.request.encode(request, blobs))
        response = await self._post(call.path, body, lane=lane, seconds=seconds, max_bytes=max_bytes)
        if response.status != 200:
            raise await self._refusal_of(call, response)
        try:
            message = call.response.decode(response.body)
        except BadFrame as error:
            raise self.bad_response(call, error) from None
        self._has_served = True
        return message

    def bad_response(self, call: Call[Request, Response], problem: BadFrame) -> StoreUnavailable:
        """Return the error for a response that breaks a rule of the protocol. The call is repeated, as in an outage."""
        return self._http.away(f"the response to {call.name} cannot be understood: {problem}")

    async def refusal(self) -> str:
        """Wait until the API refuses the agent for good, and return the reason."""
        await self._refused.wait()
        return self._reason

    @property
    def is_refused(self) -> bool:
        """True after the API has refused the agent for good."""
        return self._refused.is_set()

    async def _post(self, path: str, body: bytes, *, lane: Lane, seconds: float, max_bytes: int) -> ApiResponse:
        """Return the response. A refused token that was replaced in its file is replaced, once."""
        if self.is_refused:
            raise StoreUnavailable(self._reason)
        token = self._token.current()
        response = await self._send(path, body, token, lane=lane, seconds=seconds, max_bytes=max_bytes)
        if response.status == 401 and (other := self._token.after_refusal(token)) is not None:
            return await self._send(path, body, other, lane=lane, seconds=seconds, max_bytes=max_bytes)
        return response

    async def _send(
        self, path: str, body: bytes, token: str, *, lane: Lane, seconds: float, max_bytes: int
    ) -> ApiResponse:
        headers = (("Authorization", f"Bearer {token}"), ("Content-Type", CONTENT_TYPE))
        return await self._http.post(path, headers, body, lane=lane, seconds=seconds, max_bytes=max_bytes)

    async def _refusal_of(self, call: Call[Request, Response], response: ApiResponse) -> EngineError:
        """Return the error of a response other than 200, after the pause that it asks for."""
        refusal = refusal_in(response.status, response.body)
        if refusal is None:
            return self._http.away(_foreign(response))
        if refusal.is_final:
            return self._end(refusal)
        problem = f"{call.name}: the API responds {refusal.status}: {refusal.message}"
        if refusal.status == 500 and self._has_served:
            return ApiDefect(problem)
        if refusal.status == 404 and self._has_served:
            return self._http.away(problem)
        if refusal.status not in _PASSING:
            return CallFailed(problem)
        if refusal.status == 429:
            await asyncio.sleep(min(response.retry_after_seconds, MAX_PAUSE_SECONDS))
        return self._http.away(f"it responds {refusal.status}: {refusal.message}")

    def _end(self, refusal: Refusal) -> StoreUnavailable:
        reason = f"the API refuses the agent ({refusal.status}): {refusal.message}"
        if not self.is_refused:
            log.error(reason)
            self._reason = reason
            self._refused.set()
        return StoreUnavailable(reason)


def _foreign(response: ApiResponse) -> str:
    """Describe a response that is not from the API, such as the page of a proxy."""
    if response.status in _REDIRECTS and response.location:
        return (
            f"it redirects ({response.status}) to {printable(response.location, _SHOWN_BYTES)}, which is not followed"
        )
    shown = printable(bytes(response.body[:_SHOWN_BYTES]).decode("utf-8", "replace"), _SHOWN_BYTES)
    return f"it responds {response.status}, and not as the engine's API: {shown}"
