"""Constants of the scripts. The loader defines them as locals of a script that uses their names."""

from __future__ import annotations

from queue_engine.domain.audit import MAX_AUDIT_RECORDS
from queue_engine.domain.deliveries import MAX_RESULT_BYTES
from queue_engine.domain.field_types import MAX_DELAY_SECONDS
from queue_engine.domain.ids import TASKS_PER_PARTITION_STEP
from queue_engine.domain.tasks import CANCELLED_WHILE_RUNNING

MAX_DELAY_MS = MAX_DELAY_SECONDS * 1000
"""Maximum time from a submission to the time before which its task does not begin."""

EXPIRY_SLACK_MS = 2 * 86_400_000
"""Time that a task's data outlives its retention when the retention job does not run."""

CANCELLED_BEFORE_IT_STARTED = "the task was cancelled before it was started"
CANCELLED_WHILE_WAITING = "the task was cancelled while it waited for another attempt"

MAX_DELIVERY_RECORDS = 20
"""Limit of delivery attempts in a task's ledger. The latest are kept."""

SHELF = "shelf:"
"""Beginning of the names of shelves, which are consumers of an outbox's group that no process has."""

RECOVERY_KEPT_MS = 7 * 86_400_000
"""Time for which the result of a recovery can be read. A recovery that runs is kept for as long after each step."""

MAX_LINES = 10_000
"""Limit of lines in a worker's log. The oldest are removed first, in whole nodes of the stream, so a few more stay."""
NODE_BYTES = 4096
"""Size of a full node of a stream, with the servers' default. A log is counted by its nodes."""
MAX_LOG_BYTES = 2048 * NODE_BYTES
"""Limit of a worker's log: 8 MiB."""
MAX_ENDED_LOGS = 100
"""Limit of logs of ended workers of an endpoint. The logs with the oldest last write are removed first."""

MAX_CHECK_MS = 60_000
"""Maximum time until the next look at an endpoint with workers. A later one is from before a step back of the clock."""
MAX_DELETION_MS = 60_000
"""Maximum time until the next attempt to delete an endpoint. A later one is from before a step back of the clock."""
DELETION_HOLD_MS = 30_000
"""Time after which a deletion that was taken is due again, if its taker has died."""
PURGE_HOLD_MS = 600_000
"""Time after which a purge that was taken is due again, if its taker has died. Twice as long as a purge may take."""
CONSUMERS_MS = 60_000
"""Interval of looking for consumers of ended agents, while some have entries that another agent must claim first."""
REMOVED_MS = 10_000
"""Time after the removal of a worker at which its consumers are removed. Until then its agent may read once more."""

USE_GRACE_MS = 60_000
"""Time for which a note that an endpoint uses a credential prevents its deletion. The endpoint is stored right after
the note. Later only a stored endpoint counts, so that a note without an endpoint does not block deletion forever."""

USE_NOTE_MS = 60_000
"""Minimum time between two notes that an API key is in use."""
MAX_ENDED_KEYS = 1000
"""Limit of a tenant's ended API keys that are remembered, so that none of them is stored as a new first key."""

TASK_BYTES = 1024
"""Bytes that a task counts besides its input, its result and its records of attempts. A small task with its keys and
its entries in queues and indexes takes 0.8 to 1.2 KB: see docs/benchmarks/results.md."""

TAG_BYTES = 128
"""Bytes that a tag of a task counts besides its member of the index of tags."""

RATES_MS = 2000
"""Time for which buckets of rate limits are kept without a submission. They are full again after a second."""

MAX_UNSEALED = 10_000
"""Limit of the tasks for whose headers agents ask, so that an agent cannot fill the store with requests."""
UNSEALED_MS = 3_600_000
"""Time after the latest request at which requests are dropped that no controller has taken."""

AUDIT_RECORDS_COMPARED = 20
"""Number of the latest audit records among which a repeated one is found."""

MAX_CANCEL_REQUESTS = 1000
"""Limit of a partition's latest requests to cancel a running task. An agent that misses one learns of it by its next
heartbeat."""
CANCEL_REQUESTS_MS = 60_000
"""Time for which they are kept after the latest one: longer than an agent waits before it asks again."""

MAX_COUNTED_PLACES = 16
"""Length of a queue up to which the tasks before a task are counted. The place in a longer one is computed."""
MAX_BELLS = 16
"""Limit of an endpoint's bells that no agent has heard. More are not needed, because an agent that leaves tasks rings
again."""

