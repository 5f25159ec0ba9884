"""`/v2/serverless/{id}/agent-tokens`: the tokens with which agents of an endpoint use the API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoints import ENDPOINT_ID, TAG
from queue_engine.api.v2.fields import RequestModel, names_of, parsed
from queue_engine.domain.agent_tokens import MAX_TOKEN_NAME_CHARACTERS, AgentToken
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.field_types import LINE
from queue_engine.domain.ids import is_key_id
from queue_engine.domain.principals import Right

PATH = "/v2/serverless/{id}/agent-tokens"
TOKEN_ID = in_path("tokenId", "Id of an agent token", {"type": "string", "pattern": "^[0-9a-f]{16}$"})


class CreateAgentToken(RequestModel):
    """A token for agents of the endpoint that are started by hand."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "GPU hosts in the office"}]})

    name: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_NAME_CHARACTERS), LINE] = Field(
        description="Purpose of the token, for lists and the audit log"
    )


class AgentTokenView(View):
    """An agent token, without the token itself."""

    id: str = Field(description="The beginning of the token's SHA-256", examples=["0f3a5c7e9b1d2f40"])
    name: str = Field(description="Purpose of the token; empty for a worker's token")
    worker_id: str | None = Field(
        description="The worker that the token was made for, which a controller has started; null: for any agent that "
        "is started by hand"
    )
    created_at: int = Field(description="Time of creation")
    last_used_at: int | None = Field(
        description="Time of the latest use, accurate to a minute; null: never used, or a worker's token"
    )


class NewAgentTokenView(AgentTokenView):
    """An agent token that was just created. Only this response has the token itself."""

    token: str = Field(description="The token. It is not stored, so no other response has it")


class AgentTokenRoutes:
    """Create, list and revoke the agent tokens of an endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tokens = services.engine.agent_tokens

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", PATH, self.create_agent_token, right=Right.MANAGE, summary="Create an agent token", tag=TAG,
                response=Success[NewAgentTokenView], takes=CreateAgentToken, parameters=[ENDPOINT_ID],
                failures=(400, 404, 413, 415),
            ),
            Operation(
                "GET", PATH, self.list_agent_tokens, right=Right.MANAGE, summary="List agent tokens, newest first",
                tag=TAG, response=Success[list[AgentTokenView]], parameters=[ENDPOINT_ID], failures=(404,),
            ),
            Operation(
                "DELETE", f"{PATH}/{{tokenId}}", self.revoke_agent_token, right=Right.MANAGE,
                summary="Revoke an agent token", tag=TAG, response=Success[bool], parameters=[ENDPOINT_ID, TOKEN_ID],
                failures=(404,),
            ),
        ]  # fmt: skip

    async def create_agent_token(self, request: Request) -> Response:
        """The response has the token, which is shown only once. Agents that are started by hand use it for this
        endpoint, until it is revoked or the endpoint is deleted. A key with an end creates none.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        body = await self._services.read_object(request, principal, names_of(CreateAgentToken))
        requested, errors = parsed(CreateAgentToken, body.values)
        raise_for(errors)
        created = await self._tokens.create(principal, endpoint, requested.name)
        note(request, agent_token=created.stored.token_id)
        return success({**token_view(created.stored), "token": created.secret})

    async def list_agent_tokens(self, request: Request) -> Response:
        """The tokens of managed workers are listed too. Each ends with its worker."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success([token_view(token) for token in await self._tokens.all(principal, endpoint)])

    async def revoke_agent_token(self, request: Request) -> Response:
        """All processes refuse the token within two seconds. A managed worker ends without its token, and is started
        again with another one.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        await self._tokens.revoke(principal, endpoint, _token_id_in(request))
        return success(True)


def token_view(token: AgentToken) -> dict[str, Any]:
    """Return an AgentTokenView."""
    return {
        "id": token.token_id,
        "name": token.name,
        "workerId": token.holder.worker_id,
        "createdAt": token.created_at_ms,
        "lastUsedAt": token.last_used_at_ms,
    }


def _token_id_in(request: Request) -> str:
    """Return the token id in the path. Raises NotFound for text that cannot be an id."""
    token_id: str = request.scope["path_params"]["tokenId"]
    if not is_key_id(token_id):
        raise NotFound(Resource.AGENT_TOKEN)
    return token_id
