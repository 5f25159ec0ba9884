"""`/v2/keys` and `/v2/me`: the API keys of a tenant, and the key of the request."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine import __version__
from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path, in_query
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Installation, Services
from queue_engine.api.v2.fields import names_of, parsed
from queue_engine.api.v2.key_requests import CreateKey
from queue_engine.api.v2.pages import page_in, page_parameters, page_view
from queue_engine.domain.api_keys import DEFAULT_OVERLAP_SECONDS, MAX_OVERLAP_SECONDS, ApiKey
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.ids import is_key_id
from queue_engine.domain.principals import Principal, Right, Role
from queue_engine.engine.keys import NewKey

TAG = "keys"
PATH = "/v2/keys"
KEY_ID = in_path("keyId", "Id of an API key", {"type": "string", "pattern": "^[0-9a-f]{16}$"})
_OVERLAP: dict[str, Any] = {
    "type": "integer", "minimum": 0, "maximum": MAX_OVERLAP_SECONDS, "default": DEFAULT_OVERLAP_SECONDS,
}  # fmt: skip


class KeyView(View):
    """An API key, without the key itself."""

    id: str = Field(description="The beginning of the key's SHA-256", examples=["0f3a5c7e9b1d2f40"])
    name: str = Field(description="Purpose of the key")
    role: Role = Field(description="Calls that the key allows")
    endpoints: list[str] | None = Field(description="Ids of the only endpoints that the key gives access to; null: all")
    created_at: int = Field(description="Time of creation")
    expires_at: int | None = Field(description="End of the key; null: none")
    max_submits_per_second: int | None = Field(
        description="Maximum number of submissions per second with the key; null: no limit"
    )
    last_used_at: int | None = Field(description="Time of the latest use, accurate to a minute; null: never used")
    replaced: bool = Field(description="True if the key has been rotated and is valid until `expiresAt` only")


class NewKeyView(KeyView):
    """An API key that was just created. Only this response has the key itself."""

    key: str = Field(description="The key. It is not stored, so no other response has it")


class KeyPageView(View):
    """A page of API keys."""

    items: list[KeyView] = Field(description="The keys, newest first")
    page: int = Field(description="Number of this page, from 1")
    size: int = Field(description="Maximum number of keys on a page")
    total: int = Field(description="Number of keys")
    pages: int = Field(description="Number of pages")


class MeView(View):
    """The key that a request was made with."""

    tenant: str | None = Field(description="Tenant of the key; null for an operator's key")
    key_id: str = Field(description="Id of the key")
    key_name: str = Field(description="Purpose of the key")
    role: Role = Field(description="Role of the key")
    rights: list[Right] = Field(description="Rights that follow from the role and the list of endpoints")
    endpoints: list[str] | None = Field(description="Ids of the only endpoints that the key gives access to; null: all")
    expires_at: int | None = Field(description="End of the key; null: none")
    max_submits_per_second: int | None = Field(
        description="Maximum number of submissions per second with the key; null: no limit"
    )
    version: str = Field(description="Version of the engine")
    environment: str | None = Field(
        description="Name of the installation, `QUEUE_ENGINE_ENVIRONMENT`; null: none", examples=["production"]
    )
    trace_url: str | None = Field(
        description="URL of a trace with `{traceId}`, `QUEUE_ENGINE_TRACE_URL`; null: none",
        examples=["https://grafana.example.com/explore?traceId={traceId}"],
    )
    time: int = Field(description="Time of the store's clock, to which all times of the API belong")


class KeyRoutes:
    """Create, list, rotate and revoke API keys, and describe the key of the request."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._keys = services.engine.keys

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/me", self.show_me, right=Right.IDENTIFY, summary="Read the key of this request", tag=TAG,
                response=Success[MeView],
            ),
            Operation(
                "POST", PATH, self.create_key, right=Right.MANAGE, summary="Create an API key", tag=TAG,
                response=Success[NewKeyView], takes=CreateKey, failures=(400, 413, 415),
            ),
            Operation(
                "GET", PATH, self.list_keys, right=Right.MANAGE, summary="List API keys, newest first", tag=TAG,
                response=Success[KeyPageView],
                parameters=page_parameters("keys"), failures=(400,),
            ),
            Operation(
                "POST", f"{PATH}/{{keyId}}/rotate", self.rotate_key, right=Right.MANAGE,
                summary="Replace an API key by a new one with the same rights", tag=TAG, response=Success[NewKeyView],
                parameters=[KEY_ID, in_query("overlapSeconds", "Time for which the old key stays valid", _OVERLAP)],
                failures=(400, 404, 409),
            ),
            Operation(
                "DELETE", f"{PATH}/{{keyId}}", self.revoke_key, right=Right.MANAGE, summary="Revoke an API key",
                tag=TAG, response=Success[bool], parameters=[KEY_ID], failures=(404,),
            ),
        ]  # fmt: skip

    async def show_me(self, request: Request) -> Response:
        """Every valid key may call this."""
        principal = await self._services.admit(request)
        return success(me_view(principal, await self._services.engine.now_ms(), self._services.installation))

    async def create_key(self, request: Request) -> Response:
        """The response has the key, which is shown only once. No key makes a key with more rights, more endpoints or a
        later end than its own.
        """
        principal = await self._services.admit(request)
        body = await self._services.read_object(request, principal, names_of(CreateKey))
        requested, errors = parsed(CreateKey, body.values)
        raise_for(errors)
        created = await self._keys.create(principal, requested.grant())
        note(request, key=created.stored.key_id)
        return success(new_key_view(created))

    async def list_keys(self, request: Request) -> Response:
        """Keys that have ended are not listed."""
        principal = await self._services.admit(request)
        page = page_in(Query(request))
        found = await self._keys.page(principal, page=page.number, size=page.size)
        return success(page_view([key_view(key) for key in found.keys], found.total, page))

    async def rotate_key(self, request: Request) -> Response:
        """The response has the new key, which is shown only once. The old key stays valid for the overlap."""
        principal = await self._services.admit(request)
        key_id = _key_id_in(request)
        seconds = Query(request).integer(
            "overlapSeconds", default=DEFAULT_OVERLAP_SECONDS, minimum=0, maximum=MAX_OVERLAP_SECONDS
        )
        created = await self._keys.rotate(principal, key_id, overlap_seconds=seconds)
        note(request, new_key=created.stored.key_id)
        return success(new_key_view(created))

    async def revoke_key(self, request: Request) -> Response:
        """All processes refuse the key within two seconds. It cannot be made valid again."""
        principal = await self._services.admit(request)
        await self._keys.revoke(principal, _key_id_in(request))
        return success(True)


