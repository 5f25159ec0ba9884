"""Credentials for the registries that images come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class RegistryType(StrEnum):
    """Which kind of registry a credential is for."""

    DOCKER_HUB = "DOCKER_HUB"
    GCR = "GCR"
    ECR = "ECR"
    ACR = "ACR"
    PRIVATE = "PRIVATE"


@dataclass(frozen=True)
class Credential:
    """What may be told of a credential: not its user name and not its password."""

    credential_id: int
    tenant: str
    name: str
    type: RegistryType
    created_at_ms: int


@dataclass(frozen=True)
class RegistryAuth:
    """What logs in to a registry. SECRET: only for who pulls the image."""

    username: str = field(repr=False)
    password: str = field(repr=False)
