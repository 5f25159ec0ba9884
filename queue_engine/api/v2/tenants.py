"""`/v2/tenants`: tenants and their limits, for operators."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, create_model
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.fields import RequestModel, names_of, parsed, parsed_changes
from queue_engine.api.v2.pages import page_in, page_parameters, page_view
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.field_types import matching
from queue_engine.domain.principals import Right
from queue_engine.domain.tenants import LIMITS, TENANT_NAME, TENANT_NAME_RULE, Limit, Tenant

TAG = "tenants"
PATH = "/v2/tenants"
TENANT = in_path("tenantName", "Name of a tenant", {"type": "string"})

_EXAMPLE: JsonDict = {"name": "acme", "limits": {"endpoints": 50, "workers": 20}}


def _member(limit: Limit) -> str:
    """Return the name of a limit's member in snake case."""
    return re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", limit.value)


def _requested(limit: Limit) -> tuple[Any, Any]:
    """Return the annotation and the pydantic field of a limit in a request."""
    one = LIMITS[limit]
    value = Annotated[int, Field(ge=0, le=one.max)] | None
    return value, Field(None, description=f"Maximum number of {one.text}; 0: no limit")


def _shown(limit: Limit) -> tuple[Any, Any]:
    """Return the annotation and the pydantic field of a limit in a response."""
    one = LIMITS[limit]
    if one.default is None:
        return int | None, Field(
            description=f"Maximum number of {one.text}; 0: no limit; null: set by the store's size"
        )
    return int, Field(description=f"Maximum number of {one.text}; 0: no limit")


if TYPE_CHECKING:

    class _LimitsRequest(RequestModel):
        """Base class for mypy. The members are made from the definitions."""

    class _LimitsView(View):
        """As _LimitsRequest."""

else:
    _LimitsRequest = create_model(
        "_LimitsRequest", __base__=RequestModel, **{_member(one): _requested(one) for one in Limit}
    )
    _LimitsView = create_model("_LimitsView", __base__=View, **{_member(one): _shown(one) for one in Limit})


class LimitsRequest(_LimitsRequest):
    """Limits of a tenant. An omitted limit keeps its value, and null restores the default."""

    def given(self) -> dict[Limit, int | None]:
        """Return the members that the request has."""
        return {limit: getattr(self, name) for limit in Limit if (name := _member(limit)) in self.model_fields_set}


class CreateTenant(RequestModel):
    """A tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[str, matching(TENANT_NAME, TENANT_NAME_RULE)] = Field(description="Name of the tenant")
    limits: LimitsRequest | None = Field(None, description="Limits that differ from the defaults")


class UpdateTenant(RequestModel):
    """Changes of a tenant."""

    limits: LimitsRequest = Field(description="Limits to set")


class LimitsView(_LimitsView):
    """The limits that apply."""


class TenantView(View):
    """A tenant, without its data."""

    name: str = Field(description="Name of the tenant")
    created_at: int | None = Field(description="Time of creation; null for a tenant that began with its first key")
    limits: LimitsView = Field(description="The limits that apply")
    overridden: list[Limit] = Field(description="Limits that an operator has set; the others are the defaults")


class TenantPageView(View):
    """A page of tenants."""

    items: list[TenantView] = Field(description="The tenants, by name")
    page: int = Field(description="Number of this page, from 1")
    size: int = Field(description="Maximum number of tenants on a page")
    total: int = Field(description="Number of tenants")
    pages: int = Field(description="Number of pages")


class TenantRoutes:
    """Create, list and limit tenants."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tenants = services.engine.tenants

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", PATH, self.create_tenant, right=Right.MANAGE_TENANTS, summary="Create a tenant", tag=TAG,
                response=Success[TenantView], takes=CreateTenant, failures=(400, 409, 413, 415),
            ),
            Operation(
                "GET", PATH, self.list_tenants, right=Right.MANAGE_TENANTS, summary="List tenants by name", tag=TAG,
                response=Success[TenantPageView],
                parameters=page_parameters("tenants"), failures=(400,),
            ),
            Operation(
                "GET", f"{PATH}/{{tenantName}}", self.get_tenant, right=Right.MANAGE_TENANTS, summary="Read a tenant",
                tag=TAG, response=Success[TenantView], parameters=[TENANT], failures=(404,),
            ),
            Operation(
                "PATCH", f"{PATH}/{{tenantName}}", self.limit_tenant, right=Right.MANAGE_TENANTS,
                summary="Set limits of a tenant", tag=TAG, response=Success[TenantView], takes=UpdateTenant,
                parameters=[TENANT], failures=(400, 404, 413, 415),
            ),
        ]  # fmt: skip

    async def create_tenant(self, request: Request) -> Response:
        """Keys for the tenant are created with the command line on the store."""
        principal = await self._services.admit(request)
        body = await self._services.read_object(request, principal, names_of(CreateTenant))
        requested, errors = parsed(CreateTenant, body.values)
        raise_for(errors)
        limits = requested.limits.given() if requested.limits is not None else {}
        tenant = await self._tenants.create(principal, requested.name, limits)
        note(request, of_tenant=tenant.name)
        return success(self._view(tenant))

    async def list_tenants(self, request: Request) -> Response:
        await self._services.admit(request)
        page = page_in(Query(request))
        found = await self._tenants.page(page=page.number, size=page.size)
        return success(page_view([self._view(tenant) for tenant in found.tenants], found.total, page))

    async def get_tenant(self, request: Request) -> Response:
        await self._services.admit(request)
        return success(self._view(await self._tenants.get(_tenant_in(request))))

    async def limit_tenant(self, request: Request) -> Response:
        """An omitted limit keeps its value, and null restores the default."""
        principal = await self._services.admit(request)
        name = _tenant_in(request)
        body = await self._services.read_object(request, principal, names_of(UpdateTenant))
        changes, errors = parsed_changes(UpdateTenant, body.values)
        raise_for(errors)
        return success(self._view(await self._tenants.set_limits(principal, name, changes.limits.given())))

    def _view(self, tenant: Tenant) -> dict[str, Any]:
        """Return a TenantView."""
        return {
            "name": tenant.name,
            "createdAt": tenant.created_at_ms,
            "limits": {limit.value: value for limit, value in self._tenants.limits_of(tenant).items()},
            "overridden": [limit.value for limit in Limit if limit in tenant.overrides],
        }


def _tenant_in(request: Request) -> str:
    name: str = request.scope["path_params"]["tenantName"]
    return name
