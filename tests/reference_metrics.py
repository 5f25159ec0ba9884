"""The page on metrics, from the definitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from queue_engine.observability.metrics import Role, registry_of
from tests.reference_text import MADE, table

_PAGE = f"""# Metrics

{MADE}

Each process serves the metrics that it keeps at `/metrics`. [Metrics and alerts](../metrics.md) says how to read them.
Within a major version names, labels and label values stay.

{{rows}}
"""
_OURS = ("queue_engine_", "worker_agent_")


def metrics_page() -> str:
    """Return the page with all metrics, in the order of their names."""
    rows = sorted(_rows(), key=lambda row: row[0])
    return _PAGE.format(rows=table(("metric", "type", "labels", "processes", "meaning"), rows))


def _rows() -> Iterator[Sequence[str]]:
    collectors = {role: list(registry_of(role)._collector_to_names) for role in Role}
    for collector in dict.fromkeys(one for found in collectors.values() for one in found):
        for family in getattr(collector, "describe", collector.collect)():
            if not family.name.startswith(_OURS):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = getattr(collector, "_labelnames", ()) or getattr(collector, "_labels", ()) or ()
            by = ", ".join(role.value for role in Role if collector in collectors[role])
            yield f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels) or "–", by, family.documentation
