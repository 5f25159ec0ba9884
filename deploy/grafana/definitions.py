"""The dashboards of the engine. All queries are independent of the names that a scrape configuration gives to jobs."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Variable

_RATE = "[$__rate_interval]"
_QUANTILES = (("0.5", "median"), ("0.95", "95 %"), ("0.99", "99 %"))


def _rate(metric: str, labels: str = "", *, by: str = "") -> str:
    """Return the sum of the rates of a counter, by these labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{labels}{_RATE}))"


def _quantiles(buckets: str) -> list[Query]:
    """Return the median and high quantiles of rates of buckets by `le`."""
    return [Query(f"histogram_quantile({share}, {buckets})", name) for share, name in _QUANTILES]


def _of_processes(first_id: int, role: str, marker: str) -> list[Panel]:
    """Return processor, memory and descriptors of the processes that export `marker`."""
    name, of_role = "{{job}} {{instance}}", f"and on (job, instance) {marker}"
    return [
        Panel(
            first_id, "Processor", f"Processor cores that each {role} uses. One process uses at most about one core.",
            [Query(f"sum by (job, instance) (rate(process_cpu_seconds_total{_RATE}) {of_role})", name)],
        ),
        Panel(
            first_id + 1, "Memory", f"Resident memory of each {role}.",
            [Query(f"sum by (job, instance) (process_resident_memory_bytes {of_role})", name)], unit="bytes",
        ),
        Panel(
            first_id + 2, "Open descriptors",
            f"Open files and connections of each {role}, as a share of its limit. At the limit it cannot connect.",
            [Query(f"max by (job, instance) (process_open_fds / process_max_fds {of_role})", name)],
            unit="percentunit", thresholds=[(0.8, "red")],
        ),
    ]  # fmt: skip


def _stat(
    number: int, title: str, text: str, expr: str, *, unit: str = "short", thresholds: Sequence[tuple[float, str]] = (),
    base_color: str = "green", width: int = 3,
) -> Panel:  # fmt: skip
    return Panel(
        number, title, text, [Query(expr, title)], unit=unit, kind="stat", thresholds=thresholds,
        base_color=base_color, width=width, height=4,
    )  # fmt: skip


_TASKS_BY_STATE = [Query("queue_engine:queue_tasks:max", "{{state}}")]
_LATENCY = "queue_engine:queue_latency:seconds or vector(0)"
_FAILED_WORKERS = 'max(queue_engine_workers{status="FAILED"})'
_LEADING = "sum(queue_engine_controller_leading)"
_PARKED = 'max(queue_engine_deliveries_pending{lane="parked"})'

