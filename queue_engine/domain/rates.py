"""Rate limits of submissions, and their state after a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_SUBMITS_PER_SECOND = 1_000_000


class RateScope(StrEnum):
    """Object whose submissions are limited."""

    TENANT = "tenant"
    KEY = "key"
    ENDPOINT = "endpoint"


@dataclass(frozen=True)
class RateState:
    """A rate limit that applies to a submission, with the tokens that are left.

    A limit is a token bucket that holds the tokens of one second and is full at first.
    """

    scope: RateScope
    per_second: int
    left: int
