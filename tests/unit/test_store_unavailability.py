"""Which error replies of the store mean that it cannot serve now."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ExecAbortError, OutOfMemoryError, ReadOnlyError, ResponseError

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.redis.client import NotDurable, after_loss, is_refused_write, unavailability

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


REFUSALS = [
    OutOfMemoryError("used memory"), ReadOnlyError("a replica"), ResponseError("MISCONF no"),
    ResponseError("NOREPLICAS no"), in_pipeline("OOM no"),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_write_was_not_executed(refusal: ResponseError) -> None:
    unavailable = StoreUnavailable("it refuses writes")
    unavailable.__cause__ = refusal
    assert is_refused_write(refusal)
    assert is_refused_write(unavailable)


@pytest.mark.parametrize(
    "error",
    [
        NotDurable("no replica"), RedisConnectionError("lost"), TimeoutError(), ResponseError("CLUSTERDOWN no"),
        StoreUnavailable("it does not respond"),
    ],
)  # fmt: skip
def test_the_outcome_of_other_failures_is_unknown(error: Exception) -> None:
    assert not is_refused_write(error)


def test_a_refusal_of_a_repeated_call_does_not_tell_the_outcome_of_its_first_try() -> None:
    (refusal,) = after_loss(RedisConnectionError("lost"), [OutOfMemoryError("used memory")])
    assert unavailability(refusal) == "it has reached maxmemory"
    assert not is_refused_write(refusal)