OVERVIEW = Dashboard(
    "queue-engine-overview",
    "Queue engine / Overview",
    "Whether the engine works, what it does, and how long tasks take.",
    [
        Row(100, "Does it work?", [
            _stat(
                101, "Oldest waiting task", "How long the oldest task of the endpoints that should work has waited. "
                "Above 5 minutes QueueEngineQueueLatency fires.", _LATENCY, unit="s",
                thresholds=[(60, "orange"), (300, "red")],
            ),
            _stat(
                102, "Tasks that wait", "Tasks that are queued or scheduled, at all endpoints.",
                'sum(queue_engine:queue_tasks:max{state=~"queued|scheduled"})',
            ),
            _stat(103, "Tasks that run", "Tasks that a worker has now.",
                  'sum(queue_engine:queue_tasks:max{state="running"})'),
            _stat(104, "Workers that run", "Workers that are ready for tasks.",
                  'max(queue_engine_workers{status="RUNNING"})'),
            _stat(
                105, "Workers that failed", "Workers that crash on every start or are not ready in time.",
                _FAILED_WORKERS, thresholds=[(1, "red")],
            ),
            _stat(
                106, "Leading controllers", "One controller leads and starts workers. With none, no worker is started.",
                _LEADING, thresholds=[(1, "green"), (2, "red")], base_color="red",
            ),
            _stat(
                107, "Processes without store", "Processes that wait for the store now.",
                "sum(queue_engine_store_away)", thresholds=[(1, "red")],
            ),
            _stat(
                108, "Parked deliveries", "Deliveries that wait because their receivers do not respond.",
                _PARKED, thresholds=[(1, "orange")],
            ),
            Panel(
                109, "Alerts that fire", "docs/operations/runbook.md has a section for each. Empty when none fires.",
                [Query('ALERTS{alertstate="firing"}', "")], kind="table", width=24, height=6,
                columns=["Time", "alertname", "severity", "endpoint", "worker", "instance", "route", "name"],
            ),
        ]),
        Row(200, "Tasks", [
            Panel(201, "Submissions", "Submitted tasks by result. A duplicate is the same task submitted again.",
                  [Query(_rate("queue_engine_tasks_submitted_total", by="result"), "{{result}}")], unit="ops"),
            Panel(202, "Tasks that ended", "Tasks that reached their end, by state.",
                  [Query(_rate("queue_engine_tasks_finished_total", by="state"), "{{state}}")], unit="ops",
                  stacked=True),
            Panel(203, "Tasks that have not ended", "By state. Scheduled tasks wait for their next attempt.",
                  _TASKS_BY_STATE, stacked=True),
            Panel(204, "From submission to the end", "How long tasks took that ended in the last five minutes.",
                  _quantiles("queue_engine:task_end_to_end_seconds_bucket:rate5m"), unit="s"),
            Panel(205, "Wait for a worker", "From submission to the start of the first attempt.",
                  _quantiles("queue_engine:task_queue_wait_seconds_bucket:rate5m"), unit="s"),
            Panel(206, "Run", "From the start of an attempt to its outcome.",
                  _quantiles("queue_engine:task_run_seconds_bucket:rate5m"), unit="s"),
        ]),
        Row(300, "API", [
            Panel(301, "Requests", "Responses by status code. Codes of routes /e/… are mostly those of workers.",
                  [Query(_rate("queue_engine_http_requests_total", by="code"), "{{code}}")], unit="reqps",
                  stacked=True),
            Panel(302, "Slowest routes", "95th percentile of the time to respond, for the ten slowest routes.",
                  [Query("topk(10, histogram_quantile(0.95, "
                         + _rate("queue_engine_http_request_duration_seconds_bucket", by="le, method, route") + "))",
                         "{{method}} {{route}}")], unit="s"),
            Panel(303, "Refused requests", "Requests that met a limit (429), by its scope, and requests without a "
                  "valid key (401), by reason.",
                  [Query(_rate("queue_engine_rate_limited_total", by="scope"), "429 {{scope}}"),
                   Query(_rate("queue_engine_auth_failures_total", by="reason"), "401 {{reason}}")], unit="reqps"),
            Panel(304, "Waits", "Tasks that clients wait for, by API process. See docs/operations/limits.md.",
                  [Query("queue_engine_task_waits", "{{job}} {{instance}}")]),
        ]),
        Row(400, "Processes", [
            *_of_processes(401, "process, all agents of a controller together,", "queue_engine_build_info"),
            Panel(404, "What runs", "Versions of the engine's processes, of Python and of the store.",
                  [Query("count by (job, instance, version, python, store) (queue_engine_build_info)", "")],
                  kind="table", width=24, height=7,
                  columns=["job", "instance", "version", "python", "store", "Value"]),
        ]),
    ],
)  # fmt: skip

_ENDPOINT = '{endpoint=~"$endpoint"}'

