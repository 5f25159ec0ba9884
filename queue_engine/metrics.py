"""All Prometheus metrics of the engine and of the agent. docs/metrics.md lists them for the operator.

Base units; `_total` only on counters; timestamps instead of ages; label values from closed sets, never an id, a URL or
a tenant. Every process exports the whole list; what a process does not do stays at zero.
"""

from __future__ import annotations

import platform

from prometheus_client import Counter, Gauge, Histogram

from queue_engine import __version__

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

tasks_submitted = Counter("queue_engine_tasks_submitted", "Task submissions by result", ["result"])
tasks_finished = Counter("queue_engine_tasks_finished", "Tasks that reached a terminal state", ["state"])
task_attempts = Counter("queue_engine_task_attempts", "Attempts that ended, by outcome", ["outcome"])
task_queue_wait = Histogram(
    "queue_engine_task_queue_wait_seconds", "From submission to the start of the first attempt", buckets=_LONG
)
task_run = Histogram("queue_engine_task_run_seconds", "From the start of an attempt to its outcome", buckets=_LONG)
task_end_to_end = Histogram(
    "queue_engine_task_end_to_end_seconds", "From submission to the terminal state", buckets=_LONG
)
queue_tasks = Gauge("queue_engine_queue_tasks", "Tasks that have not ended", ["state"])
queue_oldest_task_timestamp = Gauge(
    "queue_engine_queue_oldest_task_timestamp_seconds", "When the oldest waiting task was queued; 0 when none waits"
)
workers = Gauge("queue_engine_workers", "Workers by status", ["status"])
leases_reclaimed = Counter("queue_engine_leases_reclaimed", "Tasks taken back from a worker whose lease ran out")
stale_results_rejected = Counter("queue_engine_stale_results_rejected", "Results of fenced attempts that were refused")

deliveries = Counter("queue_engine_deliveries", "Deliveries that ended", ["status"])
delivery_attempts = Counter("queue_engine_delivery_attempts", "Delivery attempts", ["outcome", "class"])
delivery_attempt_duration = Histogram(
    "queue_engine_delivery_attempt_duration_seconds", "Wall clock of one delivery attempt", buckets=(*_FAST, 15)
)
delivery_latency = Histogram("queue_engine_delivery_latency_seconds", "From the event to its delivery", buckets=_LONG)
deliveries_pending = Gauge("queue_engine_deliveries_pending", "Deliveries that wait", ["lane"])

http_requests = Counter("queue_engine_http_requests", "HTTP requests answered", ["route", "method", "code"])
http_request_duration = Histogram(
    "queue_engine_http_request_duration_seconds", "Time to answer", ["route", "method"], buckets=_FAST
)
rate_limited = Counter("queue_engine_rate_limited", "Requests refused with 429", ["scope"])
auth_failures = Counter("queue_engine_auth_failures", "Requests refused with 401", ["reason"])

redis_errors = Counter("queue_engine_redis_errors", "Failed store calls", ["op"])
redis_command_duration = Histogram(
    "queue_engine_redis_command_duration_seconds", "Time of a store call, waiting for its turn included", ["op"],
    buckets=_FAST,
)  # fmt: skip

agent_running_tasks = Gauge("worker_agent_running_tasks", "Tasks that this agent runs")
agent_last_heartbeat_timestamp = Gauge(
    "worker_agent_last_heartbeat_timestamp_seconds", "When the store last took this agent's heartbeat"
)
agent_container_up = Gauge("worker_agent_container_up", "1 while the container's port accepts connections")
agent_log_lines_dropped = Counter("worker_agent_log_lines_dropped", "Log lines of the container that were not kept")

build_info = Gauge("queue_engine_build_info", "Always 1; what runs", ["version", "python", "store"])


def note_build(store: str) -> None:
    """Say in the metrics what runs; `store` is the server's name and version, such as `valkey 9.1.2`."""
    build_info.clear()
    build_info.labels(version=__version__, python=platform.python_version(), store=store).set(1)


for _state in ("queued", "running", "scheduled"):
    queue_tasks.labels(state=_state)
for _result in ("accepted", "duplicate", "rejected"):
    tasks_submitted.labels(result=_result)
for _state in ("succeeded", "failed", "cancelled", "expired", "timed_out", "dead"):
    tasks_finished.labels(state=_state)
for _outcome in ("ok", "error", "timeout", "cancelled", "lost", "fenced"):
    task_attempts.labels(outcome=_outcome)
for _status in ("success", "max_retries_exceeded"):
    deliveries.labels(status=_status)
for _lane in ("fresh", "retry", "parked"):
    deliveries_pending.labels(lane=_lane)
