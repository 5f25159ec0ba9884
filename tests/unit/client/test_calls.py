"""Requests of the client: which are repeated and when, what their responses mean, and how a task is waited for."""

import json

import pytest

from queue_engine.client import calls
from queue_engine.client.errors import (
    ApiError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QueueFull,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskTimedOut,
    Unauthorized,
    Unavailable,
    WaitTimeout,
    WorkerLost,
)
from queue_engine.client.exchange import NotSent, Request, Response, call, path_of
from queue_engine.client.models import TaskInfo
from tests.unit.client.scripted_api import ScriptedApi, refusal, success, task

GET = Request("GET", "/v2/serverless")
ONCE = Request("POST", "/v2/serverless", repeatable=False)


@pytest.mark.parametrize(
    "failure",
    [Unavailable("lost"), NotSent("refused"), refusal(429), refusal(502), refusal(503), refusal(504)],
    ids=["lost", "not sent", "429", "502", "503", "504"],
)
def test_a_repeatable_request_is_sent_again_until_it_succeeds(failure: Response | Unavailable) -> None:
    api = ScriptedApi([failure, failure, success([1])])
    assert api.run(call(GET, api.patience())) == [1]
    assert [request.body for request in api.requests] == [None] * 3
    assert api.began[2] > api.began[1] > api.began[0]


@pytest.mark.parametrize("failure", [Unavailable("lost"), refusal(502), refusal(504), refusal(500)])
def test_a_request_that_may_have_had_an_effect_is_not_sent_again(failure: Response | Unavailable) -> None:
    api = ScriptedApi([failure, success(1)])
    with pytest.raises(Unavailable):
        api.run(call(ONCE, api.patience()))
    assert len(api.requests) == 1


@pytest.mark.parametrize("failure", [NotSent("refused"), refusal(429), refusal(503)])
def test_a_request_that_had_no_effect_is_sent_again(failure: Response | Unavailable) -> None:
    api = ScriptedApi([failure, success(1)])
    assert api.run(call(ONCE, api.patience())) == 1


def test_the_pause_is_what_the_api_asks_for() -> None:
    api = ScriptedApi([refusal(429, retry_after=7), success(1)])
    api.run(call(GET, api.patience()))
    assert api.began[1] - api.began[0] == 7


def test_pauses_grow_and_have_a_limit() -> None:
    api = ScriptedApi([Unavailable("lost")] * 12 + [success(1)])
    api.run(call(GET, api.patience()))
    pauses = [later - earlier for earlier, later in zip(api.began, api.began[1:], strict=False)]
    assert pauses[0] <= 0.1
    assert all(2.5 <= pause <= 5 for pause in pauses[7:])


def test_retries_end_with_the_time_limit() -> None:
    api = ScriptedApi([Unavailable("lost")] * 1000)
    with pytest.raises(Unavailable):
        api.run(call(GET, api.patience(20)))
    assert 1010 < api.now <= 1020


def test_a_pause_beyond_the_time_limit_is_not_begun() -> None:
    api = ScriptedApi([refusal(429, retry_after=61), success(1)])
    with pytest.raises(QueueFull) as raised:
        api.run(call(GET, api.patience(60)))
    assert (raised.value.retry_after, api.now) == (61, 1000)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (415, InvalidRequest),
        (500, Unavailable),
    ],
)
def test_a_refusal_has_its_own_error_and_is_final(status: int, kind: type[ApiError]) -> None:
    api = ScriptedApi([refusal(status, "workers: must be ≥ 0", code=10001)])
    with pytest.raises(kind) as raised:
        api.run(call(GET, api.patience()))
    assert (str(raised.value), raised.value.status, raised.value.code) == ("workers: must be ≥ 0", status, 10001)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"[" * 100_000])
def test_a_response_of_another_program_is_an_error(body: bytes) -> None:
    api = ScriptedApi([Response(200, body)])
    with pytest.raises(ApiError, match="HTTP 200 without the envelope of the API"):
        api.run(call(GET, api.patience()))


def test_the_gateway_error_of_a_proxy_is_retried() -> None:
    api = ScriptedApi([Response(502, b"<html>Bad Gateway</html>"), success(1)])
    assert api.run(call(GET, api.patience())) == 1


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_no_id_leads_to_another_path(part: str) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        path_of("7", "tasks", part)
    assert path_of("7", "tasks", "a/b?c") == "/v2/serverless/7/tasks/a%2Fb%3Fc"


