"""Holders of API keys, in whose name the engine is called."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Calls that a key allows."""

    ADMIN = "admin"
    """Every call inside one tenant."""


@dataclass(frozen=True)
class Principal:
    """The holder of one valid API key. Every use case gets one, and sees only what belongs to its tenant."""

    tenant: str
    role: Role
    key_id: str
    """The hash under which the key is stored."""
