"""Principals: holders of API keys. Each call is made for a principal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Calls that a key allows."""

    ADMIN = "admin"
    """All calls inside one tenant."""


@dataclass(frozen=True)
class Principal:
    """The holder of a valid API key. Use cases show and change only data of the principal's tenant."""

    tenant: str
    role: Role
    key_id: str
    """The hash under which the key is stored."""
