"""Outcomes of tasks by the response of their container."""

import pytest

from queue_engine.domain.retry import RetryOn, TaskRetryPolicy, container_retry_after
from queue_engine.domain.tasks import (
    AttemptOutcome,
    Budget,
    ContainerResponse,
    Cost,
    Failed,
    Outcome,
    Succeeded,
    TaskState,
    TryAgain,
    error_of,
    loggable_error,
    outcome_of,
)
from queue_engine.store.policies import retry_delays_text, retry_on_text, retry_policy_of

DEFAULT = TaskRetryPolicy()
NEVER = TaskRetryPolicy(frozenset())
EVERYTHING = TaskRetryPolicy(frozenset(RetryOn))
FRESH = Budget(attempt=1, max_attempts=5)
MIDDLE = 0.5
"""The luck by which no wait is shortened or lengthened."""


def decided(answer: ContainerResponse, policy: TaskRetryPolicy = DEFAULT, budget: Budget = FRESH) -> Outcome:
    return outcome_of(answer, policy, budget, luck=MIDDLE)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_succeeds(status: int) -> None:
    assert decided(ContainerResponse(status, output=b"[1]")) == Succeeded(b"[1]")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ContainerResponse(429), AttemptOutcome.BUSY),
        (ContainerResponse(503), AttemptOutcome.BUSY),
        (ContainerResponse(error_type="connect_refused"), AttemptOutcome.NO_CONNECTION),
        (ContainerResponse(error_type="connect_timeout"), AttemptOutcome.NO_CONNECTION),
        (ContainerResponse(error_type="dns_error"), AttemptOutcome.NO_CONNECTION),
        (ContainerResponse(error_type="reset"), AttemptOutcome.CONNECTION_LOST),
    ],
)
def test_what_is_worth_it_is_tried_again_until_the_budget_is_used_up(
    answer: ContainerResponse, outcome: AttemptOutcome
) -> None:
    again = decided(answer)
    assert isinstance(again, TryAgain)
    assert (again.attempt_outcome, again.delay_seconds) == (outcome, 1)
    assert isinstance(decided(answer, budget=Budget(4, 5)), TryAgain)
    last = decided(answer, budget=Budget(5, 5))
    if outcome is AttemptOutcome.CONNECTION_LOST:
        assert isinstance(last, Failed)
        assert last.error.endswith("(attempt 5 of 5, no attempts are left)")
    else:  # the store decides, by the length of the busy streak
        assert isinstance(last, TryAgain)
        assert last.cost is Cost.BUSY
        assert last.last_error == f"{last.error} (attempt 5 of 5, no attempts are left)"
    assert isinstance(decided(answer, NEVER), Failed)


@pytest.mark.parametrize(
    "answer", [ContainerResponse(503, retry_after_seconds=60), ContainerResponse(error_type="connect_refused")]
)
@pytest.mark.parametrize("policy", [DEFAULT, NEVER])
def test_a_worker_that_has_not_served_yet_costs_nothing_and_delays_nothing(
    answer: ContainerResponse, policy: TaskRetryPolicy
) -> None:
    again = outcome_of(answer, policy, Budget(5, 5), luck=MIDDLE, is_starting=True)
    assert isinstance(again, TryAgain)
    assert (again.cost, again.delay_seconds) == (Cost.NOTHING, 0)


@pytest.mark.parametrize(
    "answer", [ContainerResponse(429), ContainerResponse(500), ContainerResponse(error_type="reset")]
)
def test_other_responses_mean_the_same_from_a_worker_that_has_not_served_yet(answer: ContainerResponse) -> None:
    assert outcome_of(answer, DEFAULT, FRESH, luck=MIDDLE, is_starting=True) == decided(answer)


def test_a_409_is_that_of_a_busy_worker_only_where_an_endpoint_asks_for_it() -> None:
    busy = ContainerResponse(409, excerpt="At capacity", retry_after_seconds=7)
    assert decided(busy) == Failed(error_of(busy))
    asked = TaskRetryPolicy(frozenset({RetryOn.CONFLICT}))
    again = decided(busy, asked, Budget(5, 5))
    assert isinstance(again, TryAgain)
    assert (again.attempt_outcome, again.cost, again.retry_after_seconds) == (AttemptOutcome.BUSY, Cost.BUSY, 7)
    assert outcome_of(busy, asked, Budget(5, 5), luck=MIDDLE, is_starting=True) == again


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (ContainerResponse(500), "500"),
        (ContainerResponse(502), "502"),
        (ContainerResponse(504), "504"),
        (ContainerResponse(error_type="timeout"), "timeout"),
    ],
)
def test_what_an_endpoint_asks_for_is_tried_again(answer: ContainerResponse, word: str) -> None:
    assert isinstance(decided(answer), Failed)
    assert isinstance(decided(answer, TaskRetryPolicy(frozenset({RetryOn(word)}))), TryAgain)


