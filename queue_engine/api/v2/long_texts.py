"""Send inputs and outputs that are too long to be held as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from queue_engine.api.http.errors import ResponseCutOff
from queue_engine.api.http.responses import Headers, Part, Response, success_with_texts
from queue_engine.api.v2.task_views import task_detail_view
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import LongText, Task
from queue_engine.domain.waiting import Waiting


def detail_response(
    task: Task, endpoint: Endpoint, waiting: Waiting | None, *, hidden: bool, headers: Headers = ()
) -> Response:
    """Return a response with the detail of a task, which has its input and output if they were read."""
    view = task_detail_view(task, endpoint, waiting, hidden=hidden)
    return success_with_texts(view, sent_texts(task, hidden=hidden), headers)


def sent_texts(task: Task, *, hidden: bool = False) -> dict[str, Part | None]:
    """Return the members of a response that are the task's input and output: null if `hidden`, none if not read."""
    if task.input is None and task.long is None:
        return {}
    if hidden:
        return {"input": None, "output": None}
    if task.long is None:
        return {"input": task.input, "output": task.output}
    output = task.long.output
    return {"input": _SentText(task.long.input), "output": None if output is None else _SentText(output)}


@dataclass(frozen=True)
class _SentText:
    """A long text as a part of a response.

    If the text no longer exists, or the store is unavailable, the response is cut off: the client sees that it is
    shorter than it should be.
    """

    text: LongText

    def __len__(self) -> int:
        return self.text.size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = 0
        while sent < self.text.size:
            try:
                part = await self.text.read(sent)
            except StoreUnavailable as error:
                raise ResponseCutOff from error
            if not part:
                raise ResponseCutOff
            sent += len(part)
            yield part