def me_view(me: Principal, now_ms: int, installation: Installation) -> dict[str, Any]:
    """Return a MeView."""
    return {
        "tenant": me.tenant or None,
        "keyId": me.key_id,
        "keyName": me.key_name,
        "role": me.role,
        "rights": [right for right in Right if right in me.rights],
        "endpoints": _endpoints(me.endpoints),
        "expiresAt": me.expires_at_ms,
        "maxSubmitsPerSecond": me.max_submits_per_second,
        "version": __version__,
        "environment": installation.environment,
        "traceUrl": installation.trace_url,
        "time": now_ms,
    }


def key_view(key: ApiKey) -> dict[str, Any]:
    """Return a KeyView."""
    return {
        "id": key.key_id,
        "name": key.name,
        "role": key.role,
        "endpoints": _endpoints(key.endpoints),
        "createdAt": key.created_at_ms,
        "expiresAt": key.expires_at_ms,
        "maxSubmitsPerSecond": key.max_submits_per_second,
        "lastUsedAt": key.last_used_at_ms,
        "replaced": key.is_replaced,
    }


def new_key_view(key: NewKey) -> dict[str, Any]:
    """Return a NewKeyView."""
    return {**key_view(key.stored), "key": key.secret}


def _endpoints(endpoints: frozenset[str] | None) -> list[str] | None:
    return None if endpoints is None else sorted(endpoints, key=int)


def _key_id_in(request: Request) -> str:
    """Return the key id in the path. Raises NotFound for text that cannot be an id."""
    key_id: str = request.scope["path_params"]["keyId"]
    if not is_key_id(key_id):
        raise NotFound(Resource.KEY)
    return key_id
