"""Compatibility of processes with a store, by the number of the store's data format.

A version of the engine writes one format, N, and reads N and N - 1. During an upgrade, processes of the old and the new
version share data of the old format. After the last old process has been replaced, the leading controller migrates the
data. An agent may also be one version behind the data, because agents are replaced last, often by other people.
"""

from __future__ import annotations

FIRST_FORMAT = 1


def format_refusal(found: str, newest: int, *, migrates_to: int | None = None, is_agent: bool = False) -> str | None:
    """Return the reason why a process that writes format `newest` may not use the data; None if it may.

    `found` is the format recorded in the store, `migrates_to` the format that a running migration writes.
    """
    number = int(found) if found.isascii() and found.isdigit() else 0
    oldest = max(FIRST_FORMAT, newest - 1)
    if number < oldest:
        return (
            f"it holds data of format {found}, this version reads {_formats(oldest, newest)}: first install the "
            "version before this one, and wait until it has migrated the data"
        )
    ahead = max(number, migrates_to or 0)
    if ahead <= newest or (is_agent and ahead == newest + 1):
        return None
    is_migrated = "it holds data of" if number == ahead else "its data is being migrated to"
    return (
        f"{is_migrated} format {ahead}, this version reads {_formats(oldest, newest)}: install the version that "
        "the other processes have"
    )


def _formats(oldest: int, newest: int) -> str:
    return f"format {newest}" if oldest == newest else f"formats {oldest} and {newest}"
