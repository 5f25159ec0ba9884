"""Create, list and revoke the agent tokens of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.agent_tokens import TOO_MANY_TOKENS, AgentToken
from queue_engine.domain.audit import Action, token_target
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, NotFound, QuotaReached, Resource
from queue_engine.domain.principals import Principal
from queue_engine.engine.access import check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import from_store
from queue_engine.store.agent_tokens import AgentTokenStore, TokenRefusal, token_id_of


@dataclass(frozen=True)
class NewAgentToken:
    """A token that was just created. The token itself is not stored, so it cannot be read again."""

    stored: AgentToken
    secret: str


class AgentTokens:
    """The agent tokens of each endpoint. Each use case raises NotFound and StoreUnavailable."""

    def __init__(self, tokens: AgentTokenStore, audit: Audit) -> None:
        self._tokens = tokens
        self._audit = audit

    async def create(self, principal: Principal, endpoint: Endpoint, name: str) -> NewAgentToken:
        """Create a token for agents that are started by hand.

        Raises QuotaReached, and Forbidden if the principal's key has an end, because a token has none.
        """
        check_sees(principal, endpoint)
        if principal.expires_at_ms is not None:
            raise Forbidden("a key with an end makes no agent token, because a token has no end")
        secret = new_agent_token(endpoint.endpoint_id)
        target = token_target(endpoint.endpoint_id, token_id_of(secret))
        call = self._tokens.create(endpoint.endpoint_id, principal.tenant, secret, name)
        match await self._audit.change(principal, Action.CREATE_AGENT_TOKEN, target, call):
            case AgentToken() as stored:
                await self._audit.note(principal, Action.CREATE_AGENT_TOKEN, target)
                return NewAgentToken(stored, secret)
            case TokenRefusal.NOT_FOUND:
                raise NotFound(Resource.ENDPOINT)
            case TokenRefusal.FULL:
                raise QuotaReached(f"agentTokens: {TOO_MANY_TOKENS}", limit="agentTokens")

    async def all(self, principal: Principal, endpoint: Endpoint) -> list[AgentToken]:
        """Return the tokens of the endpoint and of its managed workers, newest first."""
        check_sees(principal, endpoint)
        return await from_store(self._tokens.of_endpoint(endpoint.endpoint_id, principal.tenant))

    async def revoke(self, principal: Principal, endpoint: Endpoint, token_id: str) -> None:
        """Revoke a token permanently. All processes refuse it within two seconds."""
        found = [token for token in await self.all(principal, endpoint) if token.token_id == token_id]
        if not found:
            raise NotFound(Resource.AGENT_TOKEN)
        target, call = token_target(endpoint.endpoint_id, token_id), self._tokens.revoke(found[0])
        await self._audit.change(principal, Action.REVOKE_AGENT_TOKEN, target, call)
        await self._audit.note(principal, Action.REVOKE_AGENT_TOKEN, target)