@pytest.mark.parametrize(
    "answer",
    [
        ContainerResponse(400),
        ContainerResponse(302),
        ContainerResponse(501),
        ContainerResponse(error_type="too_large"),
        ContainerResponse(error_type="not_exposed"),
    ],
)
def test_what_would_fail_again_is_never_tried_again(answer: ContainerResponse) -> None:
    assert isinstance(decided(answer, EVERYTHING), Failed)


def test_no_response_in_time_is_a_state_of_its_own() -> None:
    late = ContainerResponse(error_type="timeout", detail="3 s")
    assert decided(late) == Failed(
        "the worker's container gave no response within the execution timeout: 3 s", TaskState.TIMED_OUT
    )
    last = decided(late, EVERYTHING, Budget(2, 2))
    assert isinstance(last, Failed)
    assert last.state is TaskState.TIMED_OUT


@pytest.mark.parametrize(
    "answer",
    [
        ContainerResponse(500, excerpt="my-secret-input"),
        ContainerResponse(307, location="http://x/?prompt=my-secret-input"),
        ContainerResponse(307, location="http://x/?prompt=my-secret-input", excerpt="my-secret-input"),
        ContainerResponse(error_type="bad_response", detail='invalid header token: "my-secret-input"'),
        ContainerResponse(
            error_type="bad_response", detail="its body has the content coding my-secret-input; gzip is decoded"
        ),
        ContainerResponse(error_type="reset", detail="my-secret-input"),
    ],
)
def test_a_log_line_has_nothing_of_the_containers_own_words(answer: ContainerResponse) -> None:
    error = error_of(answer)
    assert "my-secret-input" in error
    assert "my-secret-input" not in loggable_error(error)


def test_waits_grow_and_the_last_one_repeats() -> None:
    policy = TaskRetryPolicy(delays_seconds=(2, 7))
    waits = []
    for attempt in (1, 2, 3, 9):
        again = decided(ContainerResponse(error_type="reset"), policy, Budget(attempt, 100))
        assert isinstance(again, TryAgain)
        waits.append(again.delay_seconds)
    assert waits == [2, 7, 7, 7]


def test_waits_of_a_busy_streak_grow_with_its_tries() -> None:
    policy = TaskRetryPolicy(delays_seconds=(2, 7))
    waits = []
    for tries in (0, 1, 2, 1000):
        again = decided(ContainerResponse(503), policy, Budget(1, 5, busy_tries=tries))
        assert isinstance(again, TryAgain)
        waits.append(again.delay_seconds)
    assert waits == [2, 7, 7, 7]


@pytest.mark.parametrize(("luck", "seconds"), [(0.0, 0.8), (0.5, 1.0), (0.999, 1.2)])
def test_waits_are_spread(luck: float, seconds: float) -> None:
    again = outcome_of(ContainerResponse(503), DEFAULT, FRESH, luck=luck)
    assert isinstance(again, TryAgain)
    assert again.delay_seconds == pytest.approx(seconds, abs=0.001)


def test_a_busy_container_may_say_when_to_come_back() -> None:
    again = decided(ContainerResponse(503, retry_after_seconds=30))
    assert isinstance(again, TryAgain)
    assert (again.delay_seconds, again.retry_after_seconds) == (1, 30)
    other = decided(ContainerResponse(500, retry_after_seconds=30), EVERYTHING)
    assert isinstance(other, TryAgain)
    assert (other.delay_seconds, other.retry_after_seconds) == (1, None)


def test_a_task_that_broke_every_connection_is_named_as_the_cause() -> None:
    ended = decided(ContainerResponse(error_type="reset"), budget=Budget(5, 5, connections_lost=4))
    assert isinstance(ended, Failed)
    assert ended.error.endswith(
        "(the connection was lost in all 5 attempts, so the task is assumed to be the cause and is not retried)"
    )
    mixed = decided(ContainerResponse(error_type="reset"), budget=Budget(5, 5, connections_lost=3))
    assert isinstance(mixed, Failed)
    assert "the cause" not in mixed.error


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("999999999", 300),
        ("9" * 100, None),
        ("-1", None),
        ("1.5", None),
        ("nan", None),
        ("٣", None),
        ("", None),
        (" 7", None),
        ("Wed, 25 Nov 2026 12:00:00 GMT", None),
        (None, None),
    ],
)
def test_a_containers_retry_after(value: str | None, seconds: float | None) -> None:
    assert container_retry_after(value) == seconds


@pytest.mark.parametrize(
    "policy", [DEFAULT, NEVER, EVERYTHING, TaskRetryPolicy(frozenset({RetryOn.TIMEOUT}), (0.5, 3600))]
)
def test_a_policy_is_stored_and_read(policy: TaskRetryPolicy) -> None:
    assert retry_policy_of(retry_on_text(policy.on), retry_delays_text(policy.delays_seconds)) == policy
