"""Numbers and sentences that scripts use by these names: the loader makes them locals of a script that names them."""

from __future__ import annotations

from queue_engine.domain.deliveries import MAX_RESULT_BYTES
from queue_engine.domain.ids import TASKS_PER_PARTITION_STEP
from queue_engine.domain.tasks import CANCELLED_WHILE_RUNNING

EXPIRY_SLACK_MS = 2 * 86_400_000
"""How much longer than its retention a task's data may stay when the retention job does not run."""

CANCELLED_BEFORE_IT_STARTED = "the task was cancelled before it was started"
CANCELLED_WHILE_WAITING = "the task was cancelled while it waited for another attempt"

MAX_DELIVERY_RECORDS = 20
"""Delivery attempts in a task's log, the latest."""

MAX_LINES = 10_000
"""Lines kept of one worker's log; the oldest go first. A little more, because the stream is cut in whole nodes."""
MAX_NODES = 2048
"""Nodes kept of one worker's log, too: about 8 MiB with the servers' default of 4 KiB a node."""
MAX_ENDED_LOGS = 100
"""Logs of ended workers kept for one endpoint; those that were silent longest go first."""

USE_GRACE_MS = 60_000
"""How long a note that an endpoint uses a credential counts by itself: the endpoint is stored right after it. Later
only an endpoint that does use it counts, so that a note that was left behind does not block forever."""

CONSTANTS: dict[str, str | int] = {
    "EXPIRY_SLACK_MS": EXPIRY_SLACK_MS,
    "CANCELLED_BEFORE_IT_STARTED": CANCELLED_BEFORE_IT_STARTED,
    "CANCELLED_WHILE_WAITING": CANCELLED_WHILE_WAITING,
    "CANCELLED_WHILE_RUNNING": CANCELLED_WHILE_RUNNING,
    "MAX_DELIVERY_RECORDS": MAX_DELIVERY_RECORDS,
    "MAX_RESULT_BYTES": MAX_RESULT_BYTES,
    "TASKS_PER_PARTITION_STEP": TASKS_PER_PARTITION_STEP,
    "MAX_LINES": MAX_LINES,
    "MAX_NODES": MAX_NODES,
    "MAX_ENDED_LOGS": MAX_ENDED_LOGS,
    "USE_GRACE_MS": USE_GRACE_MS,
}
