"""Highest values that an operator allows for settings of endpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from queue_engine.domain.endpoints import SETTINGS, EndpointConfig
from queue_engine.domain.field_errors import FieldError, raise_for

_NAMES = {
    "max_queued_tasks": "maxQueuedTasks",
    "result_retention_seconds": "resultRetentionSeconds",
    "concurrency": "concurrency",
}
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


@dataclass(frozen=True)
class Ceilings:
    """The highest value of each setting. 0 allows all values that the setting itself allows."""

    max_queued_tasks: int = 0
    result_retention_seconds: int = 0
    concurrency: int = 0

    def by_request_name(self) -> dict[str, int]:
        """Return the ceilings that are set, by the names of the settings in requests."""
        return {text: value for name, text in _NAMES.items() if (value := getattr(self, name))}

    def applied(self, config: EndpointConfig, before: EndpointConfig | None = None) -> EndpointConfig:
        """Return the configuration with defaults lowered to the ceilings. Raises InvalidRequest for other values above.

        Values that an endpoint has had before stay, so that a lowered ceiling prevents no other change.
        """
        errors: list[FieldError] = []
        lowered: dict[str, Any] = {}
        for name in (one.name for one in fields(self)):
            ceiling, value = getattr(self, name), getattr(config, name)
            if not ceiling or value <= ceiling or (before is not None and value == getattr(before, name)):
                continue
            if value == _DEFAULTS[name]:
                lowered[name] = ceiling
            else:
                errors.append((_NAMES[name], f"must be at most {ceiling}, the operator's limit"))
        raise_for(errors)
        return replace(config, **lowered)


NO_CEILINGS = Ceilings()
