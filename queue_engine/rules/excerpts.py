"""Excerpts of untrusted text for display: cut, and with non-printing characters escaped."""

from __future__ import annotations


def printable(text: str, max_bytes: int, *, keep: str = "") -> str:
    """Return the beginning of `text`, at most `max_bytes` in UTF-8, with each character that does not print escaped.

    Control characters, lone surrogates and invisible marks become `\\x1b`, `\\udce9`, `\\u202e`; those in `keep` stay.
    """
    shown = text[:max_bytes]
    if not shown.isprintable():  # most texts are, and looking at each character costs as much as an HTTP call
        shown = "".join(
            char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii")
            for char in shown
        )
    return shown.encode()[:max_bytes].decode("utf-8", "ignore")
