"""Whether a container is ready: what probes and responses to tasks change, and what the worker's `error` says."""

from datetime import UTC, datetime, timedelta

import pytest

from queue_engine.domain.tasks import ContainerResponse
from queue_engine.domain.workers import WorkerStatus
from worker_agent.readiness import EXPLAIN_AFTER_SECONDS, VERDICT_SECONDS, Clocks, Finding, Probed, Readiness

START_TIMEOUT = 60.0
BEGAN = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
READY = Probed(Finding.READY, "the container accepts connections")
REFUSED = Probed(Finding.REFUSED, "nothing accepts connections on 127.0.0.1:8000")
UNREADY = Probed(Finding.UNREADY, "GET /ready answered 500")
OK = ContainerResponse(status=200)
LOADING = ContainerResponse(status=503)
NO_CONNECTION = ContainerResponse(error_type="connect_refused")


class Time:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.seconds, lambda: BEGAN + timedelta(seconds=self.seconds - 1000))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def readiness(time: Time) -> Readiness:
    return Readiness(time.clocks(), start_timeout_seconds=START_TIMEOUT)


def call(readiness: Readiness, answer: ContainerResponse, *, seconds: float = 0.01, alone: bool = True) -> bool:
    return readiness.note_response(answer, seconds=seconds, alone=alone)


def test_a_container_is_ready_once_a_probe_succeeds(readiness: Readiness) -> None:
    readiness.note_probe(REFUSED)
    assert (readiness.status, readiness.is_open) == (WorkerStatus.INITIALIZING, False)
    readiness.note_probe(READY)
    assert (readiness.status, readiness.is_open, readiness.error) == (WorkerStatus.RUNNING, True, "")


def test_a_start_is_explained_only_when_it_takes_long(readiness: Readiness, time: Time) -> None:
    readiness.note_probe(REFUSED)
    time.seconds += EXPLAIN_AFTER_SECONDS - 1
    assert readiness.error == ""
    time.seconds += 1
    assert readiness.error == REFUSED.text


def test_a_container_that_was_ready_and_is_down_is_explained_at_once(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    readiness.note_probe(REFUSED)
    assert (readiness.status, readiness.error) == (WorkerStatus.INITIALIZING, REFUSED.text)


def test_a_start_that_exceeds_its_time_limit_is_failed_until_the_container_is_ready(
    readiness: Readiness, time: Time
) -> None:
    readiness.note_probe(REFUSED)
    time.seconds += START_TIMEOUT
    assert (readiness.status, readiness.error) == (WorkerStatus.FAILED, REFUSED.text)
    readiness.note_probe(READY)
    assert (readiness.status, readiness.error) == (WorkerStatus.RUNNING, "")


def test_losing_readiness_begins_a_new_time_limit(readiness: Readiness, time: Time) -> None:
    readiness.note_probe(READY)
    time.seconds += 10 * START_TIMEOUT
    readiness.note_probe(REFUSED)
    seen = [readiness.status]
    time.seconds += START_TIMEOUT
    seen.append(readiness.status)
    assert seen == [WorkerStatus.INITIALIZING, WorkerStatus.FAILED]


def test_a_ready_path_may_fail_twice_in_a_row(time: Time) -> None:
    readiness = Readiness(time.clocks(), start_timeout_seconds=START_TIMEOUT, failures_allowed=2)
    seen = []
    for probed in (READY, UNREADY, UNREADY, READY, UNREADY, UNREADY, UNREADY):
        readiness.note_probe(probed)
        seen.append(readiness.status is WorkerStatus.RUNNING)
    assert seen == [True, True, True, True, True, True, False]
    assert readiness.error == UNREADY.text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (LOADING, "the container answered 503 since 12:00:05 UTC"),
        (NO_CONNECTION, "the container accepted no connection since 12:00:05 UTC"),
    ],
)
def test_unavailable_before_the_first_success_costs_nothing_and_is_not_ready(
    readiness: Readiness, time: Time, answer: ContainerResponse, text: str
) -> None:
    readiness.note_probe(READY)
    time.seconds += 5
    assert call(readiness, answer)
    assert (readiness.status, readiness.error, readiness.is_paced) == (WorkerStatus.INITIALIZING, text, True)
    time.seconds += 1
    assert call(readiness, answer)
    assert readiness.error == text


