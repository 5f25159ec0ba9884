"""Ids of calls: a script that stores the id recognizes that a call is repeated after a lost reply."""

from __future__ import annotations

from uuid import uuid4


def new_call_id() -> str:
    """Return a new id, short enough that the store keeps the record that has it compact."""
    return uuid4().hex[:16]
