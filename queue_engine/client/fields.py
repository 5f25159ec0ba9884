"""Fields of requests in snake case. A test compares them with the API's definitions.

Type checkers read them, and `takes` refuses others when a method is called: the API ignores members that it does not
know, so a mistyped one would be lost.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import wraps
from typing import Any, Literal, TypedDict, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])

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


class LogFields(TypedDict, total=False):
    """Filters of the lines of a log."""

    keyword: str
    start_time: Time
    end_time: Time


def takes(fields: type[Any]) -> Callable[[Method], Method]:
    """Let a method with `**` take only the keys of a TypedDict besides its named arguments.

    Another keyword raises TypeError before anything is sent, as it does for a function without `**`.
    """

    def decorate(method: Method) -> Method:
        named = [one for one in inspect.signature(method).parameters.values() if one.kind is not one.VAR_KEYWORD]
        known = fields.__required_keys__ | fields.__optional_keys__ | {one.name for one in named}

        def check(given: Iterable[str]) -> None:
            for name in given:
                if name not in known:
                    raise TypeError(_unexpected(method.__name__, name, known))

        if inspect.iscoroutinefunction(method):

            @wraps(method)
            async def awaited(*values: Any, **given: Any) -> Any:
                check(given)
                return await method(*values, **given)

            return cast("Method", awaited)

        @wraps(method)
        def called(*values: Any, **given: Any) -> Any:
            check(given)
            return method(*values, **given)

        return cast("Method", called)

    return decorate


_OWN_NAMES = {"process_uri": "path", "worker_port": "port"}
"""Names of arguments that are not those of the API."""


def _unexpected(method: str, name: str, known: Iterable[str]) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    own = _OWN_NAMES.get(snake, snake)
    close = get_close_matches(own, sorted(known), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{method}() got an unexpected keyword argument {name!r}{meant}"
