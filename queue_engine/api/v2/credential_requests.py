"""Request models for creating and changing a registry credential."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from queue_engine.api.v2.fields import IN_ANY_CASE, RequestModel, parsed
from queue_engine.domain.credentials import RegistryType
from queue_engine.domain.field_errors import FieldError
from queue_engine.domain.field_types import LINE, NO_NUL, matching

Name = Annotated[str, Field(min_length=1, max_length=255), LINE]
Username = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    LINE,
    matching(r"[^:]*", "must not have a colon"),  # a colon ends the user name in RFC 7617
]
# Some registries take a whole key file of several lines as the password.
Password = Annotated[str, Field(min_length=1, max_length=16 * 1024), NO_NUL]

_EXAMPLE: JsonDict = {"name": "our images", "type": "DOCKER_HUB", "username": "robot", "password": "a token"}


class CreateCredential(RequestModel):
    """Access to a container registry."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name = Field(description="Display name")
    type: Annotated[RegistryType, Field(strict=False), IN_ANY_CASE] = Field(description="Kind of registry, in any case")
    username: Username = Field(description="User name; encrypted at rest and never returned")
    password: Password = Field(description="Password, token or key file; encrypted at rest and never returned")


class UpdateCredential(RequestModel):
    """Changes of a credential. An omitted member keeps its value."""

    name: Name | None = Field(None, description="Display name")
    username: Username | None = Field(None, description="User name; encrypted at rest and never returned")
    password: Password | None = Field(
        None, description="Password, token or key file; encrypted at rest and never returned"
    )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> tuple[UpdateCredential, list[FieldError]]:
        """Return the changes and the field errors, as `parsed` does. Null is an error: no field can be cleared."""
        nulls = [(name, "must be a string") for name in cls.model_fields if values.get(name, "") is None]
        changes, errors = parsed(cls, values)
        return changes, nulls + errors
