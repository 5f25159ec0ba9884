"""Identifiers: their format, and how they are generated."""

from __future__ import annotations

import re

MAX_ENDPOINT_ID = 2**53 - 1
"""Limit below 2^53 for ids of endpoints and credentials, so that every JSON reader keeps them exact."""

TASKS_PER_PARTITION_STEP = 1024
"""A task number is `counter * 1024 + partition`: unique over all partitions without a shared counter."""

_UUID4_MASK = ~(0xF << 76 | 0x3 << 62)
_UUID4_BITS = 0x4 << 76 | 0x2 << 62
"""Version and variant of a random UUID (RFC 9562, section 5.4)."""

_ENDPOINT_ID = re.compile(r"[1-9][0-9]{0,15}")
_TASK_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def is_endpoint_id(text: str) -> bool:
    """Return whether `text` is a positive decimal integer below 2^53 without leading zeros."""
    return _ENDPOINT_ID.fullmatch(text) is not None and int(text) <= MAX_ENDPOINT_ID


def is_credential_id(number: int) -> bool:
    """Return whether `number` is a valid credential id: positive and below 2^53."""
    return 0 < number <= MAX_ENDPOINT_ID


def is_task_id(text: str) -> bool:
    """Return whether `text` consists of 1–255 characters of `[A-Za-z0-9_]`."""
    return _TASK_ID.fullmatch(text) is not None


def is_worker_id(text: str) -> bool:
    """Return whether `text` is 1–63 letters, digits, `_` and `-`, and starts with a letter or digit."""
    return _WORKER_ID.fullmatch(text) is not None


def is_key_id(text: str) -> bool:
    """Return whether `text` has the form of an API key's or an agent token's id."""
    return _KEY_ID.fullmatch(text) is not None


def task_id_from(random: bytes) -> str:
    """Return the id of a task that was submitted without one: a UUID of version 4 without hyphens, from 16 bytes.

    Without the class of the standard library, which takes a hundredth of a submit.
    """
    return f"{int.from_bytes(random) & _UUID4_MASK | _UUID4_BITS:032x}"
