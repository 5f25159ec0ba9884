"""Holders of API keys. Each call is made in the name of a principal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Calls that a key allows."""

    ADMIN = "admin"
    """Every call inside one tenant."""


@dataclass(frozen=True)
class Principal:
    """The holder of a valid API key. Every use case gets a principal, and sees only data of that principal's tenant."""

    tenant: str
    role: Role
    key_id: str
    """The hash under which the key is stored."""
