"""An API that is a list of responses, and a clock that moves only while a client pauses."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from queue_engine.client.errors import Unavailable
from queue_engine.client.exchange import Flow, Patience, Request, Response

T = TypeVar("T")


def success(data: Any) -> Response:
    return Response(200, json.dumps({"message": "success", "code": 10000, "data": data}).encode())


def batch_body(*items: Mapping[str, Any], **last: Any) -> bytes:
    """The body of a response to a batch. `last` are members of its last line."""
    done = {"code": 10000, "message": "success"}
    rows = [{"index": index, **done, **item} for index, item in enumerate(items)]
    results = [row["result"] for row in rows]
    sums = {name: results.count(name) for name in ("accepted", "duplicate", "rejected")}
    return b"".join(json.dumps(row).encode() + b"\n" for row in (*rows, {"done": True, **sums, **last}))


def refusal(status: int, message: str = "refused", *, code: int = 1, retry_after: float | None = None) -> Response:
    body = json.dumps({"message": message, "code": code, "data": None}).encode()
    return Response(status, body, retry_after)


def task(task_id: str = "t1", status: str = "SUCCESS", state: str = "succeeded", **members: Any) -> dict[str, Any]:
    return {"taskId": task_id, "endpointId": 7, "status": status, "state": state, "createdAt": 1, **members}


@dataclass
class ScriptedApi:
    """Sends the responses in order; an exception among them is a request without a response.

    A response takes as long as the request waits in the API only with `waits`.
    """

    responses: Iterable[Response | Unavailable]
    waits: bool = False
    now: float = 1000.0
    requests: list[Request] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    """Time of each request."""

    def __post_init__(self) -> None:
        self._left = deque(self.responses)

    def patience(self, seconds: float = 60.0) -> Patience:
        return Patience.of(seconds, lambda: self.now)

    def run(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                self.now += request.after
                self.requests.append(request)
                self.began.append(self.now)
                if self.waits:
                    self.now += float(request.query.get("wait", 0))
                response = self._left.popleft()
                request = flow.throw(response) if isinstance(response, Unavailable) else flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result
