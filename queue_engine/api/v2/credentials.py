"""`/v2/container-registry-auths`: access to the registries that images come from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.credential_requests import CreateCredential, UpdateCredential
from queue_engine.api.v2.fields import names_of, parsed
from queue_engine.domain.credentials import Credential, RegistryAuth, RegistryType
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.principals import Right

TAG = "credentials"
PATH = "/v2/container-registry-auths"
CREDENTIAL_ID = in_path("id", "Id of a credential", {"type": "string", "pattern": "^[1-9][0-9]{0,15}$"})


class CredentialView(View):
    """A credential, without its user name and password."""

    id: int = Field(description="A positive integer below 2^53", examples=[7])
    name: str = Field(description="Display name")
    type: RegistryType = Field(description="Kind of registry")
    created_at: str = Field(description="Time of creation, ISO 8601 in UTC", examples=["2026-01-31T09:30:00.000Z"])


class CredentialRoutes:
    """Create, read, change and delete credentials."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._credentials = services.engine.credentials

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", PATH, self.create_credential, right=Right.MANAGE_TENANT, summary="Create a credential", tag=TAG,
                response=Success[CredentialView], takes=CreateCredential, failures=(400, 401, 413, 415, 429, 503),
            ),
            Operation(
                "GET", PATH, self.list_credentials, right=Right.VIEW_TENANT,
                summary="List credentials, newest first", tag=TAG,
                response=Success[list[CredentialView]], failures=(401, 429, 503),
            ),
            Operation(
                "GET", f"{PATH}/{{id}}", self.get_credential, right=Right.VIEW_TENANT,
                summary="Read a credential", tag=TAG,
                response=Success[CredentialView], parameters=[CREDENTIAL_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "PATCH", f"{PATH}/{{id}}", self.update_credential, right=Right.MANAGE_TENANT,
                summary="Change a credential", tag=TAG,
                response=Success[CredentialView], takes=UpdateCredential, parameters=[CREDENTIAL_ID],
                failures=(400, 401, 404, 413, 415, 429, 503),
            ),
            Operation(
                "DELETE", f"{PATH}/{{id}}", self.delete_credential, right=Right.MANAGE_TENANT,
                summary="Delete a credential", tag=TAG,
                response=Success[bool], parameters=[CREDENTIAL_ID], failures=(401, 404, 409, 429, 503),
            ),
        ]  # fmt: skip

    async def create_credential(self, request: Request) -> Response:
        """An endpoint refers to the credential by its id, in `containerRegistryAuthId`."""
        principal = await self._services.admit(request)
        body = await self._services.read_object(request, principal, names_of(CreateCredential))
        requested, errors = parsed(CreateCredential, body.values)
        if errors:
            raise_for(errors + self._credentials.creation_errors())
        auth = RegistryAuth(requested.username, requested.password)
        created = await self._credentials.create(principal, requested.name, requested.type, auth)
        note(request, credential=created.credential_id)
        return success(credential_view(created))

    async def list_credentials(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        return success([credential_view(one) for one in await self._credentials.all(principal)])

    async def get_credential(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        return success(credential_view(await self._credentials.get(principal, _id_in(request))))

    async def update_credential(self, request: Request) -> Response:
        """Workers that start after the change use the new values."""
        principal = await self._services.admit(request)
        credential_id = _id_in(request)
        body = await self._services.read_object(request, principal, names_of(UpdateCredential))
        changes, errors = UpdateCredential.parse(body.values)
        if errors:
            raise_for(errors + self._credentials.change_errors(changes.username, changes.password))
        changed = await self._credentials.update(
            principal, credential_id, name=changes.name, username=changes.username, password=changes.password
        )
        return success(credential_view(changed))

    async def delete_credential(self, request: Request) -> Response:
        """Refused with 409 while an endpoint uses the credential."""
        principal = await self._services.admit(request)
        await self._credentials.delete(principal, _id_in(request))
        return success(True)


def _id_in(request: Request) -> int:
    """Return the credential id in the path. Raises NotFound for text that cannot be an id."""
    text: str = request.scope["path_params"]["id"]
    if not is_endpoint_id(text):
        raise NotFound(Resource.CREDENTIAL)
    return int(text)


def credential_view(credential: Credential) -> dict[str, Any]:
    """Return a CredentialView."""
    created = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=credential.created_at_ms)
    return {
        "id": credential.credential_id,
        "name": credential.name,
        "type": credential.type,
        "createdAt": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
