"""Tenants: their names and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from queue_engine.domain.rates import MAX_SUBMITS_PER_SECOND

MAX_LIMIT = 10**9
MAX_STORED_BYTES = 10**15

TENANT_NAME = r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}"
TENANT_NAME_RULE = "must be 1–64 of letters, digits and @ . _ -, and begin with a letter or digit"


class Limit(StrEnum):
    """A limit of a tenant. 0 means no limit."""

    ENDPOINTS = "endpoints"
    CREDENTIALS = "credentials"
    WORKERS_PER_ENDPOINT = "workersPerEndpoint"
    WORKERS = "workers"
    STORED_BYTES = "storedBytes"
    WAITING_TASKS = "waitingTasks"
    WAITING_DELIVERIES = "waitingDeliveries"
    SUBMITS_PER_SECOND = "submitsPerSecond"


@dataclass(frozen=True)
class LimitDefinition:
    """A limit as operators see it."""

    text: str
    """The objects that are limited, in the plural."""
    default: int | None
    """The limit unless a setting says otherwise. None: it follows from the store."""
    max: int = MAX_LIMIT


LIMITS: Mapping[Limit, LimitDefinition] = MappingProxyType(
    {
        Limit.ENDPOINTS: LimitDefinition("endpoints", 1000),
        Limit.CREDENTIALS: LimitDefinition("credentials", 1000),
        Limit.WORKERS_PER_ENDPOINT: LimitDefinition("workers of one endpoint", 100),
        Limit.WORKERS: LimitDefinition("workers of all endpoints", 1000),
        Limit.STORED_BYTES: LimitDefinition("stored bytes of tasks and endpoints", None, MAX_STORED_BYTES),
        Limit.WAITING_TASKS: LimitDefinition("waiting tasks of all endpoints", 0),
        Limit.WAITING_DELIVERIES: LimitDefinition("results that wait for their delivery", 0),
        Limit.SUBMITS_PER_SECOND: LimitDefinition("submissions per second", 0, MAX_SUBMITS_PER_SECOND),
    }
)

LimitValues = Mapping[Limit, int | None]
"""The value of each limit. None for a limit that follows from the store."""

DEFAULT_LIMITS: LimitValues = MappingProxyType({limit: one.default for limit, one in LIMITS.items()})


@dataclass(frozen=True)
class Tenant:
    """An owner of endpoints."""

    name: str
    created_at_ms: int | None
    """None for a tenant that came into being with its first key."""
    overrides: Mapping[Limit, int]
    """The limits that differ from the defaults, as an operator has set them."""

    def limits(self, defaults: LimitValues) -> LimitValues:
        """Return the limits that apply."""
        return {**defaults, **self.overrides}


def is_tenant_name(text: str) -> bool:
    """Return True for a name that a new tenant may have. Tenants of earlier versions may have other names."""
    return re.fullmatch(TENANT_NAME, text) is not None