ENDPOINT = Dashboard(
    "queue-engine-endpoint",
    "Queue engine / Endpoint",
    "The queue, workers and attempts of one or several endpoints. The label `endpoint` comes from the controller's "
    "/metrics/agents, and of agents that are started by hand from your scrape configuration.",
    [
        Row(100, "Queue", [
            Panel(
                101, "Tasks that wait", "Queued and scheduled tasks by endpoint. Needs "
                "QUEUE_ENGINE_METRICS_ENDPOINT_LIMIT of the controller; `other` is the sum beyond that limit.",
                [Query(f"max by (endpoint) (queue_engine_endpoint_waiting_tasks{_ENDPOINT})", "{{endpoint}}")],
                width=12,
            ),
            Panel(
                102, "Age of the oldest queued task", "By endpoint, while tasks wait. Needs "
                "QUEUE_ENGINE_METRICS_ENDPOINT_LIMIT of the controller.",
                [Query(f"queue_engine:endpoint_queue_latency:seconds{_ENDPOINT}", "{{endpoint}}")], unit="s",
                thresholds=[(300, "red")], width=12,
            ),
        ]),
        Row(200, "Workers", [
            Panel(201, "Agents that respond", "Agents that a controller has started and that gave their metrics.",
                  [Query(f"sum by (endpoint) (worker_agent_up{_ENDPOINT})", "{{endpoint}}")], width=6),
            Panel(202, "Containers that are ready", "Containers whose port accepts connections or whose readyPath "
                  "responds.",
                  [Query(f"sum by (endpoint) (worker_agent_container_up{_ENDPOINT})", "{{endpoint}}")], width=6),
            Panel(203, "Tasks that run", "At most `concurrency` for each worker.",
                  [Query(f"sum by (endpoint) (worker_agent_running_tasks{_ENDPOINT})", "{{endpoint}}")], width=6),
            Panel(
                204, "Age of the last heartbeat", "The oldest of the endpoint's agents. A task whose agent is silent "
                "for QUEUE_ENGINE_LEASE_SECONDS runs again elsewhere.",
                [Query(f"max by (endpoint) (time() - worker_agent_last_heartbeat_timestamp_seconds{_ENDPOINT})",
                       "{{endpoint}}")], unit="s", thresholds=[(60, "red")], width=6,
            ),
        ]),
        Row(300, "Attempts", [
            Panel(301, "Attempts that ended", "By outcome. Fenced: another attempt had the task by then.",
                  [Query(_rate("queue_engine_task_attempts_total", _ENDPOINT, by="outcome"), "{{outcome}}")],
                  unit="ops", stacked=True),
            Panel(302, "Tasks that ended", "By state, as the agents count them.",
                  [Query(_rate("queue_engine_tasks_finished_total", _ENDPOINT, by="state"), "{{state}}")], unit="ops",
                  stacked=True),
            Panel(
                303, "Trouble of agents", "Results refused because another attempt had the task, tasks whose headers "
                "the agent cannot open, and lines of the container's log that were not kept.",
                [Query(_rate("queue_engine_stale_results_rejected_total", _ENDPOINT), "refused results"),
                 Query(_rate("worker_agent_tasks_unreadable_total", _ENDPOINT), "unreadable tasks"),
                 Query(_rate("worker_agent_log_lines_dropped_total", _ENDPOINT), "dropped log lines")], unit="ops",
            ),
            Panel(304, "Wait for a worker", "From submission to the start of the first attempt.",
                  _quantiles(_rate("queue_engine_task_queue_wait_seconds_bucket", _ENDPOINT, by="le")), unit="s"),
            Panel(305, "Run", "From the start of an attempt to its outcome.",
                  _quantiles(_rate("queue_engine_task_run_seconds_bucket", _ENDPOINT, by="le")), unit="s"),
            Panel(306, "From submission to the end", "How long tasks took, all attempts and waits included.",
                  _quantiles(_rate("queue_engine_task_end_to_end_seconds_bucket", _ENDPOINT, by="le")), unit="s"),
        ]),
        Row(400, "Agents", [
            Panel(
                401, "Processor of agents", "Processor cores that each agent uses, without its container.",
                [Query(f"sum by (endpoint, worker) (rate(process_cpu_seconds_total{_ENDPOINT}{_RATE}) "
                       "and on (job, instance, worker) worker_agent_running_tasks)", "{{endpoint}} {{worker}}")],
                width=12,
            ),
            Panel(
                402, "Memory of agents", "Resident memory of each agent, without its container.",
                [Query(f"sum by (endpoint, worker) (process_resident_memory_bytes{_ENDPOINT} "
                       "and on (job, instance, worker) worker_agent_running_tasks)", "{{endpoint}} {{worker}}")],
                unit="bytes", width=12,
            ),
        ]),
    ],
    [Variable("endpoint", "Endpoint",
              '{__name__=~"worker_agent_running_tasks|queue_engine_endpoint_waiting_tasks"}', "endpoint")],
)  # fmt: skip

