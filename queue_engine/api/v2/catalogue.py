"""`/v2/catalogue`: GPU types, regions and settings with which endpoints can be created."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoint_requests import creation_schema
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.ceilings import Ceilings
from queue_engine.domain.principals import Right

TAG = "endpoints"


class GpuTypeView(View):
    """A GPU type on which workers may run."""

    name: str = Field(description="Name of the type", examples=["NVIDIA_RTX_4090_24G"])
    aliases: list[str] = Field(description="Other names that requests may use, in lower case")
    cpu: bool = Field(description="True if workers of this type get no GPU")
    price_per_hour: float | None = Field(description="Price of one GPU for an hour; null: not configured")


class RegionView(View):
    """A region in which workers may run."""

    name: str = Field(description="Name of the region", examples=["us-east-3"])
    gpu_types: list[str] | None = Field(description="The only GPU types of the region; null: all of the catalogue")
    alb: bool = Field(description="True if ALB endpoints may have workers here, because the API can connect to them")


class SettingView(View):
    """A setting of an endpoint."""

    name: str = Field(description="Name of the member in `POST /v2/serverless`", examples=["concurrency"])
    shown: str = Field(description="Name of the member in views of an endpoint", examples=["totalWorkers"])
    text: str = Field(description="Meaning of the setting")
    required: bool = Field(description="True if a new endpoint must have it")
    fixed: bool = Field(description="True if it cannot be changed later")
    renews_workers: bool = Field(description="True if a change replaces the workers, one at a time")
    default: Any = Field(description="The value without the setting; null: none")
    rule: dict[str, Any] = Field(alias="schema", description="JSON Schema of the values, with this server's limits")


class CatalogueView(View):
    """The choices for a new endpoint."""

    gpu_types: list[GpuTypeView] = Field(description="All GPU types")
    regions: list[RegionView] | None = Field(description="The only regions; null: any name is accepted")
    storage_price_per_gb_hour: float | None = Field(
        description="Price of one GB of a worker's storage for an hour; null: not configured"
    )
    settings: list[SettingView] = Field(description="The settings of an endpoint, in the order of their definition")


class CatalogueRoutes:
    """Read the catalogue. `ceilings` are the operator's limits of settings."""

    def __init__(self, services: Services, ceilings: Ceilings) -> None:
        self._services = services
        self._view = {**catalogue_view(services.catalogue), "settings": settings_view(ceilings)}

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/catalogue", self.get_catalogue, right=Right.VIEW,
                summary="Read the GPU types, regions and settings of endpoints", tag=TAG,
                response=Success[CatalogueView],
            ),
        ]  # fmt: skip

    async def get_catalogue(self, request: Request) -> Response:
        """A form for a new endpoint can be made from the response. It stays the same until the server is restarted."""
        await self._services.admit(request)
        return success(self._view)


def catalogue_view(catalogue: Catalogue) -> dict[str, Any]:
    """Return the members of a CatalogueView that come from the catalogue."""
    return {
        "gpuTypes": [
            {
                "name": name,
                "aliases": list(catalogue.aliases_of(name)),
                "cpu": name in catalogue.cpu_types,
                "pricePerHour": catalogue.price_of(name),
            }
            for name in catalogue.names
        ],
        "regions": [
            {
                "name": name,
                "gpuTypes": None if (offered := catalogue.offered.get(name)) is None else list(offered),
                "alb": name not in catalogue.unreached_regions,
            }
            for name in catalogue.regions
        ]
        or None,
        "storagePricePerGbHour": catalogue.storage_price,
    }


def settings_view(ceilings: Ceilings) -> list[dict[str, Any]]:
    """Return a SettingView for each setting, with maximums and defaults lowered to the operator's ceilings."""
    limits = ceilings.by_request_name()
    return [
        {
            "name": one.name,
            "shown": one.shown,
            "text": one.text,
            "required": one.required,
            "fixed": one.fixed,
            "renewsWorkers": one.renews_workers,
            "default": one.default if limit is None or one.default is None else min(one.default, limit),
            "schema": one.schema if limit is None else {**one.schema, "maximum": min(one.schema["maximum"], limit)},
        }
        for one in creation_schema()
        for limit in (limits.get(one.name),)
    ]