def test_a_submission_is_repeated_with_the_same_body() -> None:
    api = ScriptedApi([Unavailable("lost"), success({"taskId": "t1"})])
    body = {"task_id": "t1", "input": {"n": 2**70}, "worker_port": 8000, "process_uri": "/run", "webhook_auth_key": "k"}
    api.run(calls.submit("7", body, api.patience()))
    first, second = (request.body for request in api.requests)
    assert first == second
    assert first is not None
    assert json.loads(first) == {
        "taskId": "t1", "input": {"n": 2**70}, "workerPort": 8000, "processUri": "/run", "webhookAuthKey": "k",
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_an_input_that_is_no_json_is_not_sent(value: object) -> None:
    api = ScriptedApi([])
    with pytest.raises((ValueError, TypeError)):
        api.run(calls.submit("7", {"input": value}, api.patience()))
    assert api.requests == []


def test_an_endpoint_is_found_by_its_name() -> None:
    row = {
        "name": "a",
        "image": "i",
        "status": "RUNNING",
        "totalWorkers": 1,
        "runningWorkers": 1,
        "serviceMode": "QUEUE",
    }
    api = ScriptedApi([success([row | {"id": "6", "name": "b"}, row | {"id": "7"}])])
    assert api.run(calls.endpoint_of("a", api.patience())).id == "7"
    assert api.requests[0].query == {"name": "a"}
    api = ScriptedApi([success([row | {"id": "6"}, row | {"id": "7"}])])
    with pytest.raises(Conflict, match="2 endpoints are named a; use one of the ids 6, 7"):
        api.run(calls.endpoint_of("a", api.patience()))
    api = ScriptedApi([success([])])
    with pytest.raises(NotFound, match="no endpoint is named a"):
        api.run(calls.endpoint_of("a", api.patience()))


RUNNING = success(task(status="PROCESSING", state="running"))


def test_a_wait_is_a_series_of_requests_that_wait() -> None:
    api = ScriptedApi([RUNNING, RUNNING, success(task(output=[1]))], waits=True)
    ended = api.run(calls.wait("7", "t1", None, api.patience(float("inf")), api.patience))
    assert ended.output == [1]
    assert [request.query["wait"] for request in api.requests] == [50, 50, 50]
    assert api.began == [1000, 1050, 1100]
    assert all(request.timeout > 50 for request in api.requests)


def test_a_wait_ends_at_its_timeout_with_the_task_as_it_is() -> None:
    api = ScriptedApi([RUNNING] * 5, waits=True)
    with pytest.raises(WaitTimeout) as raised:
        api.run(calls.wait("7", "t1", 70, api.patience(70), api.patience))
    assert [request.query["wait"] for request in api.requests] == [50, 20]
    assert raised.value.task.state == "running"
    assert isinstance(raised.value, TimeoutError)


def test_an_api_that_does_not_wait_is_asked_ever_less_often() -> None:
    api = ScriptedApi([RUNNING] * 40)
    with pytest.raises(WaitTimeout):
        api.run(calls.wait("7", "t1", 30, api.patience(30), api.patience))
    pauses = [later - earlier for earlier, later in zip(api.began, api.began[1:], strict=False)]
    assert pauses[0] == pytest.approx(0.1)
    assert max(pauses) == 2
    assert len(api.requests) < 25
    assert api.now == pytest.approx(1030)


def test_a_timeout_of_nothing_asks_once() -> None:
    api = ScriptedApi([RUNNING])
    with pytest.raises(WaitTimeout):
        api.run(calls.wait("7", "t1", 0, api.patience(0), api.patience))
    assert len(api.requests) == 1


def test_a_wait_goes_on_after_an_outage() -> None:
    api = ScriptedApi([Unavailable("lost"), refusal(503), success(task(output=1))], waits=True)
    assert api.run(calls.wait("7", "t1", None, api.patience(float("inf")), api.patience)).output == 1


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("failed", TaskFailed),
        ("cancelled", TaskCancelled),
        ("expired", TaskExpired),
        ("timed_out", TaskTimedOut),
        ("dead", WorkerLost),
        ("of a later version", TaskFailed),
    ],
)
def test_a_failed_task_has_the_error_of_its_state(state: str, kind: type[TaskFailed]) -> None:
    info = TaskInfo.model_validate(task(status="FAILED", state=state, error="HTTP 500: boom"))
    with pytest.raises(TaskFailed, match="task t1: HTTP 500: boom") as raised:
        calls.output_of(info)
    assert type(raised.value) is kind
    assert raised.value.task is info


def test_an_unknown_task_of_a_wait_for_many_is_an_error() -> None:
    api = ScriptedApi([success({"ended": [], "pending": ["t1"], "unknown": ["t2"]})])
    with pytest.raises(NotFound, match="task t2"):
        api.run(calls.ended_of("7", ["t1", "t2"], api.patience()))
