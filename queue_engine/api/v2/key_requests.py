"""Request model for creating an API key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from queue_engine.api.v2.fields import RequestModel
from queue_engine.domain.api_keys import MAX_ENDPOINTS_PER_KEY, MAX_NAME_CHARACTERS, Grant
from queue_engine.domain.field_types import LINE, matching
from queue_engine.domain.principals import Role
from queue_engine.domain.rates import MAX_SUBMITS_PER_SECOND

MAX_TIME_MS = 2**53 - 1

_EXAMPLE: JsonDict = {"name": "nightly batch", "role": "submit", "endpoints": ["7"], "expiresAt": 4102444800000}

EndpointId = Annotated[
    str,
    Field(max_length=16),
    matching(r"[1-9][0-9]{0,15}", "must be the id of an endpoint"),
]


class CreateKey(RequestModel):
    """An API key of the tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS), LINE] = Field(
        description="Purpose of the key, for lists and the audit log"
    )
    role: Literal["read", "submit", "operate", "admin"] = Field(description="Calls that the key allows")
    endpoints: Annotated[list[EndpointId], Field(min_length=1, max_length=MAX_ENDPOINTS_PER_KEY)] | None = Field(
        None,
        description="Ids of the only endpoints that the key gives access to; without it, those of the calling key",
    )
    expires_at: Annotated[int, Field(ge=1, le=MAX_TIME_MS)] | None = Field(
        None, description="End of the key; without it, that of the calling key"
    )
    max_submits_per_second: Annotated[int, Field(ge=1, le=MAX_SUBMITS_PER_SECOND)] | None = Field(
        None,
        description="Maximum number of submissions per second with the key; without it, that of the calling key. "
        "A calling key with a limit shares it with the new key, which can have no other",
    )

    def grant(self) -> Grant:
        """Return the properties of the key."""
        endpoints = None if self.endpoints is None else frozenset(self.endpoints)
        return Grant(self.name, Role(self.role), endpoints, self.expires_at, self.max_submits_per_second)
