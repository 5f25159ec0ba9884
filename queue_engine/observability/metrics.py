"""All Prometheus metrics of the engine and of the agent, and the processes that export each of them.

docs/operations/metrics.md explains them to operators. Rules: base units; `_total` only on counters; timestamps instead
of ages; label values from closed sets, never an id, a URL or a tenant. The exception are the metrics of single
endpoints, which are off by default and have the ids of a limited number of endpoints.

Each metric has the roles that maintain it, and `registry_of` returns only the metrics of a role: a gauge that a process
does not maintain would be exported as 0, and an alert on it would always fire. The label values that a role counts are
declared with the metric, so that its counters begin at 0: Prometheus misses the increment that creates a series.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from queue_engine import __version__
from queue_engine.observability import outages

disable_created_metrics()  # type: ignore[no-untyped-call] # twice the series, and no documented query uses them

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
FIGURES_SECONDS = 30.0
"""Time after which figures that could not be read are no longer exported."""


class Role(StrEnum):
    """A kind of process."""

    API = "api"
    CONTROLLER = "controller"
    DELIVERY = "delivery"
    AGENT = "agent"


class Figures(Collector):
    """A gauge that is exported only while it has a value that is not older than `good_seconds`.

    A Gauge of prometheus_client would export 0 before it is set, and then its last value forever. `label` is the name
    of its only label, if it has one. `set` replaces all values. Safe to call from several threads.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str | None = None,
        *,
        good_seconds: float = float("inf"),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = [] if label is None else [label]
        self._good_seconds = good_seconds
        self._monotonic = monotonic
        self._values: tuple[float, dict[str, float]] = (0.0, {})

    def set(self, values: float | Mapping[str, float]) -> None:
        """Replace all values with a single one, or with one for each value of the label."""
        found = dict(values) if isinstance(values, Mapping) else {"": values}
        self._values = (self._monotonic(), found)

    def set_to_current_time(self) -> None:
        self.set(time.time())

    def put(self, label_value: str, value: float) -> None:
        """Set one value and keep the others."""
        self.set(self._values[1] | {label_value: value})

    def remove(self, label_value: str) -> None:
        """Stop exporting this value. Does nothing if there is none."""
        self.set({name: value for name, value in self._values[1].items() if name != label_value})

    def collect(self) -> Iterable[GaugeMetricFamily]:
        set_at, values = self._values
        if not values or self._monotonic() - set_at > self._good_seconds:
            return
        [family] = self.describe()
        for label_value, value in values.items():
            family.add_metric([label_value] if self._labels else [], value)
        yield family

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the family without its values."""
        return [GaugeMetricFamily(self._name, self._documentation, labels=self._labels)]


_exports: dict[Role, dict[Collector, tuple[str, ...]]] = {role: {} for role in Role}
_ALL: dict[Role, tuple[str, ...]] = dict.fromkeys(Role, ())


def _export(metric: Collector, by: Mapping[Role, tuple[str, ...]]) -> None:
    """Have these roles export `metric`, each with its initial label values."""
    for role, values in by.items():
        _exports[role][metric] = values


def registry_of(role: Role) -> CollectorRegistry:
    """Return a registry with the metrics of this role and of its process: memory, descriptors, start time."""
    registry = CollectorRegistry()
    for metric, begin_with in _exports[role].items():
        if isinstance(metric, Counter):
            for value in begin_with:
                metric.labels(value)
        registry.register(metric)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _counter(
    name: str, documentation: str, labels: Iterable[str] = (), *, by: Mapping[Role, tuple[str, ...]]
) -> Counter:
    metric = Counter(name, documentation, tuple(labels), registry=None)
    _export(metric, by)
    return metric


def _gauge(name: str, documentation: str, labels: Iterable[str] = (), *, by: Iterable[Role]) -> Gauge:
    metric = Gauge(name, documentation, tuple(labels), registry=None)
    _export(metric, dict.fromkeys(by, ()))
    return metric


def _histogram(
    name: str, documentation: str, labels: Iterable[str] = (), *, buckets: tuple[float, ...], by: Iterable[Role]
) -> Histogram:
    metric = Histogram(name, documentation, tuple(labels), registry=None, buckets=buckets)
    _export(metric, dict.fromkeys(by, ()))
    return metric


def _figures(
    name: str, documentation: str, label: str | None = None, *, by: Role, good_seconds: float = float("inf")
) -> Figures:
    metric = Figures(name, documentation, label, good_seconds=good_seconds)
    _export(metric, {by: ()})
    return metric


API, CONTROLLER, DELIVERY, AGENT = Role

tasks_submitted = _counter(
    "queue_engine_tasks_submitted", "Task submissions by result", ["result"],
    by={API: ("accepted", "duplicate", "rejected")},
)  # fmt: skip
tasks_finished = _counter(
    "queue_engine_tasks_finished", "Tasks that reached a terminal state", ["state"],
    by={
        API: ("cancelled",),
        CONTROLLER: ("failed", "dead", "cancelled", "expired"),
        AGENT: ("succeeded", "failed", "timed_out", "cancelled"),
    },
)  # fmt: skip
task_attempts = _counter(
    "queue_engine_task_attempts", "Attempts that ended, by outcome", ["outcome"],
    by={CONTROLLER: ("lost",), AGENT: ("ok", "error", "timeout", "cancelled", "fenced")},
)  # fmt: skip
task_queue_wait = _histogram(
    "queue_engine_task_queue_wait_seconds",
    "Time from submission, or the end of the delay, to the start of the first attempt",
    buckets=_LONG, by=[AGENT],
)  # fmt: skip
task_run = _histogram(
    "queue_engine_task_run_seconds", "Time from the start of an attempt to its outcome", buckets=_LONG, by=[AGENT]
)
task_end_to_end = _histogram(
    "queue_engine_task_end_to_end_seconds",
    "Time from submission, or the end of the delay, to the terminal state",
    buckets=_LONG,
    by=[AGENT],
)
queue_tasks = _figures(
    "queue_engine_queue_tasks", "Tasks that have not ended", "state", by=CONTROLLER, good_seconds=FIGURES_SECONDS
)
queue_oldest_task_timestamp = _figures(
    "queue_engine_queue_oldest_task_timestamp_seconds",
    "Time when the oldest waiting task of the endpoints that should work was queued; 0 if none waits",
    by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
endpoint_waiting_tasks = _figures(
    "queue_engine_endpoint_waiting_tasks", "Tasks of one endpoint that are queued or scheduled", "endpoint",
    by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
endpoint_oldest_task_timestamp = _figures(
    "queue_engine_endpoint_oldest_task_timestamp_seconds",
    "Time when the oldest queued task of one endpoint was queued; 0 if there is none, or the endpoint should not work",
    "endpoint", by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
paused_queues = _figures(
    "queue_engine_paused_queues", "Endpoints whose queue is paused while tasks wait there",
    by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
oldest_pause_timestamp = _figures(
    "queue_engine_oldest_pause_timestamp_seconds",
    "Time when the first of these queues was paused, by the store's clock; 0 if there is none",
    by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
queue_lanes = _figures(
    "queue_engine_queue_lanes",
    "Lanes with waiting tasks, one for each priority and fairness key of an endpoint: open ones have turns, parked "
    "ones wait because their key is at its limit",
    "state", by=CONTROLLER, good_seconds=FIGURES_SECONDS,
)  # fmt: skip
workers = _figures("queue_engine_workers", "Workers by status", "status", by=CONTROLLER, good_seconds=FIGURES_SECONDS)
leases_reclaimed = _counter(
    "queue_engine_leases_reclaimed", "Tasks reclaimed from a worker whose lease expired", by={CONTROLLER: ()}
)
sampled_endpoints = _figures(
    "queue_engine_sampled_endpoints",
    "Endpoints whose figures the latest round of samples has read, of those that had tasks in the last 48 hours; "
    "exported by the leading controller",
    by=CONTROLLER, good_seconds=3 * FIGURES_SECONDS,
)  # fmt: skip
operations_running = _figures(
    "queue_engine_operations_running", "Bulk operations that run; exported by the leading controller", by=CONTROLLER
)
operation_tasks = _counter(
    "queue_engine_operation_tasks", "Tasks that bulk operations have changed, by action", ["action"],
    by={CONTROLLER: ("cancel", "retry", "delete", "redeliver"), DELIVERY: ("redeliver",)},
)  # fmt: skip
controller_leading = _gauge("queue_engine_controller_leading", "1 while this controller leads, else 0", by=[CONTROLLER])
background_job_last_success = _figures(
    "queue_engine_background_job_last_success_timestamp_seconds",
    "Time when this controller last completed a background job; before the first time, when it began to run jobs",
    "name", by=CONTROLLER,
)  # fmt: skip
data_format = _figures(
    "queue_engine_data_format", "Format of the store's data, and the newest one that the leading controller knows",
    "of", by=CONTROLLER,
)  # fmt: skip
records_migrated = _counter(
    "queue_engine_records_migrated", "Records that a migration of the data has changed", by={CONTROLLER: ()}
)
log_followers = _gauge(
    "queue_engine_log_followers", "Containers whose output this controller writes to their logs", by=[CONTROLLER]
)
log_follower_failures = _counter(
    "queue_engine_log_follower_failures", "Failures to follow the output of a container; each is retried", ["reason"],
    by={CONTROLLER: ("backend", "store", "other")},
)  # fmt: skip
log_lines_dropped = _counter(
    "queue_engine_log_lines_dropped", "Log lines of followed containers that were dropped", by={CONTROLLER: ()}
)
backend_up = _gauge(
    "queue_engine_backend_up", "1 while a cluster that this controller watches responds, else 0", ["cluster"],
    by=[CONTROLLER],
)  # fmt: skip
backend_requests = _counter(
    "queue_engine_backend_requests", "Requests to clusters by HTTP status; `none` without a response",
    ["cluster", "verb", "code"], by={CONTROLLER: ()},
)  # fmt: skip
stale_results_rejected = _counter(
    "queue_engine_stale_results_rejected", "Results of fenced attempts that were refused", by={AGENT: ()}
)

deliveries = _counter(
    "queue_engine_deliveries", "Deliveries that ended", ["status"], by={DELIVERY: ("success", "max_retries_exceeded")}
)
worker_events_dropped = _counter(
    "queue_engine_worker_events_dropped",
    "Status events of removed workers that were dropped, because too many waited for the endpoint's webhook",
    by={API: (), CONTROLLER: ()},
)
delivery_attempts = _counter(
    "queue_engine_delivery_attempts", "Delivery attempts", ["outcome", "class"], by={DELIVERY: ()}
)
delivery_attempt_duration = _histogram(
    "queue_engine_delivery_attempt_duration_seconds", "Duration of a delivery attempt",
    buckets=(*_FAST, 15), by=[DELIVERY],
)  # fmt: skip
delivery_latency = _histogram(
    "queue_engine_delivery_latency_seconds", "Time from the event to its delivery", buckets=_LONG, by=[DELIVERY]
)
deliveries_pending = _figures(
    "queue_engine_deliveries_pending", "Deliveries that wait", "lane", by=DELIVERY, good_seconds=FIGURES_SECONDS
)

http_requests = _counter(
    "queue_engine_http_requests", "HTTP requests by status", ["route", "method", "code"], by={API: ()}
)
http_request_duration = _histogram(
    "queue_engine_http_request_duration_seconds", "Time to respond", ["route", "method"], buckets=_FAST, by=[API]
)
open_websockets = _gauge("queue_engine_open_websockets", "Open WebSockets to workers of ALB endpoints", by=[API])
waiting_agents = _gauge("queue_engine_waiting_agents", "Agents that wait at this process for a task", by=[API])
task_waits = _gauge("queue_engine_task_waits", "Tasks that clients of this process wait for", by=[API])
event_streams = _gauge("queue_engine_event_streams", "Streams of events that clients of this process follow", by=[API])
event_topics = _gauge("queue_engine_event_topics", "Topics that this process reads for streams of events", by=[API])
task_waits_refused = _counter(
    "queue_engine_task_waits_refused", "Waits that ended at once because of a limit of waits", ["limit"],
    by={API: ("all", "tenant")},
)  # fmt: skip
rate_limited = _counter(
    "queue_engine_rate_limited",
    "Requests refused with 429",
    ["scope"],
    by={API: ("tenant", "queue", "address", "quota", "submits", "events")},
)
limit_refusals = _counter(
    "queue_engine_limit_refusals", "Requests refused because of a limit of a tenant, an API key or an endpoint",
    ["limit"],
    by={
        API: (
            "endpoints", "credentials", "keys", "workersPerEndpoint", "workers", "storedBytes", "waitingTasks",
            "waitingDeliveries", "tenantSubmitsPerSecond", "keySubmitsPerSecond", "endpointSubmitsPerSecond",
        ),
    },
)  # fmt: skip
connections_refused = _counter(
    "queue_engine_connections_refused", "Connections and requests refused because of a limit of connections", ["limit"],
    by={API: ("all", "address", "tenant")},
)  # fmt: skip
auth_failures = _counter(
    "queue_engine_auth_failures", "Requests refused with 401", ["reason"],
    by={API: ("missing", "malformed", "unknown", "repeated")},
)  # fmt: skip

redis_errors = _counter("queue_engine_redis_errors", "Failed calls of the store's scripts", ["op"], by=_ALL)
redis_command_duration = _histogram(
    "queue_engine_redis_command_duration_seconds", "Duration of a store call, including the wait for its turn", ["op"],
    buckets=_FAST, by=Role,
)  # fmt: skip

store_away = _gauge("queue_engine_store_away", "1 while this process waits for the store, else 0", by=Role)
store_away.set_function(lambda: float(outages.STORE.goes_on))

agent_running_tasks = _gauge("worker_agent_running_tasks", "Tasks that this agent runs", by=[AGENT])
agent_last_heartbeat_timestamp = _figures(
    "worker_agent_last_heartbeat_timestamp_seconds", "Time of this agent's last accepted heartbeat", by=AGENT
)
agent_container_up = _gauge("worker_agent_container_up", "1 while the container is ready", by=[AGENT])
agent_tasks_unreadable = _counter(
    "worker_agent_tasks_unreadable", "Tasks released because the agent lacks the key of their headers", by={AGENT: ()}
)
agent_log_lines_dropped = _counter(
    "worker_agent_log_lines_dropped", "Log lines of the container that were dropped", by={AGENT: ()}
)

build_info = _gauge(
    "queue_engine_build_info", "Always 1; the labels have the versions", ["version", "python", "store"], by=Role
)


class StoreCalls:
    """The metrics of the calls of one script. The results of `labels()` are kept, because it is slower than counting.

    The error counter of a script is exported as 0 from its first call.
    """

    def __init__(self, op: str) -> None:
        self._duration = redis_command_duration.labels(op=op)
        self._errors = redis_errors.labels(op=op)

    def count(self, seconds: float, *, failed: bool) -> None:
        self._duration.observe(seconds)
        if failed:
            self._errors.inc()


def note_build(store: str) -> None:
    """Set the build info metric. `store` is the server's name and version, such as `valkey 9.1.2`."""
    build_info.clear()
    build_info.labels(version=__version__, python=platform.python_version(), store=store).set(1)
