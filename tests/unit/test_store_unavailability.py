"""Which error replies of the store mean that it cannot serve now."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ExecAbortError, ResponseError

from queue_engine.store.redis.client import unavailability

CODES = [
    "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED",
    "UNKILLABLE",
]  # fmt: skip
REPLIES = [f"{code} it's said so." for code in CODES]


def in_pipeline(reply: str, argument: str = "{qe}:a") -> ResponseError:
    """The error as redis-py raises it for a command of a pipeline."""
    error = ResponseError(reply)
    Redis().pipeline().annotate_exception(error, 1, ("ZADD", argument))
    return error


@pytest.mark.parametrize("reply", REPLIES)
def test_an_error_reply_is_recognized_however_it_is_raised(reply: str) -> None:
    expected = f"it refuses writes ({reply.split()[0]})"
    newer = ResponseError(f"Command # 2 (SET a b) of pipeline caused error: {reply}")
    discarded = ExecAbortError(f"Transaction discarded because of: {reply}")
    for error in (ResponseError(reply), in_pipeline(reply), newer, discarded):
        assert unavailability(error) == expected


def test_arguments_of_a_command_are_not_its_error() -> None:
    argument = "a\n) of pipeline caused error: NOREPLICAS no"
    assert unavailability(in_pipeline("WRONGTYPE no", argument)) is None
    assert unavailability(in_pipeline("NOREPLICAS no", argument)) == "it refuses writes (NOREPLICAS)"
    assert unavailability(ResponseError("WRONGTYPE NOREPLICAS")) is None
