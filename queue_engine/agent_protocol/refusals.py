"""Refusals: responses other than 200. The body is the JSON of every error of the API.

| status | code | reason | the agent |
| --- | --- | --- | --- |
| 400 | 10001 | the request breaks a rule | a defect: logs it |
| 401 | 40101 | the token is missing, malformed, unknown or revoked, or its worker was started again | ends |
| 403 | 40301 | the token belongs to another worker, or the controller manages the worker's record | ends |
| 404 | 14000 | the endpoint no longer exists | ends |
| 404 | 10001 | the server is of a version without this call | repeats it: another process may know it |
| 409 | 12001 | the endpoint has the maximum number of workers | a defect: logs it |
| 413 | 10001 | the request is too large | a defect: logs it |
| 429 | 429 | a limit is reached | repeats the call after `Retry-After` |
| 500 | 10002 | a defect of the server | repeats the call; an outcome for a limited time |
| 503 | 10002 | the store is unavailable, or the server ends | repeats the call: StoreUnavailable |

The 404 and the 500 are repeated after the agent's first successful call; before it the agent cannot work, and ends.
Items that were sent together and refused are sent one by one.

A response that is none of these, such as the page of a proxy, is an outage: only the engine's own refusal may end an
agent.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from queue_engine.agent_protocol.frames import Blob

MAX_REFUSAL_BYTES = 64 * 1024
"""Maximum size of the body of a refusal."""
FINAL_CODES = frozenset({40101, 40301, 14000})
"""Codes of refusals that end an agent. A 404 with another code is that of a server that does not know the call."""


class _Body(msgspec.Struct, frozen=True):
    code: int
    message: Annotated[str, msgspec.Meta(max_length=MAX_REFUSAL_BYTES)]
    data: None


class Refusal(msgspec.Struct, frozen=True):
    """The reason for which the API has refused a call."""

    status: int
    code: int
    message: str

    @property
    def is_final(self) -> bool:
        """True if a repeated call will be refused too, so that the agent must end."""
        return self.code in FINAL_CODES


_DECODER = msgspec.json.Decoder(_Body)


def refusal_in(status: int, body: Blob) -> Refusal | None:
    """Return the refusal in a response; None if the response is not from the API."""
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Refusal(status, found.code, found.message)
