"""Transfer codings of a response: only `chunked` is decoded."""

from __future__ import annotations

from collections.abc import Iterable

_DECODED = frozenset({"chunked", "identity"})
MAX_SHOWN_CHARACTERS = 40


def problem_of_transfer_codings(values: Iterable[str]) -> str:
    """Return the problem with these values of `Transfer-Encoding`: a coding that is not decoded. Empty without one."""
    for name in (part.strip() for value in values for part in value.lower().split(",")):
        if name not in _DECODED:
            shown = name[:MAX_SHOWN_CHARACTERS].encode("unicode_escape").decode()
            return f"it has the transfer coding {shown}; only chunked is decoded"
    return ""
