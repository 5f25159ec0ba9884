"""The page on metrics, from the definitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.registry import Collector

from queue_engine.domain.workers import WorkerStatus
from queue_engine.observability.metrics import Role, _exports, registry_of
from tests.reference_text import MADE, table

_PAGE = f"""# Metrics

{MADE}

Each process serves its metrics at `/metrics`.
[Metrics, dashboards and alerts](../operations/metrics.md) explains the labels and how to read the values. Names,
labels and label values do not change within a major version.

{{rows}}

`worker_agent_up` (gauge; `endpoint`, `worker`) is added by the controller at `/metrics/agents`: 1 for an agent that
responds, else 0.
"""
_OURS = ("queue_engine_", "worker_agent_")
_VALUES = {
    "queue_engine_queue_tasks": "queued, running, scheduled",
    "queue_engine_workers": ", ".join(WorkerStatus),
    "queue_engine_data_format": "store, newest",
    "queue_engine_background_job_last_success_timestamp_seconds": "sweep, purge, delete, recover, reconcile",
    "queue_engine_queue_lanes": "open, parked",
    "queue_engine_deliveries_pending": "fresh, retry, parked",
}
"""Values of the labels of gauges, which begin with none."""


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
            by = ", ".join(role.value for role in Role if collector in collectors[role])
            yield f"`{name}`", family.type, _labels(collector, family.name), by, family.documentation


def _labels(collector: Collector, name: str) -> str:
    names = getattr(collector, "_labelnames", ()) or getattr(collector, "_labels", ()) or ()
    begun = dict.fromkeys(value for role in Role for value in _exports[role].get(collector, ()))
    values = ", ".join(begun) or _VALUES.get(name, "")
    shown = ", ".join(f"`{label}`" for label in names) or "–"
    return f"{shown}: {values}" if values else shown
