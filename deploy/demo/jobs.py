"""What the demo submits, and what must come of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deploy.demo.files import SampleFile
from deploy.demo.receiver import Received, Receiver

WORKER_PORT = 8000
PROCESS_URI = "/identify"


class Ending(Enum):
    """How the delivery of a result ends."""

    DELIVERED = "DELIVERED"
    GIVEN_UP = "GIVEN_UP"


@dataclass(frozen=True)
class Job:
    """One task, the receiver of its result, and what is expected of the delivery."""

    task_id: str
    file: SampleFile
    receiver: Receiver
    ending: Ending = Ending.DELIVERED
    attempts: int = 1
    """Delivery attempts that it takes at least."""

    def body(self) -> dict[str, Any]:
        """What is submitted."""
        return {
            "taskId": self.task_id,
            "input": {"name": self.file.name, "content": base64.b64encode(self.file.content).decode()},
            "workerPort": WORKER_PORT,
            "processUri": PROCESS_URI,
            "webhook": self.receiver.url,
            "webhookAuthKey": self.receiver.auth_key,
        }


@dataclass(frozen=True)
class Done:
    """What became of a job: what the API says of its task, and what its receiver got."""

    job: Job
    task: Mapping[str, Any]
    received: Sequence[Received]
    submitted_at: float
    """Before the request was sent, on the monotonic clock."""

    @property
    def seconds_to_webhook(self) -> float:
        """From the submit to the first webhook, whatever it was answered with."""
        return self.received[0].at - self.submitted_at


def faults_of(done: Done, endpoint_id: str) -> list[str]:
    """What is not as it must be, a sentence each."""
    faults = [*_task_faults(done), *_delivery_faults(done)]
    for received in done.received:
        faults += _event_faults(received, done, endpoint_id)
    return [f"{done.job.task_id} ({done.job.file.name}): {fault}" for fault in faults]


def _task_faults(done: Done) -> list[str]:
    delivered = done.job.ending is Ending.DELIVERED
    expected = {
        "status": "DELIVERED" if delivered else "SUCCESS",
        "deliveryStatus": "SUCCESS" if delivered else "MAX_RETRIES_EXCEEDED",
    }
    faults = [
        f"{name} is {done.task[name]}, not {value}" for name, value in expected.items() if done.task[name] != value
    ]
    if done.task["error"]:
        faults.append(f"error: {done.task['error']}")
    output = done.task["output"]
    if not isinstance(output, dict) or output.get("name") != done.job.file.name:
        faults.append("its output is not that of its file")
    return faults


def _delivery_faults(done: Done) -> list[str]:
    accepted = sum(received.accepted for received in done.received)
    faults = []
    if bool(accepted) != (done.job.ending is Ending.DELIVERED):
        faults.append(f"its receiver has taken {accepted} deliveries")
    for what, count in (("came", len(done.received)), ("are counted", done.task["deliveryAttempts"])):
        if count < done.job.attempts:
            faults.append(f"{count} delivery attempts {what}, not {done.job.attempts}")
    if len({received.webhook_id for received in done.received}) > 1:
        faults.append("its delivery attempts differ in their webhook-id")
    if any(received.receiver != done.job.receiver.name for received in done.received):
        faults.append("its result came to a stranger")
    return faults


def _event_faults(received: Received, done: Done, endpoint_id: str) -> list[str]:
    event = received.event
    expected = {"status": "Success", "success": True, "endpoint_id": endpoint_id, "result": done.task["output"]}
    return [f"its webhook's {name} is not what the API says" for name in expected if event.get(name) != expected[name]]