DELIVERIES = Dashboard(
    "queue-engine-deliveries",
    "Queue engine / Deliveries",
    "Webhooks: what is sent, what fails and why, and what waits.",
    [
        Row(100, "Now", [
            _stat(101, "Due now", "Deliveries that wait for a delivery process.",
                  'max(queue_engine_deliveries_pending{lane="fresh"})', width=6),
            _stat(102, "Wait for a retry", "Deliveries that failed and are sent again later.",
                  'max(queue_engine_deliveries_pending{lane="retry"})', width=6),
            _stat(103, "Parked", "Deliveries that wait because their receivers do not respond.", _PARKED, width=6,
                  thresholds=[(1, "orange")]),
            _stat(
                104, "Given up in an hour", "Deliveries that failed in all attempts. Their receivers have not got the "
                "result.", 'sum(increase(queue_engine_deliveries_total{status="max_retries_exceeded"}[1h]))', width=6,
                thresholds=[(1, "red")],
            ),
        ]),
        Row(200, "Attempts", [
            Panel(201, "Delivery attempts", "HTTP requests to receivers, by outcome.",
                  [Query(_rate("queue_engine_delivery_attempts_total", by="outcome"), "{{outcome}}")], unit="reqps",
                  stacked=True),
            Panel(202, "Failures by class", "Why attempts failed. docs/operations/metrics.md lists the classes.",
                  [Query(_rate("queue_engine_delivery_attempts_total", '{outcome="failure"}', by="class"),
                         "{{class}}")], unit="reqps"),
            Panel(203, "Share of failures", "Failed attempts of the last 15 minutes, as a share of all.",
                  [Query("queue_engine:delivery_failures:ratio15m", "failures")], unit="percentunit",
                  thresholds=[(0.5, "red")]),
            Panel(204, "Duration of an attempt", "Wall clock of one HTTP attempt.",
                  _quantiles(_rate("queue_engine_delivery_attempt_duration_seconds_bucket", by="le")), unit="s"),
            Panel(205, "From the event to its delivery", "How long results took to reach their receivers, retries "
                  "included.",
                  _quantiles(_rate("queue_engine_delivery_latency_seconds_bucket", by="le")), unit="s"),
            Panel(206, "Deliveries that ended", "Delivered, or given up after all attempts.",
                  [Query(_rate("queue_engine_deliveries_total", by="status"), "{{status}}")], unit="ops"),
        ]),
        Row(300, "Waiting", [
            Panel(301, "Deliveries that wait", "Fresh: due now. Retry: failed before. Parked: the receiver does not "
                  "respond.",
                  [Query("max by (lane) (queue_engine_deliveries_pending)", "{{lane}}")], width=24, stacked=True),
        ]),
        Row(400, "Delivery processes", _of_processes(401, "delivery process", "queue_engine_deliveries_total")),
    ],
)  # fmt: skip

_CALLS = "queue_engine_redis_command_duration_seconds"

STORE = Dashboard(
    "queue-engine-store",
    "Queue engine / Store",
    "Redis or Valkey as the engine's processes see it. Figures of the server itself (memory, replication) need an "
    "exporter of its own.",
    [
        Row(100, "Now", [
            _stat(101, "Processes without store", "Processes that wait for the store now.",
                  "sum(queue_engine_store_away)", width=6, thresholds=[(1, "red")]),
            _stat(102, "Calls", "Calls of the store by all processes, per second.", _rate(f"{_CALLS}_count"),
                  unit="ops", width=6),
            _stat(103, "Failed calls", "Failed calls of the store, per second.",
                  _rate("queue_engine_redis_errors_total"), unit="ops", width=6, thresholds=[(0.05, "red")]),
            _stat(104, "Data format", "Format of the store's data. docs/operations/upgrade.md says what it is for.",
                  'max(queue_engine_data_format{of="store"})', width=6),
        ]),
        Row(200, "Calls", [
            Panel(201, "Calls by script", "The ten scripts that are called most.",
                  [Query(f"topk(10, {_rate(f'{_CALLS}_count', by='op')})", "{{op}}")], unit="ops"),
            Panel(202, "Duration", "Time of a call, with its wait for a connection.",
                  _quantiles(_rate(f"{_CALLS}_bucket", by="le")), unit="s"),
            Panel(203, "Slowest scripts", "99th percentile of the ten slowest scripts.",
                  [Query(f"topk(10, histogram_quantile(0.99, {_rate(f'{_CALLS}_bucket', by='le, op')}))", "{{op}}")],
                  unit="s"),
            Panel(204, "Calls in flight", "Calls of each script in flight on average: where the time goes.",
                  [Query(f"topk(10, {_rate(f'{_CALLS}_sum', by='op')})", "{{op}}")], stacked=True),
            Panel(205, "Failed calls", "By script. A store at its memory limit fails only scripts that add data.",
                  [Query(_rate("queue_engine_redis_errors_total", by="op"), "{{op}}")], unit="ops"),
            Panel(206, "Calls by process", "All agents of a controller are one line.",
                  [Query(_rate(f"{_CALLS}_count", by="job, instance"), "{{job}} {{instance}}")], unit="ops"),
        ]),
        Row(300, "Outages and migrations", [
            Panel(301, "Processes that wait for the store", "1 while a process waits for the store.",
                  [Query("max by (job, instance) (queue_engine_store_away)", "{{job}} {{instance}}")], width=12),
            Panel(302, "Migration of the data", "Records that a migration changed, per second. 0 without a migration.",
                  [Query(_rate("queue_engine_records_migrated_total"), "records")], unit="ops", width=12),
        ]),
    ],
)  # fmt: skip

_SINCE_JOB = "time() - max by (name) (queue_engine_background_job_last_success_timestamp_seconds)"

