"""Find names of a request that are probably declared ones, mistyped or in the words of another API.

A name that is ignored is dangerous where it is meant: a filter would match everything, and a page would be the first.
So a name is treated as a declared one if it differs from it in case, is similar to it, is its beginning, or has some of
its words: `sate` for `state`, and `page`, `number` and `pgae` for `pageNumber`. Others are ignored, as the contract of
the API requires it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice

SIMILAR_RATIO = 0.75
"""Similarity of names from which one is treated as the other, mistyped: `sate` and `state` have 0.89."""
MAX_NAMES = 10
"""Limit of the unknown names of a request that are compared, because each costs about 0.1 ms."""
MIN_BEGINNING = 2
MIN_WORD = 4
"""Length of the shortest words of a name for which similar ones are searched."""

_words = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+").findall
_IN_OTHER_APIS: Mapping[str, str] = {
    "limit": "pageSize",
    "offset": "pageNumber",
    "from": "startTime",
    "since": "startTime",
    "to": "endTime",
    "until": "endTime",
}
"""Declared names by their names in other APIs."""


def first_mistyped(unknown: Iterable[str], declared: frozenset[str]) -> tuple[str, str] | None:
    """Return the first of the unknown names that is probably a declared one, and the declared one; None: no name is.

    Only the first MAX_NAMES are compared.
    """
    for name in islice(unknown, MAX_NAMES):
        if (meant := meant_by(name, declared)) is not None:
            return name, meant
    return None


def meant_by(name: str, declared: frozenset[str]) -> str | None:
    """Return the declared name that an unknown one probably means; None if it is similar to none."""
    cut, spellings = name[:64], _spellings_of(declared)
    lower = cut.lower()
    if close := get_close_matches(lower, spellings.names, n=1, cutoff=SIMILAR_RATIO):
        return spellings.names[close[0]]
    if lower in spellings.words:
        return spellings.words[lower]
    words = {word.lower() for word in _words(cut)}
    for spelling, one in spellings.names.items():
        is_beginning = len(lower) >= MIN_BEGINNING and spelling.startswith(lower)
        if is_beginning or (words and words <= spellings.words_of[one]):
            return one
    alike = [word for word in spellings.long_words if abs(len(word) - len(lower)) <= 1]
    if close := get_close_matches(lower, alike, n=1, cutoff=SIMILAR_RATIO):
        return spellings.words[close[0]]
    return None


class _Spellings:
    """The spellings of declared names, in lower case."""

    def __init__(self, declared: frozenset[str]) -> None:
        ordered = sorted(declared)
        self.names = {name.lower(): name for name in ordered}
        self.words_of = {name: frozenset(word.lower() for word in _words(name)) for name in ordered}
        self.words = {other: name for other, name in _IN_OTHER_APIS.items() if name in declared}
        for name in reversed(ordered):  # the first name that has a word is the one that it means
            self.words.update(dict.fromkeys(self.words_of[name], name))
        self.long_words = [word for word in self.words if len(word) >= MIN_WORD]


@lru_cache(maxsize=256)
def _spellings_of(declared: frozenset[str]) -> _Spellings:
    return _Spellings(declared)
