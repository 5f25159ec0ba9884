"""The bookkeeping of `map`, without I/O: which input is submitted next, which results are yielded next."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from queue_engine.client.batches import MAX_BYTES, MAX_LINES
from queue_engine.client.calls import MAX_TOGETHER, new_task_id
from queue_engine.client.errors import TaskFailed, task_failure
from queue_engine.client.models import TaskInfo

DEFAULT_WINDOW = 256
"""Tasks that are under way at the same time."""
MAX_WINDOW = 10_000
GROUP_SECONDS = 0.05
"""Time after which inputs that were read are submitted, although more would fit into the request."""
INTERRUPTED = "submitted tasks go on; with a batch_id, the same call continues"
BATCH_ID = r"[A-Za-z0-9_]{1,64}"


@dataclass(frozen=True)
class MapItem:
    """The result of one input of `map`."""

    index: int
    """Place of the input, from 0."""
    input: Any
    task_id: str
    output: Any = None
    error: TaskFailed | None = None
    """None if the task has succeeded."""

    def result(self) -> Any:
        """Return the output. Raises TaskFailed if there is none."""
        if self.error is not None:
            raise self.error
        return self.output


@dataclass(frozen=True)
class Pending:
    """An input whose task has not ended."""

    index: int
    input: Any
    task_id: str


def check_batch_id(batch_id: str | None) -> None:
    """Raise ValueError for a text that is no batch id."""
    if batch_id is not None and re.fullmatch(BATCH_ID, batch_id) is None:
        raise ValueError("batch_id: must be 1–64 of [A-Za-z0-9_]")


def task_id_at(index: int, batch_id: str | None) -> str:
    """Return the id of the task for the input at this place, from 0."""
    return new_task_id() if batch_id is None else f"{batch_id}_{index + 1}"


class TaskMap:
    """The tasks of a `map`. At most `window` inputs are submitted and not yet yielded."""

    def __init__(
        self,
        inputs: Iterable[Any],
        *,
        window: int,
        ordered: bool,
        batch_id: str | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"window: must be 1–{MAX_WINDOW}")
        check_batch_id(batch_id)
        self._monotonic = monotonic
        self._inputs = enumerate(inputs)
        self._window = window
        self._ordered = ordered
        self._batch_id = batch_id
        self._pending: dict[str, Pending] = {}
        self._ready: dict[int, MapItem] = {}
        self._yielded = 0
        self._exhausted = False

    def take(self) -> Pending | None:
        """Return the next input to submit; None if the window is full or there is no further input."""
        if self._exhausted or len(self._pending) + len(self._ready) >= self._window:
            return None
        try:
            index, value = next(self._inputs)
        except StopIteration:
            self._exhausted = True
            return None
        task_id = task_id_at(index, self._batch_id)
        pending = self._pending[task_id] = Pending(index, value, task_id)
        return pending

    def take_group(self, line_of: Callable[[Any, str], bytes]) -> list[bytes]:
        """Return the lines of the next inputs to submit together; none if the window is full or all were taken.

        Inputs that come slowly do not wait for each other: a group ends after GROUP_SECONDS.
        """
        lines: list[bytes] = []
        size, until = 0, self._monotonic() + GROUP_SECONDS
        while len(lines) < MAX_LINES and size < MAX_BYTES and (pending := self.take()) is not None:
            line = line_of(pending.input, pending.task_id)
            lines.append(line)
            size += len(line)
            if self._monotonic() >= until:
                break
        return lines

    def waiting(self) -> list[str]:
        """Return ids of tasks under way, at most as many as one request waits for."""
        return list(islice(self._pending, MAX_TOGETHER))

    def note_all(self, ended: Iterable[TaskInfo], *, asked: Sequence[str]) -> None:
        """Note the tasks that have ended of those that were waited for.

        If none has ended, they go behind the others, because only a part of a large window is waited for at a time.
        """
        found = list(ended)
        for task in found:
            self._note(task)
        if not found:
            for task_id in asked:
                self._pending[task_id] = self._pending.pop(task_id)

    def _note(self, task: TaskInfo) -> None:
        pending = self._pending.pop(task.task_id)
        error = None if task.has_succeeded else task_failure(task)
        self._ready[pending.index] = MapItem(pending.index, pending.input, pending.task_id, task.output, error)

    def results(self) -> list[MapItem]:
        """Return the results that can be yielded now, and forget them."""
        if not self._ordered:
            found = list(self._ready.values())
            self._ready.clear()
        else:
            found = []
            while (item := self._ready.pop(self._yielded + len(found), None)) is not None:
                found.append(item)
        self._yielded += len(found)
        return found

    @property
    def is_done(self) -> bool:
        return self._exhausted and not self._pending and not self._ready
