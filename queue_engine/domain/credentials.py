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
    """The public part of a credential, without its user name and password."""

    credential_id: int
    tenant: str
    name: str
    type: RegistryType
    created_at_ms: int


@dataclass(frozen=True)
class RegistryAuth:
    """User name and password for a registry. SECRET: only for the code that pulls the image."""

    username: str = field(repr=False)
    password: str = field(repr=False)
