"""The demo's own checks find what is wrong, and its figures are right."""

import math
from dataclasses import replace
from typing import Any

import pytest

from deploy.demo.files import SampleFile
from deploy.demo.jobs import Done, Ending, Job, faults_of
from deploy.demo.receiver import Inbox, Received, Receiver
from deploy.demo.report import by_type, percentile

SECRET = "whsec_" + "QUJD" * 8
OUTPUT = {"name": "a/b.py", "type": "python", "group": "code", "mime": "text/x-python", "score": 0.9}
TASK = {
    "status": "DELIVERED",
    "deliveryStatus": "SUCCESS",
    "deliveryAttempts": 1,
    "error": None,
    "output": OUTPUT,
    "durationMs": 7,
}
EVENT = {"user_task_id": "demo_1", "endpoint_id": "7", "status": "Success", "success": True, "result": OUTPUT}


async def job(**changes: Any) -> Job:
    return replace(Job("demo_1", SampleFile("a/b.py", b"import os"), Receiver("accepts", SECRET, Inbox())), **changes)


def received(status: int = 200, *, message: str = "msg_1", receiver: str = "accepts", **event: Any) -> Received:
    return Received(receiver, message, EVENT | event, status, 2.5)


async def test_a_task_that_is_as_it_must_be_has_no_fault() -> None:
    assert faults_of(Done(await job(), TASK, [received()], 1.0), "7") == []


async def test_a_delivery_that_came_twice_is_no_fault() -> None:
    task = TASK | {"deliveryAttempts": 2}
    assert faults_of(Done(await job(), task, [received(500), received(), received()], 1.0), "7") == []


async def test_a_result_that_is_given_up_is_no_fault_when_that_is_expected() -> None:
    task = TASK | {"status": "SUCCESS", "deliveryStatus": "MAX_RETRIES_EXCEEDED", "deliveryAttempts": 2}
    given_up = await job(ending=Ending.GIVEN_UP, attempts=2)
    assert faults_of(Done(given_up, task, [received(500), received(500)], 1.0), "7") == []
    taken = faults_of(Done(given_up, task, [received(500), received(200)], 1.0), "7")
    assert taken == ["demo_1 (a/b.py): its receiver has taken 1 deliveries"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": "SUCCESS"}, "status is SUCCESS, not DELIVERED"),
        ({"deliveryStatus": "FAILED"}, "deliveryStatus is FAILED, not SUCCESS"),
        ({"deliveryAttempts": 0}, "0 delivery attempts are counted, not 1"),
        ({"error": "it broke"}, "error: it broke"),
        ({"output": None}, "its output is not that of its file"),
        ({"output": OUTPUT | {"name": "c.py"}}, "its output is not that of its file"),
        ({"output": OUTPUT | {"score": 0.8}}, "its webhook's result is not what the API says"),
    ],
)
async def test_what_the_api_says_is_checked(changes: dict[str, Any], fault: str) -> None:
    faults = faults_of(Done(await job(), TASK | changes, [received()], 1.0), "7")
    assert f"demo_1 (a/b.py): {fault}" in faults


@pytest.mark.parametrize(
    ("attempts", "fault"),
    [
        ([], "its receiver has taken 0 deliveries"),
        ([received(500)], "its receiver has taken 0 deliveries"),
        ([received(500), received(message="msg_2")], "its delivery attempts differ in their webhook-id"),
        ([received(receiver="fails twice")], "its result came to a stranger"),
        ([received(success=False)], "its webhook's success is not what the API says"),
        ([received(endpoint_id="8")], "its webhook's endpoint_id is not what the API says"),
        ([received(result=OUTPUT | {"type": "c"})], "its webhook's result is not what the API says"),
    ],
)
async def test_what_the_receiver_got_is_checked(attempts: list[Received], fault: str) -> None:
    assert f"demo_1 (a/b.py): {fault}" in faults_of(Done(await job(), TASK, attempts, 1.0), "7")


async def test_types_are_summed_up_most_files_first() -> None:
    def done(kind: str, score: float, run_ms: int, one: Job) -> Done:
        return Done(one, TASK | {"output": OUTPUT | {"type": kind, "score": score}, "durationMs": run_ms}, [], 1.0)

    one = await job()
    results = [done("c", 0.5, 9, one), done("python", 1.0, 1, one), done("python", 0.5, 2, one), done("b", 0.1, 3, one)]
    summaries = by_type(results)
    assert [(each.type, each.files) for each in summaries] == [("python", 2), ("b", 1), ("c", 1)]
    assert math.isclose(summaries[0].mean_score, 0.75)
    assert summaries[0].median_run_ms == 1


async def test_the_time_to_the_webhook_ends_with_the_first_attempt() -> None:
    later = Received("accepts", "msg_1", EVENT, 200, 9.0)
    assert Done(await job(), TASK, [received(500), later], 1.0).seconds_to_webhook == 1.5


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 50, 3.0), ([3.0], 99, 3.0), ([4, 1, 3, 2], 50, 2), (range(1, 101), 99, 99), (range(1, 121), 99, 119)],
)
def test_percentiles_are_values_that_occurred(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_of_no_values_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
