"""Retry policies as text in the store. The default is an empty text, so that most endpoints say nothing of it."""

from __future__ import annotations

from queue_engine.domain.retry import DEFAULT_RETRY_ON, TASK_RETRY_DELAYS_SECONDS, RetryOn, TaskRetryPolicy

_NEVER = "-"


def retry_on_text(policy: TaskRetryPolicy) -> str:
    if policy.on == DEFAULT_RETRY_ON:
        return ""
    return ",".join(sorted(policy.on)) or _NEVER


def retry_delays_text(policy: TaskRetryPolicy) -> str:
    if policy.delays_seconds == TASK_RETRY_DELAYS_SECONDS:
        return ""
    return ",".join(repr(seconds) for seconds in policy.delays_seconds)


def retry_policy_of(on: str, delays: str) -> TaskRetryPolicy:
    """The policy that these two texts stand for."""
    return TaskRetryPolicy(_retry_on(on), _delays(delays))


def _retry_on(text: str) -> frozenset[RetryOn]:
    if not text:
        return DEFAULT_RETRY_ON
    return frozenset() if text == _NEVER else frozenset(RetryOn(word) for word in text.split(","))


def _delays(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",")) if text else TASK_RETRY_DELAYS_SECONDS