CONTROLLER = Dashboard(
    "queue-engine-controller",
    "Queue engine / Controller",
    "Leadership, background jobs, workers and lost tasks.",
    [
        Row(100, "Now", [
            _stat(101, "Leading controllers", "One controller leads and starts workers. With none, none is started.",
                  _LEADING, thresholds=[(1, "green"), (2, "red")], base_color="red", width=6),
            _stat(102, "Workers that failed", "Workers that crash on every start or are not ready in time.",
                  _FAILED_WORKERS, thresholds=[(1, "red")], width=6),
            _stat(103, "Agents that do not respond", "Agents that live and gave no metrics within a second.",
                  "count(worker_agent_up == 0) or vector(0)", thresholds=[(1, "red")], width=6),
            _stat(104, "Oldest waiting task", "How long the oldest task of the endpoints that should work has waited.",
                  _LATENCY, unit="s", thresholds=[(60, "orange"), (300, "red")], width=6),
        ]),
        Row(200, "Leadership and jobs", [
            Panel(201, "Leadership", "1 for the controller that leads.",
                  [Query("max by (job, instance) (queue_engine_controller_leading)", "{{instance}}")], width=12),
            Panel(202, "Time since the last run of a job", "Sweep and reconcile run every second, delete every two, "
                  "recover every five, purge every ten. Alerts: 1 minute for sweep and reconcile, 15 for the others.",
                  [Query(_SINCE_JOB, "{{name}}")], unit="s", width=12, thresholds=[(60, "orange"), (900, "red")]),
        ]),
        Row(300, "Workers and tasks", [
            Panel(301, "Workers", "By status.", [Query("max by (status) (queue_engine_workers)", "{{status}}")],
                  stacked=True),
            Panel(302, "Tasks that have not ended", "By state. Scheduled tasks wait for their next attempt.",
                  _TASKS_BY_STATE, stacked=True),
            Panel(303, "Lost tasks", "Tasks taken back from workers whose lease expired. They run again elsewhere.",
                  [Query(_rate("queue_engine_leases_reclaimed_total"), "lost")], unit="ops"),
            Panel(304, "Tasks that the controller ended", "Dead: lost too often. Expired: waited beyond their "
                  "deadline. Failed: their endpoint was deleted.",
                  [Query("sum by (state) (rate(queue_engine_tasks_finished_total[$__rate_interval]) "
                         "and on (job, instance) queue_engine_controller_leading)", "{{state}}")],
                  unit="ops", width=12),
            Panel(305, "Age of the oldest waiting task", "Of the endpoints that should work.",
                  [Query(_LATENCY, "oldest")], unit="s", width=12, thresholds=[(300, "red")]),
            Panel(306, "Bulk operations", "Operations that run. One that retries tasks waits while the queue is full.",
                  [Query("max(queue_engine_operations_running)", "running")], width=12),
            Panel(307, "Tasks changed by bulk operations", "By action.",
                  [Query(_rate("queue_engine_operation_tasks_total", by="action"), "{{action}}")], unit="ops",
                  width=12),
            Panel(308, "Paused queues", "Endpoints whose queue is paused while tasks wait there. The age of their "
                  "tasks is not measured.", [Query("max(queue_engine_paused_queues)", "paused")], width=12),
            Panel(309, "Lanes of waiting tasks", "Priorities and fairness keys with waiting tasks. Parked lanes wait "
                  "because as many tasks of their key run as may.",
                  [Query("max by (state) (queue_engine_queue_lanes)", "{{state}}")], width=12, stacked=True),
        ]),
        Row(350, "Logs of workers in containers", [
            Panel(351, "Followed containers", "Containers whose output the controllers write to the workers' logs. 0 "
                  "with processes, whose agents do that.", [Query("sum(queue_engine_log_followers)", "containers")]),
            Panel(352, "Failures", "Failures to read the output from the container engine (backend) or to write it to "
                  "the store. Each is retried.",
                  [Query(_rate("queue_engine_log_follower_failures_total", by="reason"), "{{reason}}")], unit="ops"),
            Panel(353, "Dropped lines", "Lines beyond the limits of a worker's log. The log says how many.",
                  [Query(_rate("queue_engine_log_lines_dropped_total"), "lines")], unit="ops"),
        ]),
        Row(400, "Controllers", _of_processes(401, "controller", "queue_engine_controller_leading")),
    ],
)  # fmt: skip

ALL = (OVERVIEW, ENDPOINT, DELIVERIES, STORE, CONTROLLER)
