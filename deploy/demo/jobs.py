"""A task of the demo: its submission, its result, and the check of the result."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from deploy.demo.files import SampleFile
from deploy.demo.receiver import Received, Receiver

WORKER_PORT = 8000


@dataclass
class Job:
    """A task, the receiver of its result, and what is expected of the delivery."""

    task_id: str
    file: SampleFile
    receiver: Receiver
    attempts: int = 1
    """Delivery attempts that it takes at least."""
    delivered: bool = True
    """False where the delivery must be given up."""
    submitted_at: float = 0.0
    """Before the request was sent (monotonic)."""
    task: dict[str, Any] = field(default_factory=dict)
    """The task as the API shows it at the end."""
    received: list[Received] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """Return the request that submits it."""
        return {
            "taskId": self.task_id,
            "input": {"name": self.file.name, "content": base64.b64encode(self.file.content).decode()},
            "workerPort": WORKER_PORT,
            "processUri": "/identify",
            "webhook": self.receiver.url,
            "webhookAuthKey": self.receiver.auth_key,
        }

    @property
    def total_ms(self) -> int:
        """The time from the submit to the first webhook, whatever its response was."""
        return round((self.received[0].at - self.submitted_at) * 1000)

    def row(self) -> dict[str, Any]:
        """Return what the tables at the end show of it."""
        return {
            **self.task,
            **self.task["output"],
            "queuedMs": self.task["startedAt"] - self.task["createdAt"],
            "totalMs": self.total_ms,
            "receiver": self.receiver.name,
            "responses": ", ".join(str(one.status) for one in self.received),
        }


def faults_of(job: Job, endpoint_id: str) -> list[str]:
    """Return what is not as it must be, a sentence each: in the API's task, and in what receivers got of it."""
    task, received, output = job.task, job.received, job.task["output"]
    accepted = sum(one.status == 200 for one in received)
    status, delivery = ("DELIVERED", "SUCCESS") if job.delivered else ("SUCCESS", "MAX_RETRIES_EXCEEDED")
    checks = {
        f"status is {task['status']}, not {status}": task["status"] == status,
        f"deliveryStatus is {task['deliveryStatus']}, not {delivery}": task["deliveryStatus"] == delivery,
        f"error: {task['error']}": not task["error"],
        "its output is not that of its file": isinstance(output, dict) and output.get("name") == job.file.name,
        f"its receiver has taken {accepted} deliveries": bool(accepted) == job.delivered,
        "its delivery attempts differ in their webhook-id": len({one.webhook_id for one in received}) < 2,
        "its result came to a stranger": all(one.receiver == job.receiver.name for one in received),
    }
    for what, count in (("came", len(received)), ("are counted", task["deliveryAttempts"])):
        checks[f"{count} delivery attempts {what}, not {job.attempts}"] = count >= job.attempts
    event = {"status": "Success", "success": True, "endpoint_id": endpoint_id, "result": output}
    for name, value in event.items():
        checks[f"its webhook's {name} is not what the API says"] = all(one.event.get(name) == value for one in received)
    return [f"{job.task_id} ({job.file.name}): {fault}" for fault, right in checks.items() if not right]
