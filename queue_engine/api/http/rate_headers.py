"""`RateLimit` and `RateLimit-Policy`: the rate limits that apply to a request.

The form is that of draft-ietf-httpapi-ratelimit-headers-10. Both are lists of structured fields (RFC 9651), with the
name of each limit as a string:

    RateLimit-Policy: "key";q=5;w=1, "endpoint";q=100;w=1
    RateLimit: "key";r=4;t=1, "endpoint";r=99;t=1

`q` is the number of submissions in `w` seconds. `r` is the number that is left, for the next `t` seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from queue_engine.api.http.responses import Headers
from queue_engine.domain.rates import RateState


def rate_headers(rates: Sequence[RateState]) -> Headers:
    """Return the headers for these limits; none without a limit."""
    if not rates:
        return ()
    policies = ", ".join(f'"{rate.scope}";q={rate.per_second};w=1' for rate in rates)
    states = ", ".join(f'"{rate.scope}";r={rate.left};t=1' for rate in rates)
    return (b"ratelimit-policy", policies.encode()), (b"ratelimit", states.encode())
