"""Names of metrics in PromQL, and those that the engine's processes can export."""

from __future__ import annotations

import re

from queue_engine.observability.metrics import Role, registry_of

_NAME = re.compile(r"(?<![\w:])(?:queue_engine|worker_agent|process|python)[_:][\w:]+(?![\w(])")
_STRING = re.compile(r'"[^"]*"|\'[^\']*\'')
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


def names_in(expression: str) -> set[str]:
    """Return the names of metrics and of recorded figures in an expression."""
    return set(_NAME.findall(_STRING.sub('""', expression)))


def exported_names() -> set[str]:
    """Return the names of the series of all processes, whether they have a value now or not."""
    families = [
        family
        for role in Role
        for collector in registry_of(role)._collector_to_names
        for family in getattr(collector, "describe", collector.collect)() or collector.collect()
    ]
    names = {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ("",))}
    return names | {"worker_agent_up"}  # made by the page of the controller's agents
