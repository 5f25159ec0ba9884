"""The audit log: a record of each change that is made with a key, except submissions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

MAX_AUDIT_RECORDS = 10_000
"""Limit of a tenant's records. The oldest are removed."""
MAX_SCANNED_RECORDS = 2000
"""Limit of the records that a page looks at. The next page goes on behind them."""


class Action(StrEnum):
    """A change that is recorded."""

    CREATE_ENDPOINT = "create_endpoint"
    UPDATE_ENDPOINT = "update_endpoint"
    SCALE_ENDPOINT = "scale_endpoint"
    START_ENDPOINT = "start_endpoint"
    STOP_ENDPOINT = "stop_endpoint"
    PAUSE_ENDPOINT = "pause_endpoint"
    RESUME_ENDPOINT = "resume_endpoint"
    DELETE_ENDPOINT = "delete_endpoint"
    RESTART_WORKER = "restart_worker"
    DRAIN_WORKER = "drain_worker"
    ROTATE_WEBHOOK_SECRET = "rotate_webhook_secret"  # noqa: S105 - the name of an action
    CANCEL_TASK = "cancel_task"
    RETRY_TASK = "retry_task"
    DELETE_TASK = "delete_task"
    RETRY_DELIVERY = "retry_delivery"
    REDELIVER_RESULT = "redeliver_result"
    RECOVER_DELIVERIES = "recover_deliveries"
    CANCEL_RECOVERY = "cancel_recovery"
    TEST_WEBHOOK = "test_webhook"
    RESUME_DESTINATION = "resume_destination"
    START_OPERATION = "start_operation"
    CANCEL_OPERATION = "cancel_operation"
    END_OPERATION = "end_operation"
    CREATE_CREDENTIAL = "create_credential"
    UPDATE_CREDENTIAL = "update_credential"
    DELETE_CREDENTIAL = "delete_credential"
    CREATE_KEY = "create_key"
    ROTATE_KEY = "rotate_key"
    REVOKE_KEY = "revoke_key"
    CREATE_AGENT_TOKEN = "create_agent_token"  # noqa: S105 - the name of an action
    REVOKE_AGENT_TOKEN = "revoke_agent_token"  # noqa: S105 - the name of an action
    CREATE_TENANT = "create_tenant"
    SET_TENANT_LIMITS = "set_tenant_limits"


_ACTIONS = frozenset(Action)


def action_in(text: str) -> str:
    """Return the action with this name. The name of an action that only a later version has stays text."""
    return Action(text) if text in _ACTIONS else text


@dataclass(frozen=True)
class Change:
    """A change and its author, without any value that the change set: those may be secrets."""

    action: str
    """An Action, or an action that only a later version has."""
    target: str
    """The changed object, such as `endpoint 7` or `endpoint 7, task a`."""
    key_id: str
    """Empty for a change on the command line."""
    key_name: str
    address: str
    """The network address of the client."""
    is_certain: bool = True
    """False if the store became unavailable during the change, so that it may not have been made."""


@dataclass(frozen=True)
class AuditRecord:
    """A change as recorded."""

    record_id: str
    """Its place in the log: later records have greater ids."""
    at_ms: int
    change: Change


@dataclass(frozen=True)
class AuditPage:
    """A page of the log, newest first."""

    records: tuple[AuditRecord, ...]
    has_more: bool
    """True if older records were not looked at."""
    next_before: str | None = None
    """Id of the record before which the next page begins; None without one."""
    looked_at: int = 0
    """Number of records that were looked at."""


@dataclass(frozen=True)
class AuditFilter:
    """The records that are searched. All of it must match."""

    key: str | None = None
    """Id or name of the key."""
    actions: frozenset[Action] = frozenset()
    """Empty for all actions."""
    target: str | None = None
    """Words of the target: `endpoint 7` matches `endpoint 7, task a`, and not `endpoint 71`."""
    from_ms: int | None = None
    to_ms: int | None = None
    """The records were made at `from_ms` or later, and before `to_ms`."""

    @property
    def is_selective(self) -> bool:
        """True if records of the period may not match."""
        return self.key is not None or self.target is not None or bool(self.actions)

    def matches(self, change: Change) -> bool:
        """Return True if the change is searched, whatever its time."""
        if self.key is not None and self.key not in (change.key_id, change.key_name):
            return False
        if self.actions and change.action not in self.actions:
            return False
        return self.target is None or _has_words(change.target, self.target)


def _has_words(text: str, words: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", text) is not None


def endpoint_target(endpoint_id: str) -> str:
    return f"endpoint {endpoint_id}"


def task_target(endpoint_id: str, task_id: str) -> str:
    return f"endpoint {endpoint_id}, task {task_id}"


def worker_target(endpoint_id: str, worker_id: str) -> str:
    return f"endpoint {endpoint_id}, worker {worker_id}"


def webhook_test_target(endpoint_id: str, destination: str) -> str:
    return f"endpoint {endpoint_id}, destination {destination}"


def destination_target(destination: str) -> str:
    return f"destination {destination}"


def credential_target(credential_id: int) -> str:
    return f"credential {credential_id}"


def key_target(key_id: str) -> str:
    return f"key {key_id}"


def rotation_target(key_id: str, new_key_id: str) -> str:
    return f"key {key_id}, new key {new_key_id}"


def token_target(endpoint_id: str, token_id: str) -> str:
    return f"endpoint {endpoint_id}, agent token {token_id}"


def tenant_target(name: str) -> str:
    return f"tenant {name}"


def operation_target(endpoint_id: str, operation_id: str, facts: str) -> str:
    """Return the target of an operation; `facts` are what it does, or what it has done."""
    return f"endpoint {endpoint_id}, operation {operation_id}: {facts}"