def test_unavailable_costs_attempts_after_the_time_limit_and_the_worker_is_failed(
    readiness: Readiness, time: Time
) -> None:
    readiness.note_probe(READY)
    assert call(readiness, LOADING)
    time.seconds += START_TIMEOUT
    assert (readiness.status, readiness.error) == (WorkerStatus.FAILED, "the container answered 503 since 12:00:00 UTC")
    assert not call(readiness, LOADING)
    assert not call(readiness, OK)
    assert (readiness.status, readiness.error) == (WorkerStatus.RUNNING, "")


def test_unavailable_after_the_first_success_costs_attempts(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    assert not call(readiness, OK)
    assert readiness.status is WorkerStatus.RUNNING
    assert not call(readiness, LOADING)
    assert (readiness.status, readiness.is_paced) == (WorkerStatus.RUNNING, False)


@pytest.mark.parametrize(
    "answer",
    [ContainerResponse(status=422), ContainerResponse(status=429), ContainerResponse(error_type="timeout")],
    ids=["422", "429", "timeout"],
)
def test_any_other_response_shows_that_it_has_loaded_but_is_no_success(
    readiness: Readiness, answer: ContainerResponse
) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    assert not call(readiness, answer)
    assert (readiness.status, readiness.is_paced) == (WorkerStatus.RUNNING, False)
    assert call(readiness, LOADING)


def test_a_task_that_was_not_sent_shows_nothing(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    assert not call(readiness, ContainerResponse(error_type="not_exposed"))
    assert readiness.is_loading


def test_a_refusal_beside_a_running_call_paces_and_is_not_loading(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    assert call(readiness, LOADING, alone=False)
    assert (readiness.status, readiness.is_paced) == (WorkerStatus.RUNNING, True)


def test_a_call_that_takes_long_is_being_executed(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    readiness.note_long_call()
    assert (readiness.status, readiness.error, readiness.is_paced) == (WorkerStatus.RUNNING, "", True)


@pytest.mark.parametrize(
    ("before", "verdict"),
    [(0, WorkerStatus.INITIALIZING), (START_TIMEOUT, WorkerStatus.FAILED)],
    ids=["before the start timeout", "after it"],
)
def test_a_503_counts_until_the_container_is_open_and_no_task_has_met_503_for_a_while(
    readiness: Readiness, time: Time, before: float, verdict: WorkerStatus
) -> None:
    readiness.note_probe(READY)
    time.seconds += before
    call(readiness, LOADING)
    time.seconds += VERDICT_SECONDS - 1
    readiness.note_probe(READY)
    assert readiness.status is verdict
    call(readiness, LOADING)
    time.seconds += VERDICT_SECONDS - 1
    readiness.note_probe(READY)
    assert readiness.error, "the second 503 counts from its own time"
    time.seconds += 1
    readiness.note_probe(READY)
    assert (readiness.status, readiness.error, readiness.is_paced) == (WorkerStatus.RUNNING, "", True)
    call(readiness, LOADING)
    assert readiness.status is not WorkerStatus.RUNNING


def test_a_503_beside_another_call_keeps_the_verdict_of_an_earlier_one(readiness: Readiness, time: Time) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    time.seconds += VERDICT_SECONDS - 1
    call(readiness, LOADING, alone=False)
    time.seconds += 1
    readiness.note_probe(READY)
    assert readiness.is_loading


def test_a_503_still_counts_while_probes_fail(readiness: Readiness, time: Time) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    time.seconds += VERDICT_SECONDS
    readiness.note_probe(REFUSED)
    assert (readiness.is_loading, readiness.status) == (True, WorkerStatus.INITIALIZING)


def test_a_container_that_takes_its_time_to_respond_503_is_given_more_patience(readiness: Readiness) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING, seconds=20)
    assert readiness.patience_seconds == 40


def test_what_listens_after_nothing_did_is_another_start(readiness: Readiness, time: Time) -> None:
    readiness.note_probe(READY)
    call(readiness, OK)
    time.seconds += 10 * START_TIMEOUT
    readiness.note_probe(REFUSED)
    readiness.note_probe(READY)
    assert call(readiness, LOADING)
    assert readiness.status is WorkerStatus.INITIALIZING


def test_a_container_that_never_served_gets_no_further_time_by_refusing_connections(
    readiness: Readiness, time: Time
) -> None:
    readiness.note_probe(READY)
    call(readiness, LOADING)
    time.seconds += START_TIMEOUT
    readiness.note_probe(REFUSED)
    readiness.note_probe(READY)
    assert not call(readiness, LOADING)
