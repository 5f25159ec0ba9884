"""Fields of requests in snake case, for type checkers. A test compares them with the API's definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

Priority = Literal["high", "normal", "low"]


class SubmitFields(TypedDict, total=False):
    """Optional fields of a submission: see docs/reference/task-fields.md."""

    headers: Mapping[str, str]
    webhook: str
    webhook_auth_key: str
    metadata: Mapping[str, str]
    tags: Sequence[str]
    execution_timeout_seconds: int
    queue_ttl_seconds: float
    delay_seconds: float
    run_at: datetime | str | int
    priority: Priority
    fairness_key: str


class CloneFields(TypedDict, total=False):
    """Fields in which a copy of a task differs. None leaves one out of the copy."""

    input: Any
    path: str
    port: int
    headers: Mapping[str, str] | None
    webhook: str | None
    webhook_auth_key: str | None
    metadata: Mapping[str, str] | None
    tags: Sequence[str] | None
    execution_timeout_seconds: int | None
    queue_ttl_seconds: float | None
    delay_seconds: float | None
    run_at: datetime | str | int | None
    priority: Priority | None
    fairness_key: str | None


Time = int | str | datetime
"""Epoch milliseconds, ISO 8601 (UTC without an offset), or a time with a time zone."""


class TaskFilterFields(TypedDict, total=False):
    """Filters of a list of tasks: see docs/guides/find-tasks.md."""

    status: str
    state: str | Sequence[str]
    created_after: Time
    created_before: Time
    finished_after: Time
    finished_before: Time
    tag: str
    fairness_key: str
    worker_id: str
    error_contains: str
    error_signature: str
    delivery_status: str
    destination: str
    id_prefix: str
    input: str


class UpdateFields(TypedDict, total=False):
    """Settings of an endpoint that can be changed: see docs/reference/endpoint-settings.md. None clears a setting."""

    name: str
    resources: Sequence[Mapping[str, Any]]
    workers: int
    container_volume_in_gb: int
    container_registry_auth_id: int | None
    min_single_card_vram_in_gb: int | None
    min_single_card_vcpu: int | None
    min_single_card_ram_in_gb: int | None
    initialization_command: str | None
    environment_vars: Sequence[Mapping[str, str]] | None
    expose: Mapping[str, Any] | None
    webhook: str | None
    concurrency: int | None
    execution_timeout_seconds: int | None
    max_attempts: int | None
    max_queued_tasks: int | None
    max_submits_per_second: int | None
    rate_limit: Mapping[str, Any] | None
    max_concurrency_per_key: int | None
    default_priority: Priority | None
    result_retention_seconds: int | None
    queue_ttl_seconds: float | None
    cancel_uri: str | None
    ready_path: str | None
    start_timeout_seconds: float | None
    max_busy_seconds: float | None
    retry_on: Sequence[str] | None
    retry_delays_seconds: Sequence[float] | None


class CreateFields(UpdateFields, total=False):
    """Settings of a new endpoint."""

    image: str
    image_registry: str | None
    service_mode: str
