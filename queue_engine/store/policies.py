"""Retry policies as stored text. The default is stored as an empty text, because most endpoints use it."""

from __future__ import annotations

from queue_engine.domain.retry import DEFAULT_RETRY_ON, TASK_RETRY_DELAYS_SECONDS, RetryOn, TaskRetryPolicy

_NEVER = "-"


def retry_on_text(on: frozenset[RetryOn]) -> str:
    if on == DEFAULT_RETRY_ON:
        return ""
    return ",".join(sorted(on)) or _NEVER


def retry_on_of(text: str) -> frozenset[RetryOn]:
    if not text:
        return DEFAULT_RETRY_ON
    return frozenset() if text == _NEVER else frozenset(RetryOn(word) for word in text.split(","))


def retry_delays_text(delays_seconds: tuple[float, ...]) -> str:
    if delays_seconds == TASK_RETRY_DELAYS_SECONDS:
        return ""
    return ",".join(repr(seconds) for seconds in delays_seconds)


def retry_delays_of(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",")) if text else TASK_RETRY_DELAYS_SECONDS


def retry_policy_of(on: str, delays: str) -> TaskRetryPolicy:
    """Return the policy that is stored as these two texts."""
    return TaskRetryPolicy(retry_on_of(on), retry_delays_of(delays))
