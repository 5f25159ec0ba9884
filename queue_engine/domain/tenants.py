"""Tenants: their names and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

MAX_LIMIT = 10**9

TENANT_NAME = r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}"
TENANT_NAME_RULE = "must be 1–64 of letters, digits and @ . _ -, and begin with a letter or digit"


class Limit(StrEnum):
    """A limit of a tenant. 0 means no limit."""

    ENDPOINTS = "endpoints"
    CREDENTIALS = "credentials"
    WORKERS_PER_ENDPOINT = "workersPerEndpoint"
    WORKERS = "workers"


DEFAULT_LIMITS: Mapping[Limit, int] = MappingProxyType(
    {Limit.ENDPOINTS: 1000, Limit.CREDENTIALS: 1000, Limit.WORKERS_PER_ENDPOINT: 100, Limit.WORKERS: 1000}
)


@dataclass(frozen=True)
class Tenant:
    """An owner of endpoints."""

    name: str
    created_at_ms: int | None
    """None for a tenant that came into being with its first key."""
    overrides: Mapping[Limit, int]
    """The limits that differ from the defaults, as an operator has set them."""

    @property
    def limits(self) -> Mapping[Limit, int]:
        """The limits that apply."""
        return {**DEFAULT_LIMITS, **self.overrides}


def is_tenant_name(text: str) -> bool:
    """Return True for a name that a new tenant may have. Tenants of earlier versions may have other names."""
    return re.fullmatch(TENANT_NAME, text) is not None
