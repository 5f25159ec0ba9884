"""Which process exports which metric, and that the pages say the same."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from queue_engine.delivery.responses import ERROR_TYPES
from queue_engine.observability import metrics
from queue_engine.observability.metrics import Figures, Role, registry_of

DOCUMENT = (Path(__file__).parents[2] / "docs/operations/metrics.md").read_text()
REFERENCE = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|[^|]*\| ([a-z, ]+) \|[^|]+\|$", re.MULTILINE)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def documented() -> dict[tuple[str, str], set[str]]:
    return {(name, kind): set(by.strip().split(", ")) for name, kind, by in _ROW.findall(REFERENCE)}


def exported() -> dict[tuple[str, str], set[str]]:
    """Name and type of each metric of ours, with the roles that export it, set or not."""
    found: dict[tuple[str, str], set[str]] = {}
    for role in Role:
        for collector in registry_of(role)._collector_to_names:
            for family in getattr(collector, "describe", collector.collect)():
                if family.name.startswith(("queue_engine_", "worker_agent_")):
                    name = f"{family.name}_total" if family.type == "counter" else family.name
                    found.setdefault((name, family.type), set()).add(role.value)
    return found


def values_of(role: Role, name: str) -> dict[tuple[str, ...], float]:
    text = generate_latest(registry_of(role)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {tuple(one.labels.values()): one.value for one in samples if one.name == name}


def test_every_exported_metric_is_documented_with_its_processes_and_every_documented_one_exists() -> None:
    assert documented() == exported()


@pytest.mark.parametrize("role", Role)
def test_a_process_exports_no_gauge_of_another_role(role: Role) -> None:
    text = generate_latest(registry_of(role)).decode()
    assert ("worker_agent_" in text) == (role is Role.AGENT)
    assert ("queue_engine_deliveries" in text) == (role is Role.DELIVERY)
    assert ("queue_engine_controller_leading" in text) == (role is Role.CONTROLLER)
    assert ("queue_engine_http_requests" in text) == (role is Role.API)


def test_counters_that_alerts_use_begin_at_zero() -> None:
    assert set(values_of(Role.DELIVERY, "queue_engine_deliveries_total")) == {("success",), ("max_retries_exceeded",)}
    assert ("lost",) in values_of(Role.CONTROLLER, "queue_engine_task_attempts_total")
    assert ("missing",) in values_of(Role.API, "queue_engine_auth_failures_total")


def test_the_documented_classes_of_delivery_attempts_are_the_ones_that_exist() -> None:
    [section] = re.findall(r"^`class` of a delivery attempt: (.*?)\. `op`", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", section)) == ERROR_TYPES | {"none"}


def test_figures_are_absent_before_they_are_read_and_after_they_are_too_old() -> None:
    clock = Clock()
    figures = Figures("figures", "For this test", "state", good_seconds=30, monotonic=clock)
    assert list(figures.collect()) == []
    figures.set({"queued": 3.0, "running": 0.0})
    [family] = figures.collect()
    assert {sample.labels["state"]: sample.value for sample in family.samples} == {"queued": 3.0, "running": 0.0}
    clock.now = 31
    assert list(figures.collect()) == []
    figures.set({"queued": 1.0})
    [family] = figures.collect()
    assert [sample.labels for sample in family.samples] == [{"state": "queued"}]


def test_a_value_that_is_removed_is_not_exported() -> None:
    figures = Figures("figures", "For this test", "name")
    figures.put("sweep", 1.0)
    figures.put("reconcile", 2.0)
    figures.remove("reconcile")
    figures.remove("never there")
    [family] = figures.collect()
    assert [sample.labels for sample in family.samples] == [{"name": "sweep"}]


def test_a_store_call_begins_its_error_counter_at_zero() -> None:
    calls = metrics.StoreCalls("a_script_of_this_test")
    calls.count(0.1, failed=False)
    assert values_of(Role.API, "queue_engine_redis_errors_total")[("a_script_of_this_test",)] == 0
    calls.count(0.1, failed=True)
    assert values_of(Role.API, "queue_engine_redis_errors_total")[("a_script_of_this_test",)] == 1
