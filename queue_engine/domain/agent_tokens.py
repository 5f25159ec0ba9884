"""Agent tokens: each admits agents of one endpoint to `/agent/v1` of the API, and to nothing else.

A token says where its hash is stored, so that a look-up reads one field in the partition of its endpoint:

    qea_7_Qk1…             a token of endpoint 7, for agents that are started by hand; valid until it is revoked
    qea_7-3fa9c0d1e2_Qk1…  the token of the managed worker 7-3fa9c0d1e2; valid until its next start or its end

Both end with the endpoint. A managed worker has a token of its own, because then the revocation of a stolen one ends
one worker, which its controller starts again with another token, and a worker that was replaced can do nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from queue_engine.domain.workers import endpoint_of_worker

MAX_TOKENS_PER_ENDPOINT = 100
"""Limit of an endpoint's tokens for agents that are started by hand. Each serves any number of agents."""
TOO_MANY_TOKENS = f"an endpoint has at most {MAX_TOKENS_PER_ENDPOINT}"
MAX_TOKEN_NAME_CHARACTERS = 100
TOKEN_VARIABLE = "WORKER_AGENT_TOKEN"  # noqa: S105 - the name of a variable
"""The environment variable in which an agent gets its token."""
TOKEN_ID_CHARACTERS = 16
"""Length of a token's id."""
TOKEN_FORM = r"qea_([1-9][0-9]{0,15}(?:-[0-9a-f]{1,40})?)_[A-Za-z0-9_-]{43}"  # noqa: S105 - a regular expression
_TOKEN = re.compile(TOKEN_FORM)


@dataclass(frozen=True)
class TokenHolder:
    """The endpoint of a token, and its worker if a controller made the token."""

    endpoint_id: str
    worker_id: str | None = None


@dataclass(frozen=True)
class AgentPrincipal:
    """The holder of a valid agent token. It may act for its endpoint only."""

    tenant: str
    endpoint_id: str
    token_id: str
    """The id of the token, which is the beginning of its hash."""
    worker_id: str | None = None
    """The only worker that the token may act for; None means any agent of the endpoint that was started by hand."""


@dataclass(frozen=True)
class AgentToken:
    """The stored data of an agent token: its hash, never the token itself."""

    holder: TokenHolder
    token_hash: str
    tenant: str
    name: str
    """Purpose of the token; empty for a worker's."""
    created_at_ms: int
    last_used_at_ms: int | None = None
    """Time of a recent use, at most a minute and a second older than the latest use. None for a worker's token, because
    the reports of the worker say more."""

    @property
    def token_id(self) -> str:
        """The beginning of the hash, by which the token is shown and found."""
        return self.token_hash[:TOKEN_ID_CHARACTERS]

    def principal(self) -> AgentPrincipal:
        """Return the principal of a request with this token."""
        return AgentPrincipal(self.tenant, self.holder.endpoint_id, self.token_id, self.holder.worker_id)


def holder_of(token: str) -> TokenHolder | None:
    """Return the holder that a token names; None for text that is not a token. Anybody can make up such a text."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    name = found[1]
    return TokenHolder(endpoint_of_worker(name), name) if "-" in name else TokenHolder(name)
