"""The described bodies and headers of webhooks are those that are sent."""

import json
from typing import Any

import pytest

from queue_engine.api.public.webhooks import TaskResultEvent, WorkerStatusEvent, describe_webhooks
from queue_engine.crypto.signing import new_secret
from queue_engine.delivery.service import _request
from queue_engine.domain.deliveries import Delivery, TaskResult, WorkerEvent, task_result_body, worker_event_body

SECRET = new_secret(bytes(32))
AT_MS = 1_767_225_600_000


def result(**changed: Any) -> TaskResult:
    return TaskResult(**{
        "task_number": 1, "task_id": "t", "endpoint_id": "7", "succeeded": True, "finished_at_ms": AT_MS, **changed
    })  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "members"),
    [
        (result(output=b'{"x": 1.0}'), {"result"}),
        (result(truncated=True), {"result_truncated"}),
        (result(succeeded=False, error="why"), {"failed_reason"}),
        (result(output=b"1", metadata={"order": "7"}), {"result", "metadata"}),
    ],
)
def test_a_task_result_has_the_described_members_and_no_others(ended: TaskResult, members: set[str]) -> None:
    sent = json.loads(task_result_body(ended, retry_count=2))
    described = TaskResultEvent.model_json_schema()
    assert sent.keys() == {*described["required"], *members}
    assert sent.keys() <= described["properties"].keys()
    TaskResultEvent.model_validate(sent, strict=True)


@pytest.mark.parametrize("previous", [None, "INITIALIZING"])
def test_a_worker_event_has_the_described_members_and_no_others(previous: str | None) -> None:
    sent = json.loads(worker_event_body(WorkerEvent("7", "7-1", "RUNNING", previous, "it is ready", AT_MS)))
    described = WorkerStatusEvent.model_json_schema()
    assert sent.keys() == set(described["required"]) == described["properties"].keys()
    WorkerStatusEvent.model_validate_json(json.dumps(sent), strict=True)


@pytest.mark.parametrize(("auth_key", "absent"), [("sesame", set()), (None, {"X-API-Key"})])
def test_a_webhook_has_the_described_headers(auth_key: str | None, absent: set[str]) -> None:
    delivery = Delivery("d", "1-0", "msg_1", 0, AT_MS, "https://hooks.example/", auth_key, (SECRET,), b"{}")
    sent = _request(delivery, AT_MS // 1000, "acme").headers
    for event in describe_webhooks().values():
        described = {header["name"]: header["required"] for header in event["post"]["parameters"]}
        assert sent.keys() | absent == {"Content-Type", *described}
        assert not any(described[name] for name in absent)
