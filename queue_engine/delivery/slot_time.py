"""Order members by the slot time that they have used, so that each gets the same share of it.

Each member has an account. When an attempt begins, the account is charged with the time that an attempt of this member
is expected to take; when the attempt ends, the difference to its real duration is added. The member with the lowest
charge is first. A member that has been idle starts at the charge of the member that was served last, so that it saves
up nothing.

For example, slow receivers respond after 2 s and a quick one after 10 ms. After one attempt each, a slow one is charged
with 2.0 and the quick one with 0.01. The quick one is first again until it has used as much slot time as the slow ones.

Pure: not thread-safe.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

FIRST_EXPECTED_SECONDS = 0.05
"""Expected duration of the first attempt of a member."""
MAX_EXPECTED_SECONDS = 30.0
NEWEST_SHARE = 0.25
"""Share of the latest attempt in the expected duration."""
MAX_DEBT_SECONDS = 60.0
"""Maximum charge above that of the member that was served last, so that a member that has used many slots for long is
served again soon after another one begins to use as many."""


@dataclass
class Account:
    """The slot time that a member has used."""

    charged: float = 0.0
    latest_turn: int = 0
    expected_seconds: float = FIRST_EXPECTED_SECONDS

    def begin(self, turn: int) -> float:
        """Charge the account with an attempt, and return the charge, which `end` needs."""
        charge = self.expected_seconds
        self.charged += charge
        self.latest_turn = turn
        return charge

    def end(self, charge: float, seconds: float, *, served: float) -> None:
        """Correct the charge of an attempt that took `seconds`. `served` is the charge of the member served last."""
        self.charged = min(self.charged + seconds - charge, served + MAX_DEBT_SECONDS)
        newest = min(seconds, MAX_EXPECTED_SECONDS)
        self.expected_seconds += NEWEST_SHARE * (newest - self.expected_seconds)

    def catch_up(self, served: float) -> None:
        """Forget what the member has not used while it was idle."""
        self.charged = min(max(self.charged, served), served + MAX_DEBT_SECONDS)


Member = TypeVar("Member")


class FairQueue(Generic[Member]):
    """Members by name, the one with the lowest charge first, and of equal ones the one that was served longest ago.

    Entries of members that have moved or left stay in the heap until they are at its top, or until they are half of it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, str]] = []
        self.members: dict[str, tuple[int, Member]] = {}
        """The number of a member's valid entry, and the member, by its name."""
        self._entries = 0

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def put(self, name: str, member: Member, account: Account) -> None:
        """Add a member, or move it to the place of its present charge."""
        self._entries += 1
        self.members[name] = (self._entries, member)
        heapq.heappush(self._heap, (account.charged, account.latest_turn, self._entries, name))
        if len(self._heap) > 2 * len(self.members) + 64:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)

    def remove(self, name: str) -> None:
        """Remove a member. Does nothing without one."""
        self.members.pop(name, None)

    def first(self, fits: Callable[[Member], bool]) -> Member | None:
        """Return the first member that fits; None without one. The others keep their places."""
        passed = []
        found = None
        while self._heap:
            entry = self._heap[0]
            known = self.members.get(entry[3])
            if known is not None and known[0] == entry[2]:
                if fits(known[1]):
                    found = known[1]
                    break
                passed.append(entry)
            heapq.heappop(self._heap)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def _is_valid(self, entry: tuple[float, int, int, str]) -> bool:
        known = self.members.get(entry[3])
        return known is not None and known[0] == entry[2]