MAX_LOOKS_AT_LANES = 100
"""Limit of the lanes without a task that may begin at which a claim looks. Each of them leaves its ring."""

MAX_RUNNING_OPERATIONS = 4
"""Limit of the operations of an endpoint that run."""
MAX_KEPT_OPERATIONS = 1000
"""Limit of the operations of an endpoint that are kept. The oldest are removed first, unless they run."""
GIVEN_TASK_BYTES = 24
"""Bytes of the store for an id of a task that an operation has got, besides its characters."""
MAX_UNKNOWN_BYTES = 1024
"""Limit of the characters of the ids that an operation notes because they have no task."""
OPERATION_KEPT_MS = 7 * 86_400_000
"""Time for which the result of an operation can be read."""
MAX_LIMITED_MS = 2_000
"""Maximum time after which an agent looks again at an empty bucket of starts, so that it notices another rate limit."""

LIMITED_SLACK_MS = 5
"""Time by which such an agent may be early."""

CONSTANTS: dict[str, str | int] = {
    "LIMITED_SLACK_MS": LIMITED_SLACK_MS,
    "MAX_LIMITED_MS": MAX_LIMITED_MS,
    "MAX_BELLS": MAX_BELLS,
    "MAX_LOOKS_AT_LANES": MAX_LOOKS_AT_LANES,
    "MAX_CANCEL_REQUESTS": MAX_CANCEL_REQUESTS,
    "CANCEL_REQUESTS_MS": CANCEL_REQUESTS_MS,
    "MAX_DELAY_MS": MAX_DELAY_MS,
    "EXPIRY_SLACK_MS": EXPIRY_SLACK_MS,
    "CANCELLED_BEFORE_IT_STARTED": CANCELLED_BEFORE_IT_STARTED,
    "CANCELLED_WHILE_WAITING": CANCELLED_WHILE_WAITING,
    "CANCELLED_WHILE_RUNNING": CANCELLED_WHILE_RUNNING,
    "MAX_DELIVERY_RECORDS": MAX_DELIVERY_RECORDS,
    "RECOVERY_KEPT_MS": RECOVERY_KEPT_MS,
    "MAX_RESULT_BYTES": MAX_RESULT_BYTES,
    "SHELF": SHELF,
    "TASKS_PER_PARTITION_STEP": TASKS_PER_PARTITION_STEP,
    "MAX_LINES": MAX_LINES,
    "NODE_BYTES": NODE_BYTES,
    "MAX_LOG_BYTES": MAX_LOG_BYTES,
    "MAX_ENDED_LOGS": MAX_ENDED_LOGS,
    "MAX_CHECK_MS": MAX_CHECK_MS,
    "MAX_DELETION_MS": MAX_DELETION_MS,
    "DELETION_HOLD_MS": DELETION_HOLD_MS,
    "PURGE_HOLD_MS": PURGE_HOLD_MS,
    "CONSUMERS_MS": CONSUMERS_MS,
    "REMOVED_MS": REMOVED_MS,
    "USE_GRACE_MS": USE_GRACE_MS,
    "USE_NOTE_MS": USE_NOTE_MS,
    "MAX_ENDED_KEYS": MAX_ENDED_KEYS,
    "TASK_BYTES": TASK_BYTES,
    "TAG_BYTES": TAG_BYTES,
    "RATES_MS": RATES_MS,
    "MAX_AUDIT_RECORDS": MAX_AUDIT_RECORDS,
    "MAX_UNSEALED": MAX_UNSEALED,
    "UNSEALED_MS": UNSEALED_MS,
    "MAX_COUNTED_PLACES": MAX_COUNTED_PLACES,
    "MAX_RUNNING_OPERATIONS": MAX_RUNNING_OPERATIONS,
    "MAX_KEPT_OPERATIONS": MAX_KEPT_OPERATIONS,
    "OPERATION_KEPT_MS": OPERATION_KEPT_MS,
    "GIVEN_TASK_BYTES": GIVEN_TASK_BYTES,
    "MAX_UNKNOWN_BYTES": MAX_UNKNOWN_BYTES,
    "AUDIT_RECORDS_COMPARED": AUDIT_RECORDS_COMPARED,
}
