"""A scripted API for tests of the command line, and a way to run a command against it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from typing import Any

import httpx
from typer.testing import CliRunner, Result

from queue_engine.cli.command import Surroundings
from queue_engine.cli.main import app

NOW_MS = 1_764_000_000_000
"""2025-11-24T16:00:00Z"""
ZONE = timezone(timedelta(hours=1))
KEY = "a-key-of-tests"

Answer = Any
"""The `data` of an answer, a whole response, an exception, or a function of the request that gives one of them."""


@dataclass
class FakeApi:
    """Answers by `METHOD /path`; a list is used up from its front, its last answer again and again."""

    answers: Mapping[str, Answer]
    requests: list[httpx.Request] = field(default_factory=list)
    time: float = NOW_MS / 1000
    pauses: list[float] = field(default_factory=list)
    before_pause: Callable[[], None] = lambda: None

    def run(self, *arguments: str, terminal: bool = False, width: int = 80, **more: Any) -> Result:
        around = Surroundings(
            transport=httpx.MockTransport(self._answer),
            now=lambda: self.time,
            monotonic=lambda: self.time,
            pause=self._pause,
            zone=ZONE,
            terminal=terminal,
            width=width,
        )
        environment = {"QUEUE_ENGINE_API_KEY": KEY, "QUEUE_ENGINE_URL": None, "TERM": "xterm", "COLUMNS": "200"}
        given = {"env": environment | more.pop("env", {}), **more}
        return CliRunner().invoke(app, list(arguments), obj=around, **given)

    @property
    def calls(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def body(self, index: int = -1) -> Any:
        return json.loads(self.requests[index].content)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers[f"{request.method} {request.url.path}"]
        if isinstance(answer, Script):
            answer = answer.next()
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, httpx.Response) else success(answer)

    def _pause(self, seconds: float) -> None:
        self.before_pause()
        self.pauses.append(seconds)
        self.time += seconds


class Script:
    """One answer after the other; the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def next(self) -> Answer:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def success(data: Any) -> httpx.Response:
    return raw(json.dumps(data).encode())


def raw(data: bytes) -> httpx.Response:
    """A successful answer whose `data` is this JSON text."""
    return httpx.Response(200, content=b'{"message": "success", "code": 10000, "data": ' + data + b"}")


def failure(status: int, message: str, **headers: str) -> httpx.Response:
    body = {"message": message, "code": 10001, "data": None}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


def endpoint(**changes: Any) -> dict[str, Any]:
    return {
        "id": "7", "name": "echo", "status": "RUNNING", "totalWorkers": 2, "runningWorkers": 1, "serviceMode": "QUEUE",
        "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}], "containerVolumeInGb": 20,
        "expose": {"port": 8000, "protocol": "HTTP"}, "webhook": None, "createdAt": NOW_MS - 3_600_000,
        "updatedAt": NOW_MS, "queuedTasks": 3, "runningTasks": 1,
    } | changes  # fmt: skip


def task(**changes: Any) -> dict[str, Any]:
    return {
        "taskId": "t1", "endpointId": 7, "endpointName": "echo", "status": "SUCCESS", "state": "succeeded",
        "webhook": None, "deliveryStatus": "INIT", "deliveryAttempts": 0, "error": None, "attempts": 1,
        "createdAt": NOW_MS - 90_000, "startedAt": NOW_MS - 80_000, "finishedAt": NOW_MS, "durationMs": 80_000,
        "deliveredAt": None,
    } | changes  # fmt: skip
