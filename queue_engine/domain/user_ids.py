"""User ids for the containers of endpoints, so that endpoints of several tenants do not run as one user. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass

MAX_USER_ID = 2**32 - 3
"""Highest user id. The next two ids stand for no user and for unmapped users in some system calls."""
MAX_USER_IDS = 65_536
DEFAULT_COUNT = 1000
_DEFAULT_FIRST = 1_900_000_000
"""Beginning of the default range. systemd, its containers and the tools that assign subordinate ids use none there."""
_DEFAULT_TRIES = 100
_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})")


@dataclass(frozen=True)
class UserIds:
    """A range of ids, both ends included. Each is a user id and a group id."""

    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, user_id: object) -> bool:
        return isinstance(user_id, int) and self.first <= user_id <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_user_ids(text: str) -> UserIds:
    """Parse a range such as `1900000000-1900000999`. Raises ValueError with the rule."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a range of user ids, such as 1900000000-1900000999")
    ids = UserIds(int(found[1]), int(found[2]))
    if not 1 <= ids.first <= ids.last <= MAX_USER_ID:
        raise ValueError(f"must be a range from 1 to {MAX_USER_ID}, the lower id first")
    if ids.count > MAX_USER_IDS:
        raise ValueError(f"must have at most {MAX_USER_IDS} user ids")
    return ids


def default_user_ids(used: Sequence[UserIds], mapped: Sequence[UserIds]) -> UserIds | None:
    """Return the first range of DEFAULT_COUNT ids that no account uses; None if there is none.

    `used` are the ids of accounts and their subordinate ids, `mapped` those that exist in this user namespace.
    """
    highest = max((ids.last for ids in mapped), default=MAX_USER_ID)
    upwards = (_DEFAULT_FIRST + number * DEFAULT_COUNT for number in range(_DEFAULT_TRIES))
    downwards = (highest + 1 - number * DEFAULT_COUNT for number in range(1, _DEFAULT_TRIES))
    for first in (*upwards, *downwards):
        ids = UserIds(first, first + DEFAULT_COUNT - 1)
        if ids.first >= 1 and is_mapped(ids, mapped) and overlap(ids, used) is None:
            return ids
    return None


def is_mapped(ids: UserIds, mapped: Sequence[UserIds]) -> bool:
    """Return True if all the ids exist in this user namespace."""
    return any(one.first <= ids.first and ids.last <= one.last for one in mapped)


def overlap(ids: UserIds, used: Sequence[UserIds]) -> UserIds | None:
    """Return the first of the used ranges that has an id in common with `ids`; None if no one has."""
    return next((one for one in used if one.first <= ids.last and ids.first <= one.last), None)


def choose_user_id(endpoint_id: str, ids: UserIds, taken: Container[int]) -> int | None:
    """Choose the user id of an endpoint; None if all are taken.

    An endpoint gets the same id again where possible, because the ids of endpoints are numbered: so files that an
    endpoint has left behind belong to another one only after `ids.count` further endpoints.
    """
    begin = int(endpoint_id) % ids.count
    order = (ids.first + (begin + step) % ids.count for step in range(ids.count))
    return next((user_id for user_id in order if user_id not in taken), None)


NEEDED_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_PTRACE": 19,
}
"""Rights without which a controller cannot run containers as other users: to give files to them, to end them, to become
them, and to read their environment, by which they are found again after its death. The numbers are Linux's."""


def missing_capabilities(effective: int) -> Collection[str]:
    """Return the names of the needed capabilities that are not in this set of bits."""
    return [name for name, bit in NEEDED_CAPABILITIES.items() if not effective >> bit & 1]
