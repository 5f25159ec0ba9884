"""Limits that an operator sets for all tenants."""

from __future__ import annotations

from pydantic import Field

from queue_engine.config.base import ProcessSettings
from queue_engine.domain.ceilings import Ceilings
from queue_engine.domain.rates import MAX_SUBMITS_PER_SECOND
from queue_engine.domain.tenants import DEFAULT_LIMITS, MAX_LIMIT, MAX_STORED_BYTES, Limit, LimitValues


class LimitSettings(ProcessSettings):
    """Limits of each tenant without limits of its own, and the highest values of endpoints' settings."""

    max_endpoints_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.ENDPOINTS] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of endpoints of a tenant for which `queue-engine tenants limits` sets no other "
        "value, as for all limits of a tenant; 0: no limit",
    )
    max_credentials_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.CREDENTIALS] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of credentials of a tenant; 0: no limit",
    )
    max_workers_per_endpoint: int = Field(
        DEFAULT_LIMITS[Limit.WORKERS_PER_ENDPOINT] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of workers of one endpoint; 0: no limit",
    )
    max_workers_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.WORKERS] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of workers of all endpoints of a tenant; 0: no limit",
    )
    max_stored_bytes_per_tenant: int | None = Field(
        DEFAULT_LIMITS[Limit.STORED_BYTES],
        ge=0,
        le=MAX_STORED_BYTES,
        description="Maximum number of bytes that the tasks and endpoints of a tenant take in the store; 0: no limit. "
        "By default half of the store's `maxmemory` while there are several tenants, and no limit for a single one",
    )
    max_waiting_tasks_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.WAITING_TASKS] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of waiting tasks of all endpoints of a tenant; 0: no limit",
    )
    max_waiting_deliveries_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.WAITING_DELIVERIES] or 0,
        ge=0,
        le=MAX_LIMIT,
        description="Maximum number of results of a tenant that wait for their delivery; beyond it tasks with a "
        "webhook are refused. 0: no limit",
    )
    max_submits_per_second_per_tenant: int = Field(
        DEFAULT_LIMITS[Limit.SUBMITS_PER_SECOND] or 0,
        ge=0,
        le=MAX_SUBMITS_PER_SECOND,
        description="Maximum number of submissions per second of a tenant to all API processes; 0: no limit",
    )
    max_queued_tasks_per_endpoint: int = Field(
        0, ge=0, description="Highest `maxQueuedTasks` that an endpoint may have; 0: only the setting's own maximum"
    )
    max_result_retention_seconds: int = Field(
        0,
        ge=0,
        description="Highest `resultRetentionSeconds` that an endpoint may have; 0: only the setting's own maximum",
    )
    max_worker_concurrency: int = Field(
        0, ge=0, description="Highest `concurrency` that an endpoint may have; 0: only the setting's own maximum"
    )

    def tenant_limits(self) -> LimitValues:
        """Return the limits of a tenant without limits of its own."""
        return {
            Limit.ENDPOINTS: self.max_endpoints_per_tenant,
            Limit.CREDENTIALS: self.max_credentials_per_tenant,
            Limit.WORKERS_PER_ENDPOINT: self.max_workers_per_endpoint,
            Limit.WORKERS: self.max_workers_per_tenant,
            Limit.STORED_BYTES: self.max_stored_bytes_per_tenant,
            Limit.WAITING_TASKS: self.max_waiting_tasks_per_tenant,
            Limit.WAITING_DELIVERIES: self.max_waiting_deliveries_per_tenant,
            Limit.SUBMITS_PER_SECOND: self.max_submits_per_second_per_tenant,
        }

    def ceilings(self) -> Ceilings:
        """Return the highest values that endpoints may have."""
        return Ceilings(
            self.max_queued_tasks_per_endpoint, self.max_result_retention_seconds, self.max_worker_concurrency
        )
